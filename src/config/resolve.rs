//! The tree -> [`Config`]: defaults, and every rule between keys. Pure.

use super::error::Fault;
use super::interpolate::Surroundings;
use super::raw::{Kind, Node};
use super::section::{self, Section, is_name, text};
use super::settings::{Config, Limits, MaxDeletes, OnSlotLoss, Publish, Source, Tenant};
use super::units::{parse_duration, parse_percent, parse_size};
use super::users;
use crate::map::Rules;
use crate::model::{Deletes, TenantId, TenantKey};
use crate::pg::PgUrl;
use std::time::Duration;

const SIZE: &str = "a size: 16MB, 1GB, or plain bytes";
const DURATION: &str = "a duration: 500ms, 5s, 10m, 2h, 30d";

/// Resolves the whole file.
pub(super) fn resolve(root: &Node, from: &Surroundings<'_>) -> Result<Config, Fault> {
    let top = Section::of(root, &section::TOP, from)?;
    let source = source(top.required("source", "source.url says where the auth database is")?, from)?;
    let state_url = match top.node("state") {
        Some(node) => {
            let state = Section::of(node, &section::STATE, from)?;
            url(state.required("url", "leave `state` out to keep the state in the source")?, "state.url", from)?
        }
        None => source.url.clone(),
    };
    let users_node = top.required("users", "users.table and users.id say who the users are")?;
    let families = users::families(users_node, from)?;
    let users = families.first().map(|family| family.rules.clone());
    let users = users.ok_or_else(|| Fault::new(&users_node.span, "the preset has no family of tables"))?;
    if source.publish == Publish::Columns && users.allow.is_none() && users.query.is_none() {
        let fault = Fault::new(&users_node.span, "source.publish is columns, but users.allow is missing");
        return Err(fault.help("a publication of columns cannot follow new ones: list those that leave"));
    }
    let tenants = tenants(top.required("tenants", "each tenant has an id and a target")?, &users, from)?;
    Ok(Config {
        state_url,
        tenants,
        deletes: deletes(top.node("deletes"), from)?,
        limits: limits(top.node("limits"), from)?,
        on_slot_loss: top.parsed(
            "on_slot_loss",
            OnSlotLoss::Resync,
            |text| match text {
                "resync" => Some(OnSlotLoss::Resync),
                "stop" => Some(OnSlotLoss::Stop),
                _ => None,
            },
            "resync or stop",
        )?,
        source,
        users,
        families,
    })
}

fn source(node: &Node, from: &Surroundings<'_>) -> Result<Source, Fault> {
    let source = Section::of(node, &section::SOURCE, from)?;
    let publish = source.parsed(
        "publish",
        Publish::Rows,
        |text| match text {
            "rows" => Some(Publish::Rows),
            "columns" => Some(Publish::Columns),
            _ => None,
        },
        "rows or columns",
    )?;
    let default = || "users_sync".to_owned();
    let is_slot = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    Ok(Source {
        url: url(source.required("url", "for example url: ${AUTH_DATABASE_URL}")?, "source.url", from)?,
        slot: source.parsed(
            "slot",
            default(),
            |name| (is_name(name) && is_slot(name)).then(|| name.to_owned()),
            "lower-case letters, digits and underscores, at most 63",
        )?,
        publication: source.parsed(
            "publication",
            default(),
            |name| is_name(name).then(|| name.to_owned()),
            "a name of at most 63 bytes",
        )?,
        publish,
    })
}

fn url(node: &Node, path: &str, from: &Surroundings<'_>) -> Result<PgUrl, Fault> {
    let text = text(node, path, from)?;
    if text.trim().is_empty() {
        return Err(Fault::new(&node.span, format!("{path} is empty")).help("postgres://user:password@host/database"));
    }
    PgUrl::parse(&text).map_err(|error| {
        Fault::new(&node.span, format!("{path} is not a usable URL: {error}"))
            .help("postgres://user:password@host:5432/database?sslmode=verify-full")
    })
}

fn tenants(node: &Node, users: &Rules, from: &Surroundings<'_>) -> Result<Vec<Tenant>, Fault> {
    let items = match &node.kind {
        Kind::List(items) if !items.is_empty() => items,
        _ => {
            let fault = Fault::new(&node.span, "tenants has to be a list of at least one tenant");
            return Err(fault.help("tenants: [{id: acme, target: \"${ACME_DATABASE_URL}\"}]"));
        }
    };
    let mut tenants: Vec<Tenant> = Vec::with_capacity(items.len());
    for item in items {
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
        let tenant = Tenant { id: TenantId::new(&id), key: TenantKey::new(&key), target };
        for other in &tenants {
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
        tenants.push(tenant);
    }
    match (&users.tenant, items.get(1)) {
        (None, Some(second)) => Err(Fault::new(&second.span, "several tenants, but users.tenant is missing")
            .help("users.tenant names the column that says to which tenant a user belongs")),
        _ => Ok(tenants),
    }
}

fn is_same_database(a: &PgUrl, b: &PgUrl) -> bool {
    a.host.eq_ignore_ascii_case(&b.host) && a.port == b.port && a.database == b.database
}

fn deletes(node: Option<&Node>, from: &Surroundings<'_>) -> Result<Deletes, Fault> {
    let Some(node) = node else { return Ok(Deletes::Soft) };
    let mode = match &node.kind {
        Kind::Section(_) => Section::of(node, &section::DELETES, from)?.required("mode", "soft or hard")?,
        _ => node,
    };
    match &*text(mode, "deletes", from)? {
        "soft" => Ok(Deletes::Soft),
        "hard" => Ok(Deletes::Hard),
        _ => Err(Fault::new(&mode.span, "deletes has no such value").help("it takes soft or hard")),
    }
}

fn limits(node: Option<&Node>, from: &Surroundings<'_>) -> Result<Limits, Fault> {
    let absent = Node { kind: Kind::Null, span: 0..0 };
    let limits = Section::of(node.unwrap_or(&absent), &section::LIMITS, from)?;
    let bytes = |text: &str| parse_size(text).and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
    Ok(Limits {
        source_wal: limits.parsed("source_wal", 1 << 30, |text| parse_size(text).filter(|size| *size > 0), SIZE)?,
        memory: limits.parsed("memory", 256 << 20, bytes, SIZE)?,
        tenant_memory: limits.parsed("tenant_memory", 16 << 20, bytes, SIZE)?,
        park_after: limits.parsed("park_after", Duration::from_secs(600), parse_duration, DURATION)?,
        stall: limits.parsed("stall", Duration::from_secs(5), parse_duration, DURATION)?,
        max_deletes: limits.parsed(
            "max_deletes",
            MaxDeletes { percent: 10.0 },
            |text| parse_percent(text).map(|percent| MaxDeletes { percent }),
            "a share: 10%",
        )?,
    })
}
