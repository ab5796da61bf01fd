//! The tenants of the file, and of the files that it includes. Pure.

use super::error::Fault;
use super::key_types::{CommandWords, Derived, DurationText, TenantKeyText, TenantName, Url};
use super::mapping::Family;
use super::section::{KeyType, Nested, Reader, section};
use super::yaml::{Kind, Node};
use crate::map::Rules;
use crate::model::{TableName, TenantId, TenantKey, printable_line};
use crate::pg::{PasswordCommand, PgUrl};
use std::net::IpAddr;
use std::time::Duration;

section! {
    /// One tenant and its target database.
    ///
    /// ```yaml
    /// tenants:
    ///   - id: acme
    ///     target: ${ACME_DATABASE_URL}
    ///   - id: globex
    ///     key: 7b1d
    ///     target: postgres://users_sync:${file:/run/secrets/globex}@db.globex.example/app?sslmode=verify-full
    ///     wake_after: 5m
    /// ```
    pub struct Tenant {
        /// Name of the tenant in logs, commands and metrics. It must be unique.
        pub id: TenantId as TenantName,
        /// Value of the tenant column (`users.tenant`) for this tenant. It must be unique and defaults to the `id`.
        pub key: TenantKey as Derived<TenantKeyText>,
        /// Connection URL of the tenant's database, in the format of `source.url`. Each tenant needs a database of its own. It
        /// may be the source's, unless users are read from `neon_auth.users_sync` there.
        pub target: PgUrl as Url,
        /// Overrides `targets.password_command` for this tenant.
        pub password_command: Option<PasswordCommand> as Option<CommandWords>,
        /// Overrides the top-level `wake_after` for this tenant.
        pub wake_after: Option<Duration> as Option<DurationText>,
    }
}

section! {
    /// An included file.
    pub(super) struct Included {
        /// Tenants and their target databases.
        pub(super) tenants: Vec<Tenant> as Tenants,
    }
}

/// A list of tenants with unique ids, keys and targets.
pub(super) struct Tenants;

impl KeyType for Tenants {
    type Value = Vec<Tenant>;
    type Schema = Vec<Tenant>;

    fn expected() -> String {
        "a list of sections".to_owned()
    }

    fn nested() -> Option<Nested> {
        Vec::<Tenant>::nested()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Vec<Tenant>> {
        let items = match &node.kind {
            Kind::List(items) if !items.is_empty() => items,
            _ => {
                let fault = Fault::new(&node.span, format!("{path} must be a list of at least one tenant"));
                reader.push(fault.help("tenants: [{id: acme, target: \"${ACME_DATABASE_URL}\"}]"));
                return None;
            }
        };
        let mut tenants = Vec::new();
        for item in items {
            let Some(mut tenant) = Tenant::read(item, &path_of(item, path), reader) else { continue };
            if item.get("key").is_none() {
                tenant.key = TenantKey::new(tenant.id.as_str());
            }
            check_unique(&tenants, items, &tenant, item, reader);
            tenants.push(tenant);
        }
        (tenants.len() == items.len()).then_some(tenants)
    }
}

/// `tenants[acme]`: a message names the tenant.
fn path_of(item: &Node, path: &str) -> String {
    match item.get("id").map(|id| &id.kind) {
        Some(Kind::Scalar(id)) => format!("{path}[{}]", printable_line(id)),
        _ => path.to_owned(),
    }
}

/// Reports an id, key or target that another tenant has. `places` are the nodes of the others that are in the same file.
pub(super) fn check_unique(others: &[Tenant], places: &[Node], tenant: &Tenant, item: &Node, reader: &mut Reader<'_>) {
    let id = &tenant.id;
    for other in others {
        if other.id == *id {
            let fault = Fault::new(item.span_of("id"), format!("two tenants have the id {id}"));
            let has_id = |place: &&Node| {
                let name = place.get("id").map(|id| &id.kind);
                place.span != item.span && matches!(name, Some(Kind::Scalar(text)) if text == id.as_str())
            };
            let first = places.iter().find(has_id);
            reader.push(match first {
                Some(first) => fault.first_at(first.span_of("id")),
                None => fault.help("another file has the first one"),
            });
        } else if other.key == tenant.key {
            let span = item.get("key").map_or(item.span_of("id"), |key| &key.span);
            let fault = Fault::new(span, format!("tenants {} and {id} have the same key", other.id));
            reader.push(fault.help("a user belongs to one tenant, so each key must be unique"));
        } else if is_same_database(&other.target, &tenant.target) {
            let message = format!("tenants {} and {id} have the same target, {}", other.id, tenant.target);
            reader.push(Fault::new(item.span_of("target"), message).help("each tenant needs a database of its own"));
        }
    }
}

/// Reports a target whose `neon_auth.users_sync` is a table that is read: each write would be a change to replicate. Any
/// other table of the source's database may be read beside a target there.
pub(super) fn check_not_read(
    source: &PgUrl,
    families: &[Family],
    tenant: &Tenant,
    item: &Node,
    reader: &mut Reader<'_>,
) {
    if !is_same_database(source, &tenant.target) {
        return;
    }
    let written = |table: &TableName| table.schema == "neon_auth" && table.name == "users_sync";
    let is_read = |rules: &Rules| {
        let watched = rules.query.iter().flat_map(|query| &query.watch);
        written(&rules.table) || watched.into_iter().any(|watch| written(&watch.table))
    };
    if families.iter().any(|family| is_read(&family.rules)) {
        let message = format!("tenant {}: its target is the source, and neon_auth.users_sync is read there", tenant.id);
        let fault = Fault::new(item.span_of("target"), message);
        reader.push(fault.help("read another table, or use a target in another database"));
    }
}

fn is_same_database(a: &PgUrl, b: &PgUrl) -> bool {
    canonical_host(&a.host) == canonical_host(&b.host) && a.port == b.port && a.database == b.database
}

/// One form for all spellings of a host, without resolving it. All names and addresses of this machine are the same.
pub(super) fn canonical_host(host: &str) -> String {
    if host.starts_with('/') {
        return host.to_owned();
    }
    let plain = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_local = plain == "localhost" || plain.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if is_local { "localhost".to_owned() } else { plain }
}
