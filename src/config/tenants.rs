//! The tenants of the file, and of the files that it includes. Pure.

use super::error::Fault;
use super::hash::Hash;
use super::key_types::{CommandWords, Derived, DurationText, Merged, Name, TenantKeyText, TenantName, Url};
use super::mapping::Family;
use super::section::{KeyType, Nested, Reader, section};
use super::target_template::fill;
use super::yaml::{Kind, Node, YamlKey};
use crate::map::Rules;
use crate::model::{TableName, TenantId, TenantKey, printable_line};
use crate::pg::{PasswordCommand, PgUrl, Secret};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The shortest `tenants.from.every`.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

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
        /// may be the source's, unless users are read from `neon_auth.users_sync` there. Required unless `tenants.target` is
        /// set.
        pub target: PgUrl as Merged<Url>,
        /// Overrides `targets.password_command` for this tenant.
        pub password_command: Option<PasswordCommand> as Option<CommandWords>,
        /// Overrides the top-level `wake_after` for this tenant.
        pub wake_after: Option<Duration> as Option<DurationText>,
        /// A hash in place of the e-mail address. Overrides `targets.hash`.
        pub hash: Option<Hash>,
        /// Values that are masked. `name` keeps its first character, `email` its first character and its domain. Any other name is
        /// a column of `raw_json`: its values become `"***"`, and null stays null. A name that ends in `?` is a column that the
        /// table may lack. Overrides `targets.mask`.
        pub mask: Option<Vec<String>>,
        /// The only columns of `raw_json` beside `id`, `display_name`, `primary_email` and `signed_up_at_millis`, of those that
        /// `users.allow` and `users.exclude` let leave. By default all of them; for a tenant whose name or e-mail address is
        /// masked or hashed, only the masked columns. Overrides `targets.only`.
        pub only: Option<Vec<String>>,
    }
}

impl Tenant {
    /// A tenant with the default of every other key.
    pub fn new(id: TenantId, target: PgUrl) -> Tenant {
        let key = TenantKey::new(id.as_str());
        Tenant { id, key, target, password_command: None, wake_after: None, hash: None, mask: None, only: None }
    }
}

section! {
    /// The tenants and their target databases.
    ///
    /// Either a list of tenants, or a section with any of a table (`from`), a template (`target`) and a `list`:
    ///
    /// ```yaml
    /// tenants:
    ///   from:
    ///     url: ${CONTROL_DATABASE_URL}
    ///     query: SELECT id, key, host, database FROM public.tenants WHERE is_active
    ///     channel: tenants_changed
    ///   target: postgres://users_sync:${file:/run/secrets/{tenant}}@{host}/{database}?sslmode=verify-full
    /// ```
    pub(super) struct TenantSection {
        /// The table that the tenants are read from, in addition to those of the files.
        pub(super) from: Option<TenantTable>,
        /// Template of the `target` of each tenant that has none. `{tenant}` stands for its id, `{key}` for its key, and
        /// `{NAME}` for the column NAME of `from.query`. Values are percent-encoded. In the name of a variable or a file, as in
        /// `${file:/run/secrets/{tenant}}`, they consist of letters, digits, `_`, `-` and `.`, and do not begin with a dot. For a tenant of
        /// an included file, a relative path starts at the directory of that file.
        pub(super) target: Option<Secret> as Option<Template>,
        /// Tenants as in the list form. They exist beside those of the table.
        pub(super) list: Option<Vec<Tenant>> as Option<Tenants>,
    }
}

section! {
    /// A table of tenants in a database of the operator.
    pub struct TenantTable {
        /// Connection URL of the database with the table, in the format of `source.url`.
        pub url: PgUrl as Url,
        /// As `source.password_command`, for this database.
        pub password_command: Option<PasswordCommand> as Option<CommandWords>,
        /// A SELECT with one row for each tenant. It runs in a read-only transaction with a `search_path` of `pg_catalog`, so
        /// tables need their schema.
        ///
        /// - `id` is the tenant's name, as in the list form. Every row needs it, and a `target` unless there is a template.
        /// - `key` and `wake_after` are as there; null is the default.
        /// - `target` is the tenant's URL as it is, without variables and files, also without those of `passfile` and certificates.
        ///   It is null, or not returned, where `tenants.target` makes the URL.
        /// - Any other column is a value for `tenants.target`.
        ///
        /// A row that cannot be used leaves its tenant as it was, and is reported. A result without rows is rejected while tenants of
        /// the table are replicated.
        pub query: String,
        /// Time between two reads of the table.
        pub every: Duration as Interval = "30s",
        /// Channel on which the database notifies of changes (`NOTIFY tenants_changed`): the table is read at once.
        pub channel: Option<String> as Option<Name>,
    }
}

section! {
    /// An included file.
    pub(super) struct Included {
        /// Tenants and their target databases.
        pub(super) tenants: Vec<Tenant> as Tenants,
    }
}

/// A template of a URL, as it is in the file: its variables and files are read for each tenant.
pub(super) struct Template;

impl KeyType for Template {
    type Value = Secret;
    type Schema = String;

    fn expected() -> String {
        "a connection URL with names in braces, such as postgres://users_sync@db.example/{tenant}".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Secret> {
        let Kind::Scalar(template) = &node.kind else {
            reader.invalid(node, path, &Template::expected());
            return None;
        };
        match fill(template, |_| Some("value")) {
            Ok(_) => Some(Secret(template.clone())),
            Err(error) => {
                let fault = Fault::new(&node.span, format!("{path} is not a template: {error}"));
                reader.push(fault.help(format!("expected {}", Template::expected())));
                None
            }
        }
    }
}

/// A duration of at least one second.
pub(super) struct Interval;

impl KeyType for Interval {
    type Value = Duration;
    type Schema = String;

    fn expected() -> String {
        "a duration from 1s, such as 30s or 5m".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Duration> {
        let interval = DurationText::read(node, path, reader)?;
        if interval < SHORTEST_INTERVAL {
            reader.invalid(node, path, &Interval::expected());
            return None;
        }
        Some(interval)
    }
}

/// A list of tenants, or the section.
pub(super) struct ListOrSection;

impl JsonSchema for ListOrSection {
    fn schema_name() -> Cow<'static, str> {
        "TenantsOrSection".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let any = [generator.subschema_for::<Vec<Tenant>>(), generator.subschema_for::<TenantSection>()];
        json_schema!({ "anyOf": any })
    }
}

impl KeyType for ListOrSection {
    type Value = TenantSection;
    type Schema = ListOrSection;

    fn expected() -> String {
        "a list of tenants, or a section".to_owned()
    }

    fn nested() -> Option<Nested> {
        TenantSection::nested()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<TenantSection> {
        if is_section(node) {
            return TenantSection::read(node, path, reader);
        }
        let list = Tenants::read(node, path, reader)?;
        Some(TenantSection { from: None, target: None, list: Some(list) })
    }
}

/// Whether this is meant as the section, and not as a list: `{acme: "postgres://..."}` is a list that is written wrong.
fn is_section(node: &Node) -> bool {
    let Kind::Section(entries) = &node.kind else { return false };
    let is_known = |name: &str| TenantSection::KEYS.iter().any(|key| key.name == name);
    entries.iter().any(|(key, value)| is_known(&key.name) || !matches!(value.kind, Kind::Scalar(_)))
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
        let mut taken = Taken::default();
        for item in items {
            let Some(tenant) = read_tenant(item, &path_of(item, path), reader) else { continue };
            check_unique(&taken, items, &tenant, item, reader);
            taken.add(&tenant);
            tenants.push(tenant);
        }
        (tenants.len() == items.len()).then_some(tenants)
    }
}

/// Reads one tenant of a list.
pub(super) fn read_tenant(item: &Node, path: &str, reader: &mut Reader<'_>) -> Option<Tenant> {
    let mut tenant = Tenant::read(item, path, reader)?;
    if item.get("key").is_none() {
        tenant.key = TenantKey::new(tenant.id.as_str());
    }
    Some(tenant)
}

/// The tenants in the tree of a file: those of the list, and those of the section's list.
pub(super) fn items_of(root: &Node) -> &[Node] {
    let tenants = root.get("tenants");
    match tenants.and_then(|tenants| tenants.get("list")).or(tenants) {
        Some(Node { kind: Kind::List(items), .. }) => items,
        _ => &[],
    }
}

/// `tenants.target` in the tree of a file, before its variables and files are read.
pub(super) fn raw_template(root: &Node) -> Option<String> {
    root.get("tenants")?.scalar("target").map(str::to_owned)
}

/// Gives each tenant of a file without a target the one that the template makes. The tenant's place is that of the target.
pub(super) fn fill_targets(root: &mut Node, template: &str, reader: &mut Reader<'_>) {
    let Some(tenants) = root.get_mut("tenants") else { return };
    let list = if matches!(tenants.kind, Kind::Section(_)) { tenants.get_mut("list") } else { Some(tenants) };
    let Some(Node { kind: Kind::List(items), .. }) = list else { return };
    for item in items.iter_mut().filter(|item| item.get("target").is_none()) {
        let path = path_of(item, "tenants");
        let mut text = |name: &str| reader.text(item.get(name)?, &format!("{path}.{name}"));
        let id = text("id");
        let key = text("key").or_else(|| id.clone());
        let filled = fill(template, |name| match name {
            "tenant" | "id" => id.as_deref(),
            "key" => key.as_deref(),
            _ => None,
        });
        match (filled, &mut item.kind) {
            (Ok(url), Kind::Section(entries)) => {
                let span = item.span.clone();
                let key = YamlKey { name: "target".to_owned(), span: span.clone() };
                entries.push((key, Node { kind: Kind::Scalar(url), span }));
            }
            // The fault of a tenant that is not a section is reported when it is read.
            (Ok(_), _) => {}
            (Err(error), _) => {
                let fault = Fault::new(&item.span, format!("{path} has no target: {error}"));
                reader.push(fault.help("set its target, or correct tenants.target"));
            }
        }
    }
}

/// `tenants[acme]`: a message names the tenant.
fn path_of(item: &Node, path: &str) -> String {
    item.scalar("id").map_or_else(|| path.to_owned(), |id| format!("{path}[{}]", printable_line(id)))
}

/// The ids, keys and databases of the tenants so far.
#[derive(Default)]
pub(super) struct Taken {
    ids: HashSet<TenantId>,
    keys: HashMap<TenantKey, TenantId>,
    databases: HashMap<(String, u16, String), TenantId>,
}

/// What two tenants have in common and must not.
pub(super) enum Conflict {
    /// The id.
    Id,
    /// The key of this one.
    Key(TenantId),
    /// The target of this one.
    Target(TenantId),
}

impl Taken {
    pub(super) fn of(tenants: &[Arc<Tenant>]) -> Taken {
        let mut taken = Taken::default();
        tenants.iter().for_each(|tenant| taken.add(tenant));
        taken
    }

    /// What the tenant has in common with those before it.
    pub(super) fn conflicts(&self, tenant: &Tenant) -> Vec<Conflict> {
        if self.ids.contains(&tenant.id) {
            return vec![Conflict::Id];
        }
        let key = self.keys.get(&tenant.key);
        let target = self.databases.get(&database_of(tenant)).filter(|other| key != Some(other));
        key.cloned().map(Conflict::Key).into_iter().chain(target.cloned().map(Conflict::Target)).collect()
    }

    /// Adds a tenant.
    pub(super) fn add(&mut self, tenant: &Tenant) {
        self.ids.insert(tenant.id.clone());
        self.keys.insert(tenant.key.clone(), tenant.id.clone());
        self.databases.insert(database_of(tenant), tenant.id.clone());
    }
}

/// What tells its database from others.
fn database_of(tenant: &Tenant) -> (String, u16, String) {
    let PgUrl { host, port, database, .. } = &tenant.target;
    (canonical_host(host), *port, database.clone())
}

impl Conflict {
    /// The fault, and how to fix it.
    pub(super) fn texts(&self, tenant: &Tenant) -> (String, &'static str) {
        let id = &tenant.id;
        match self {
            Conflict::Id => (format!("two tenants have the id {id}"), "each id must be unique"),
            Conflict::Key(other) => (
                format!("tenants {other} and {id} have the same key"),
                "a user belongs to one tenant, so each key must be unique",
            ),
            Conflict::Target(other) => (
                format!("tenants {other} and {id} have the same target, {}", tenant.target),
                "each tenant needs a database of its own",
            ),
        }
    }
}

/// Reports an id, key or target that another tenant has. `places` are the nodes of the others that are in the same file.
pub(super) fn check_unique(taken: &Taken, places: &[Node], tenant: &Tenant, item: &Node, reader: &mut Reader<'_>) {
    for conflict in taken.conflicts(tenant) {
        let (message, help) = conflict.texts(tenant);
        let span = match conflict {
            Conflict::Id => item.span_of("id"),
            Conflict::Key(_) => item.get("key").map_or(item.span_of("id"), |key| &key.span),
            Conflict::Target(_) => item.span_of("target"),
        };
        let fault = Fault::new(span, message);
        let has_id = |place: &&Node| place.span != item.span && place.scalar("id") == Some(tenant.id.as_str());
        let first = places.iter().find(has_id);
        reader.push(match (conflict, first) {
            (Conflict::Id, Some(first)) => fault.first_at(first.span_of("id")),
            (Conflict::Id, None) => fault.help("another file has the first one"),
            (Conflict::Key(_) | Conflict::Target(_), _) => fault.help(help),
        });
    }
}

/// Whether `neon_auth.users_sync` in the tenant's target is a table that is read: each write would be a change to replicate. Any other table of the source's database may be read beside a target there.
pub(super) fn is_read_itself(source: &PgUrl, families: &[Family], tenant: &Tenant) -> bool {
    let written = |table: &TableName| table.schema == "neon_auth" && table.name == "users_sync";
    let is_read = |rules: &Rules| {
        let watched = rules.query.iter().flat_map(|query| &query.watch);
        written(&rules.table) || watched.into_iter().any(|watch| written(&watch.table))
    };
    is_same_database(source, &tenant.target) && families.iter().any(|family| is_read(&family.rules))
}

/// Whether two URLs lead to one database, as far as they tell.
pub(super) fn is_same_database(a: &PgUrl, b: &PgUrl) -> bool {
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
