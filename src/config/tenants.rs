//! The tenants of the file, and of the files that it includes. Pure.

use super::error::Fault;
use super::interpolate::Env;
use super::raw::{Kind, Node};
use super::section::{self, Section, text, url};
use super::settings::{Config, Tenant};
use super::units::{DURATION, parse_duration};
use crate::map::Rules;
use crate::model::{TenantId, TenantKey};
use crate::pg::PgUrl;
use std::time::Duration;

/// Adds the tenants of an included file.
pub(super) fn include(config: &mut Config, root: &Node, from: &Env<'_>) -> Result<(), Fault> {
    let file = Section::of(root, &section::INCLUDED, from)?;
    let node = file.required("tenants", "an included file holds a list of tenants")?;
    add_tenants(&mut config.tenants, node, &config.users, config.wake_after, from)
}

/// Adds the tenants of a list to those of other files. Ids, keys and targets stay unique.
pub(super) fn add_tenants(
    tenants: &mut Vec<Tenant>,
    node: &Node,
    users: &Rules,
    wake_after: Option<Duration>,
    from: &Env<'_>,
) -> Result<(), Fault> {
    let items = match &node.kind {
        Kind::List(items) if !items.is_empty() => items,
        _ => {
            let fault = Fault::new(&node.span, "tenants has to be a list of at least one tenant");
            return Err(fault.help("tenants: [{id: acme, target: \"${ACME_DATABASE_URL}\"}]"));
        }
    };
    for item in items {
        let tenant = tenant(tenants, item, wake_after, from)?;
        tenants.push(tenant);
        if users.tenant.is_none() && tenants.len() > 1 {
            return Err(Fault::new(&item.span, "several tenants, but users.tenant is missing")
                .help("users.tenant names the column that says to which tenant a user belongs"));
        }
    }
    Ok(())
}

fn tenant(others: &[Tenant], item: &Node, wake_after: Option<Duration>, from: &Env<'_>) -> Result<Tenant, Fault> {
    let section = Section::of(item, &section::TENANT, from)?;
    let id_node = section.required("id", "the name by which people know the tenant")?;
    let id = text(id_node, "tenants.id", from)?;
    if id.is_empty() {
        return Err(Fault::new(&id_node.span, "tenants.id is empty"));
    }
    let key = section.text("key")?.unwrap_or_else(|| id.clone());
    let target_node = section.required("target", "the URL of the tenant's database")?;
    // Named by its id, so that the message alone says which one.
    let target = url(target_node, &format!("the target of tenant {id}"), from)?;
    let wake_after = section.parsed("wake_after", wake_after, |text| parse_duration(text).map(Some), DURATION)?;
    let tenant = Tenant { id: TenantId::new(&id), key: TenantKey::new(&key), target, wake_after };
    for other in others {
        if other.id == tenant.id {
            return Err(Fault::new(&id_node.span, format!("two tenants have the id {id}")));
        }
        if other.key == tenant.key {
            let message = format!("tenants {} and {id} have the same key", other.id);
            return Err(Fault::new(&section.node("key").unwrap_or(id_node).span, message)
                .help("a user belongs to one tenant: each key may stand once"));
        }
        if is_same_database(&other.target, &tenant.target) {
            let message = format!("tenants {} and {id} have the same target, {}", other.id, tenant.target);
            return Err(Fault::new(&target_node.span, message).help("each tenant needs a database of its own"));
        }
    }
    Ok(tenant)
}

fn is_same_database(a: &PgUrl, b: &PgUrl) -> bool {
    a.host.eq_ignore_ascii_case(&b.host) && a.port == b.port && a.database == b.database
}
