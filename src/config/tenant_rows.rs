//! Tenants from the rows of a table. Pure.
//!
//! A row is read like a tenant of a file. One that cannot be used leaves its tenant as it was, and does not affect other tenants.

use super::error::{ConfigError, Fault};
use super::interpolate::Env;
use super::kafka::topics_fault;
use super::section::Reader;
use super::shared_role::ServerName;
use super::target_template::fill;
use super::targets::ShareRole;
use super::tenants::{Taken, Tenant, is_same_database, read_tenant};
use super::top::{Config, File, complete};
use super::topics::{Topics, folded_topic};
use super::yaml::{Kind, Node, YamlKey};
use crate::model::{TenantId, printable_line};
use crate::pg::{PgUrl, SslRoots};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// What a query returned, as text.
#[derive(Clone, Default)]
pub(crate) struct TenantRows {
    /// The columns' names.
    pub(crate) columns: Vec<String>,
    /// The values of each row, in the order of the columns.
    pub(crate) rows: Vec<Vec<Option<String>>>,
}

/// A row that cannot be used.
#[derive(Debug)]
pub(crate) struct RowFault {
    /// The row's id.
    tenant: Option<String>,
    message: String,
    help: String,
    /// The tenant stays as it was.
    is_kept: bool,
}

impl RowFault {
    fn of(message: impl Into<String>, help: impl Into<String>) -> RowFault {
        RowFault { tenant: None, message: message.into(), help: help.into(), is_kept: false }
    }
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RowFault { tenant, message, help, is_kept } = self;
        match tenant {
            Some(tenant) => write!(f, "the row of tenant {}", printable_line(tenant))?,
            None => f.write_str("a row without id")?,
        }
        write!(f, " cannot be used: {message}")?;
        if !help.is_empty() {
            write!(f, "; {help}")?;
        }
        f.write_str(if *is_kept { "; the tenant stays as it was" } else { "" })
    }
}

/// A configuration with the tenants of its table.
#[derive(Debug)]
pub(crate) struct WithRows {
    pub(crate) config: Config,
    pub(crate) faults: Vec<RowFault>,
}

/// Adds the tenants of the table to those of the files, in the order of their ids. `current` are those of the table that are
/// replicated now.
///
/// Where two tenants want the same key or database, the one that has it now keeps it, whatever the order of the rows.
///
/// # Errors
/// The result cannot be that of the right query.
pub(crate) fn with_rows(
    files: &Config,
    current: &[Arc<Tenant>],
    rows: &TenantRows,
    env: &Env<'_>,
) -> Result<WithRows, ConfigError> {
    if !rows.columns.iter().any(|column| column == "id") {
        return Err(refused("the result has no column id: SELECT a tenant's name as id"));
    }
    if rows.rows.is_empty() && !current.is_empty() {
        return Err(refused(&format!(
            "the result has no rows, although tenants of the table are replicated ({}): they stay. To remove the last ones, \
             remove tenants.from",
            current.len()
        )));
    }
    let current: BTreeMap<&str, &Arc<Tenant>> = current.iter().map(|tenant| (tenant.id.as_str(), tenant)).collect();
    let mut faults = Vec::new();
    let mut tenants = Vec::new();
    for (id, row) in by_id(rows) {
        match row.and_then(|row| row.tenant(files, env)) {
            Ok(tenant) => tenants.push(Arc::new(tenant)),
            Err(fault) => faults.push(RowFault { tenant: id.map(str::to_owned), ..fault }),
        }
    }
    // Those that have their place already come first.
    let is_unmoved = |tenant: &Arc<Tenant>| {
        let place = |tenant: &Tenant| (tenant.key.clone(), tenant.target.user.clone());
        current
            .get(tenant.id.as_str())
            .is_some_and(|known| place(known) == place(tenant) && is_same_database(&known.target, &tenant.target))
    };
    tenants.sort_by_cached_key(|tenant| (!is_unmoved(tenant), !current.contains_key(tenant.id.as_str())));
    let faulty = faults.iter().filter_map(|fault| fault.tenant.as_deref());
    let mut kept: BTreeSet<&str> = faulty.filter_map(|id| Some(*current.get_key_value(id)?.0)).collect();
    if faults.iter().any(|fault| fault.tenant.is_none()) {
        // The rows of these tenants may be those that have no id.
        let listed: HashSet<&str> = tenants.iter().map(|tenant| tenant.id.as_str()).collect();
        kept.extend(current.keys().filter(|id| !listed.contains(**id)));
    }
    let (mut admitted, refused) = loop {
        let mut admission = Admission::of(files);
        for id in &kept {
            admission.keep(current[id]);
        }
        let (mut refused, mut displaced) = (Vec::new(), Vec::new());
        for tenant in tenants.iter().filter(|tenant| !kept.contains(tenant.id.as_str())) {
            let Some((message, help)) = admission.refuses(tenant) else {
                admission.admit(tenant.clone());
                continue;
            };
            if let Some((id, known)) = current.get_key_value(tenant.id.as_str())
                && !admission.keep(known)
            {
                // Another one has moved to its place: it keeps that place, and the decision is made again.
                displaced.push(*id);
            }
            refused.push(RowFault { tenant: Some(tenant.id.to_string()), ..RowFault::of(message, help) });
        }
        if displaced.is_empty() {
            break (admission.admitted, refused);
        }
        kept.extend(displaced);
        faults.extend(refused.into_iter().filter(|fault| fault.tenant.as_deref().is_some_and(|id| kept.contains(id))));
    };
    faults.extend(refused);
    let mut config = files.clone();
    admitted.sort_by(|a, b| a.id.cmp(&b.id));
    let is_there: HashSet<&str> = admitted.iter().map(|tenant| tenant.id.as_str()).collect();
    for fault in &mut faults {
        fault.is_kept = fault.tenant.as_deref().is_some_and(|id| current.contains_key(id) && is_there.contains(id));
    }
    faults.sort_by(|a, b| a.tenant.cmp(&b.tenant));
    config.tenants.extend(admitted);
    Ok(WithRows { config, faults })
}

/// The rows in the order of their ids. An id that several rows have is one fault: which of them is meant is unknown.
fn by_id(rows: &TenantRows) -> impl Iterator<Item = (Option<&str>, Result<Row<'_>, RowFault>)> {
    let mut groups: BTreeMap<Option<&str>, Vec<Row<'_>>> = BTreeMap::new();
    for values in &rows.rows {
        let row = Row { columns: &rows.columns, values };
        groups.entry(row.get("id")).or_default().push(row);
    }
    groups.into_iter().map(|(id, mut group)| {
        let row = match (id, group.len()) {
            (None, _) => Err(RowFault::of("its id is null", "")),
            (Some(_), 1) => Ok(group.swap_remove(0)),
            (Some(_), count) => Err(RowFault::of(format!("{count} rows have this id"), "each id must be unique")),
        };
        (id, row)
    })
}

/// Decides which tenants can exist beside each other.
struct Admission<'a> {
    files: &'a Config,
    taken: Taken,
    /// Servers and roles, if a role is for one database.
    roles: Option<HashSet<(ServerName, String)>>,
    /// The tenants' topics as Kafka tells them apart, with their names.
    topics: HashMap<String, String>,
    admitted: Vec<Arc<Tenant>>,
}

impl<'a> Admission<'a> {
    fn of(files: &'a Config) -> Admission<'a> {
        let own = [&files.source.url, &files.state_url].into_iter();
        let roles = own.chain(files.tenants.iter().map(|tenant| &tenant.target)).map(role_of);
        let roles = (files.targets.share_role == ShareRole::Refuse).then(|| roles.collect());
        let taken = Taken::of(&files.tenants);
        let mut admission = Admission { files, taken, roles, topics: HashMap::new(), admitted: Vec::new() };
        for tenant in &files.tenants {
            admission.add_topic(&tenant.id);
        }
        admission
    }

    /// Why the tenant cannot be admitted, and how to fix it.
    fn refuses(&self, tenant: &Tenant) -> Option<(String, String)> {
        if let Some(conflict) = self.taken.conflicts(tenant).first() {
            let (message, help) = conflict.texts(tenant);
            return Some((message, help.to_owned()));
        }
        let PgUrl { user, host, port, .. } = &tenant.target;
        if let Some(roles) = &self.roles
            && roles.contains(&role_of(&tenant.target))
        {
            let message = format!(
                "targets.share_role is refuse, but role {user} of server {host}:{port} is used for another database"
            );
            return Some((message, "use one role for each target".to_owned()));
        }
        let kafka = self.files.kafka.as_ref()?;
        if let Some(fault) = topics_fault(kafka, &self.files.users.table, [&tenant.id]) {
            return Some((fault.to_string(), String::new()));
        }
        let topic = self.topic(&tenant.id)?;
        let other = self.topics.get(&folded_topic(&topic)).filter(|other| **other != topic)?;
        Some((format!("Kafka cannot distinguish its topic {topic} from {other}"), "choose another id".to_owned()))
    }

    fn admit(&mut self, tenant: Arc<Tenant>) {
        self.taken.add(&tenant);
        if let Some(roles) = &mut self.roles {
            roles.insert(role_of(&tenant.target));
        }
        self.add_topic(&tenant.id);
        self.admitted.push(tenant);
    }

    /// Keeps a tenant of the table as it is. `false` if its place is taken.
    fn keep(&mut self, known: &Arc<Tenant>) -> bool {
        let is_free = self.refuses(known).is_none();
        if is_free {
            self.admit(known.clone());
        }
        is_free
    }

    fn topic(&self, tenant: &TenantId) -> Option<String> {
        let kafka = self.files.kafka.as_ref()?;
        let topics = Topics::new(&kafka.topic, &self.files.users.table, [tenant]).ok()?;
        topics.distinct().first().map(|topic| (*topic).to_owned())
    }

    fn add_topic(&mut self, tenant: &TenantId) {
        if let Some(topic) = self.topic(tenant) {
            self.topics.insert(folded_topic(&topic), topic);
        }
    }
}

/// What `targets.share_role` is about: a server, and a role of it.
fn role_of(url: &PgUrl) -> (ServerName, String) {
    (ServerName::of(url), url.user.clone())
}

fn refused(message: &str) -> ConfigError {
    ConfigError::in_whole("tenants.from", message)
}

/// One row.
struct Row<'a> {
    columns: &'a [String],
    values: &'a [Option<String>],
}

impl<'a> Row<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let place = self.columns.iter().position(|column| column == name)?;
        self.values.get(place)?.as_deref()
    }

    fn tenant(&self, files: &Config, env: &Env<'_>) -> Result<Tenant, RowFault> {
        let id = self.get("id").unwrap_or_default();
        // Ignored, they would let values leave that are meant to be hidden.
        if let Some(key) = ["hash", "mask", "only"].into_iter().find(|key| self.columns.iter().any(|name| name == key))
        {
            let help = format!("use targets.{key}, and give the column another name in tenants.from.query");
            return Err(RowFault::of(
                format!("its row has a column {key}, which a tenant of a table cannot set"),
                help,
            ));
        }
        let target = self.target(files, id).map_err(|message| RowFault::of(message, ""))?;
        let values = ["id", "key", "wake_after"].into_iter();
        let values = values.filter_map(|name| Some((name, literal(self.get(name)?))));
        let item = section(values.chain([("target", target)]));
        let mut reader = Reader::new(env, File::KEYS);
        let tenant = read_tenant(&item, "", &mut reader);
        if self.get("target").is_some() && tenant.as_ref().is_some_and(|tenant| names_file(&tenant.target)) {
            return Err(RowFault::of("its target names a file", "files are read for tenants.target only"));
        }
        let tenant = tenant.map(|tenant| complete(files, tenant, Some(&item), &mut reader));
        reader.finish(tenant).map_err(|faults| {
            let texts = faults.into_iter().map(|Fault { message, help, .. }| (message, help.unwrap_or_default()));
            let (message, help) = texts.reduce(|(a, help), (b, _)| (format!("{a}, and {b}"), help)).unwrap_or_default();
            RowFault::of(message, help)
        })
    }

    /// The text of the URL: the row's own, or the one that the template makes.
    fn target(&self, files: &Config, id: &str) -> Result<String, String> {
        match (self.get("target"), &files.target_template) {
            // The table may be written by programs that must not read the files and variables of this process.
            (Some(target), _) if target.contains("${") => {
                Err("its target contains ${, and variables and files are read for \
                 tenants.target only: name them there, as in ${file:/run/secrets/{tenant}}"
                    .to_owned())
            }
            (Some(target), _) => Ok(target.to_owned()),
            (None, None) => Err("it has no target, and there is no tenants.target".to_owned()),
            (None, Some(template)) => {
                let filled = fill(&template.0, |name| match name {
                    "tenant" => Some(id),
                    "key" => self.get("key").or(Some(id)),
                    name => self.get(name),
                });
                filled.map_err(|error| format!("tenants.target makes no URL for it: {error}"))
            }
        }
    }
}

/// Whether the URL makes this process read a file: a password, a certificate or a key.
fn names_file(url: &PgUrl) -> bool {
    url.password_from.is_some() || url.client_certificate.is_some() || matches!(url.ssl_roots, SslRoots::File(_))
}

/// A value in which nothing is replaced.
fn literal(value: &str) -> String {
    value.replace("${", "$${")
}

fn section<'a>(values: impl Iterator<Item = (&'a str, String)>) -> Node {
    let entry = |(name, value): (&str, String)| {
        (YamlKey { name: name.to_owned(), span: 0..0 }, Node { kind: Kind::Scalar(value), span: 0..0 })
    };
    Node { kind: Kind::Section(values.map(entry).collect()), span: 0..0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const BASE: &str = "source: {url: 'postgres://s@h/auth'}\nusers: {table: a.b, id: id, tenant: org}\n";

    fn env() -> Env<'static> {
        let variable = |name: &str| (name == "PW").then(|| "hunter2".to_owned());
        let file = |path: &str| match path {
            "/run/secrets/a" | "/run/secrets/e" => Ok("first\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        Env { variable: Box::leak(Box::new(variable)), file: Box::leak(Box::new(file)) }
    }

    fn files(more: &str) -> Config {
        parse("c.yaml", &format!("{BASE}{more}"), &env()).unwrap()
    }

    const FROM: &str = "from: {url: 'postgres://c@h/control', query: SELECT 1}";

    fn rows(columns: &[&str], rows: &[&[Option<&str>]]) -> TenantRows {
        TenantRows {
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            rows: rows.iter().map(|row| row.iter().map(|value| value.map(str::to_owned)).collect()).collect(),
        }
    }

    fn shown(config: &Config) -> Vec<String> {
        let show = |tenant: &Arc<Tenant>| format!("{} {} {}", tenant.id, tenant.key.as_str(), tenant.target);
        config.tenants.iter().map(show).collect()
    }

    #[test]
    fn rows_are_tenants_beside_those_of_the_files() {
        let more = format!("tenants: {{{FROM}, list: [{{id: own, target: 'postgres://u@h/own'}}]}}\nwake_after: 5m\n");
        let rows = rows(
            &["id", "key", "target", "wake_after"],
            &[
                &[Some("a"), Some("k1"), Some("postgres://u:$$x@h/a"), Some("1m")],
                &[Some("b"), None, Some("postgres://u@h/b"), None],
            ],
        );
        let WithRows { config, faults } = with_rows(&files(&more), &[], &rows, &env()).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(shown(&config), ["own own h:5432/own", "a k1 h:5432/a", "b b h:5432/b"]);
        assert_eq!(config.tenants[1].target.password.as_ref().unwrap().0, "$$x");
        let waits: Vec<_> = config.tenants.iter().map(|tenant| tenant.wake_after.unwrap().as_secs()).collect();
        assert_eq!(waits, [300, 60, 300]);
    }

    #[test]
    fn a_template_makes_urls_of_the_columns_and_reads_secrets() {
        let target = "target: 'postgres://u:${file:/run/secrets/{tenant}}@{host}/{database}?sslmode={mode}'";
        let more = format!("tenants: {{{FROM}, {target}}}\n");
        let rows = rows(
            &["id", "host", "database", "mode"],
            &[
                &[Some("a"), Some("db.example"), Some("x/y"), Some("disable")],
                &[Some("b"), Some("db.example"), Some("b"), Some("disable")],
                &[Some("../a"), Some("db.example"), Some("c"), Some("disable")],
                &[Some("d"), Some("db.example"), None, Some("disable")],
                &[Some("e"), Some("db.example"), Some("e"), Some("disable&options=x")],
            ],
        );
        let WithRows { config, faults } = with_rows(&files(&more), &[], &rows, &env()).unwrap();
        assert_eq!(shown(&config), ["a a db.example:5432/x/y"]);
        assert_eq!(config.tenants[0].target.password.as_ref().unwrap().0, "first");
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        for (fault, expected) in faults.iter().zip([
            "the row of tenant ../a cannot be used: tenants.target makes no URL for it: the value of {tenant} cannot be part of",
            "the row of tenant b cannot be used: target: cannot read the file /run/secrets/b",
            "the row of tenant d cannot be used: tenants.target makes no URL for it: there is no value for {database}",
            "the row of tenant e cannot be used: target is not a usable URL",
        ]) {
            assert!(fault.starts_with(expected), "{fault}");
        }
        assert_eq!(faults.len(), 4, "{faults:?}");
    }

    #[test]
    fn a_row_that_cannot_be_used_leaves_its_tenant_as_it_was() {
        let files = files(&format!("tenants: {{{FROM}}}\n"));
        let columns = ["id", "key", "target"];
        let good = rows(
            &columns,
            &[&[Some("b"), None, Some("postgres://u@h/b")], &[Some("a"), None, Some("postgres://u@h/a")]],
        );
        let before = with_rows(&files, &[], &good, &env()).unwrap().config;
        assert_eq!(shown(&before), ["a a h:5432/a", "b b h:5432/b"]);
        let bad = rows(
            &columns,
            &[
                &[None, None, Some("postgres://u@h/e")],
                &[Some("a"), None, Some("postgres://u:hunter2@h:x/a")],
                &[Some("c"), None, Some("postgres://u:${env:PW}@h/c")],
                &[Some("d"), None, None],
                &[Some("e"), None, Some("postgres://u@h/e?passfile=/etc/passwd")],
                &[Some("f"), None, Some("postgres://u@h/f")],
                &[Some("f"), None, Some("postgres://u@h/g")],
                &[Some("g"), None, Some("postgres://u@h/g")],
                &[Some("h"), Some("g"), Some("postgres://u@h/h")],
                &[Some("i"), None, Some("postgres://v@H:5432/a")],
                &[Some("i\u{1b}"), None, Some("postgres://u@h/i")],
            ],
        );
        let current = before.tenants.clone();
        let WithRows { config, faults } = with_rows(&files, &current, &bad, &env()).unwrap();
        // The row of b may be the one without an id.
        assert_eq!(shown(&config), ["a a h:5432/a", "b b h:5432/b", "g g h:5432/g"]);
        let with_ids = TenantRows { rows: bad.rows[1..].to_vec(), ..bad.clone() };
        assert_eq!(
            shown(&with_rows(&files, &current, &with_ids, &env()).unwrap().config),
            ["a a h:5432/a", "g g h:5432/g"]
        );
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        for (fault, expected) in faults.iter().zip([
            "a row without id cannot be used: its id is null",
            "the row of tenant a cannot be used: target is not a usable URL",
            "the row of tenant c cannot be used: its target contains ${",
            "the row of tenant d cannot be used: it has no target, and there is no tenants.target",
            "the row of tenant e cannot be used: its target names a file",
            "the row of tenant f cannot be used: 2 rows have this id",
            "the row of tenant h cannot be used: tenants g and h have the same key",
            "the row of tenant i cannot be used: tenants a and i have the same target, H:5432/a",
            "the row of tenant i",
        ]) {
            assert!(fault.starts_with(expected), "{fault}");
            assert!(!fault.contains("hunter2") && !fault.contains('\u{1b}'), "{fault}");
        }
        assert!(faults[1].ends_with("; the tenant stays as it was") && !faults[2].ends_with("as it was"), "{faults:?}");
        assert_eq!(faults.len(), 9, "{faults:?}");
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter_and_an_owner_keeps_its_place() {
        let files = files(&format!("tenants: {{{FROM}}}\n"));
        let url = |database: &str| format!("postgres://u@h/{database}");
        let outcome = |before: &[(&str, &str)], after: &[(&str, &str)]| {
            let table = |list: &[(&str, &str)]| TenantRows {
                columns: vec!["id".into(), "target".into()],
                rows: list.iter().map(|(id, database)| vec![Some((*id).to_owned()), Some(url(database))]).collect(),
            };
            let before = with_rows(&files, &[], &table(before), &env()).unwrap().config;
            let current = before.tenants.clone();
            let mut reversed = after.to_vec();
            reversed.reverse();
            let of = |list: &[(&str, &str)]| {
                let with = with_rows(&files, &current, &table(list), &env()).unwrap();
                let tenants =
                    with.config.tenants.iter().map(|tenant| format!("{} {}", tenant.id, tenant.target.database));
                (tenants.collect::<Vec<_>>(), with.faults.iter().map(ToString::to_string).collect::<Vec<_>>())
            };
            assert_eq!(of(after), of(&reversed));
            of(after).0
        };
        // A new tenant, and one that is known, want the database of another one.
        assert_eq!(outcome(&[("b", "1")], &[("a", "1"), ("b", "1")]), ["b 1"]);
        assert_eq!(outcome(&[("a", "1"), ("b", "2")], &[("a", "2"), ("b", "2")]), ["a 1", "b 2"]);
        // Two exchange their databases.
        assert_eq!(outcome(&[("a", "1"), ("b", "2")], &[("a", "2"), ("b", "1")]), ["a 2", "b 1"]);
        // The faulty row of a known tenant keeps its place, and with it those that wanted to move there.
        assert_eq!(outcome(&[("b", "1")], &[("a", "1"), ("b", "%zz")]), ["b 1"]);
        let before = [("a", "1"), ("b", "2"), ("c", "3")];
        assert_eq!(outcome(&before, &[("a", "2"), ("b", "3"), ("c", "%zz")]), ["a 1", "b 2", "c 3"]);
        assert_eq!(outcome(&before, &[("a", "%zz"), ("b", "1"), ("c", "2")]), ["a 1", "b 2", "c 3"]);
    }

    #[test]
    fn a_role_that_another_tenant_has_now_is_not_taken_from_it() {
        let files = files(&format!("tenants: {{{FROM}}}\ntargets: {{share_role: refuse}}\n"));
        let columns = ["id", "target"];
        let good = rows(&columns, &[&[Some("a"), Some("postgres://u@h/a")], &[Some("b"), Some("postgres://v@h/b")]]);
        let before = with_rows(&files, &[], &good, &env()).unwrap().config;
        let current = before.tenants.clone();
        let bad = rows(&columns, &[&[Some("a"), Some("postgres://v@h/a")], &[Some("b"), Some("postgres://v@h/b")]]);
        let WithRows { config, faults } = with_rows(&files, &current, &bad, &env()).unwrap();
        assert_eq!(config.tenants, before.tenants);
        assert!(faults.len() == 1 && faults[0].is_kept, "{faults:?}");
    }

    #[test]
    fn a_row_that_breaks_a_rule_for_all_tenants_is_left_out() {
        let own = "list: [{id: own, target: 'postgres://u@h/own'}]";
        let more = format!("tenants: {{{FROM}, {own}}}\ntargets: {{share_role: refuse}}\n");
        let kafka = if cfg!(feature = "kafka") { "kafka: {brokers: b}\n" } else { "" };
        let found = rows(
            &["id", "target"],
            &[
                &[Some("a"), Some("postgres://u@h/a")],
                &[Some("b"), Some("postgres://u@g/b")],
                &[Some("c d"), Some("postgres://u@i/c")],
                &[Some("e_f"), Some("postgres://u@k/e")],
                &[Some("e.f"), Some("postgres://u@l/e")],
            ],
        );
        let WithRows { config, faults } = with_rows(&files(&format!("{more}{kafka}")), &[], &found, &env()).unwrap();
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(faults[0].contains("role u of server h:5432 is used for another database"), "{faults:?}");
        if cfg!(feature = "kafka") {
            assert_eq!(shown(&config), ["own own h:5432/own", "b b g:5432/b", "e.f e.f l:5432/e"]);
            assert!(faults[1].contains("not a valid topic") && faults[2].contains("cannot distinguish"), "{faults:?}");
        }
    }

    #[test]
    fn a_result_that_cannot_be_the_right_one_changes_nothing() {
        let files = files(&format!("tenants: {{{FROM}, list: [{{id: own, target: 'postgres://u@h/own'}}]}}\n"));
        let outcome = |current: &[Arc<Tenant>], rows: &TenantRows| {
            let with = with_rows(&files, current, rows, &env());
            with.map(|with| shown(&with.config)).map_err(|error| error.to_string())
        };
        let none = rows(&["id", "target"], &[]);
        assert_eq!(outcome(&[], &none).unwrap(), ["own own h:5432/own"]);
        let one = rows(&["id", "target"], &[&[Some("a"), Some("postgres://u@g/a")]]);
        let with_one = with_rows(&files, &[], &one, &env()).unwrap().config;
        let refused = outcome(&[with_one.tenants[1].clone()], &none).unwrap_err();
        assert!(refused.contains("no rows, although tenants of the table are replicated (1)"), "{refused}");
        assert!(outcome(&[], &rows(&["name"], &[&[Some("a")]])).unwrap_err().contains("has no column id"));
    }
}
