//! A valid source, with one fault at a time.

use super::*;
use crate::capture::publication::Publication;
use crate::capture::slot::SlotRow;
use crate::check::Severity;
use crate::check::source_facts::{PublicationFacts, UniqueIndex};
use crate::config::{Env, parse};
use crate::model::{Column, ReplicaIdentity, TypeCatalog};

const INT8: u32 = 20;
const TEXT: u32 = 25;

fn config() -> Config {
    let none = Env { variable: &|_| None, file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)) };
    let text = "source: {url: 'postgres://u@h/auth'}\n\
                users: {table: auth.users, id: id, email: email, tenant: org}\n\
                tenants: [{id: acme, target: 'postgres://u@h/acme'}]\n";
    parse("c.yaml", text, &none).unwrap()
}

fn table() -> TableFacts {
    let column = |name: &str, type_oid, in_identity| Column { name: name.into(), type_oid, in_identity };
    TableFacts {
        kind: "r".into(),
        owner: "owner".into(),
        is_owner: true,
        schema_usage: true,
        row_security: false,
        may_select: true,
        readable: Vec::new(),
        relation: Some(Relation {
            oid: 1,
            table: config().users.table,
            replica_identity: ReplicaIdentity::Index,
            columns: vec![column("id", INT8, true), column("org", TEXT, true), column("email", TEXT, false)],
            leaves: Vec::new(),
        }),
        types: TypeCatalog::new(),
        generated: Vec::new(),
        identity_statements: None,
        unique_indexes: vec![index(&["org", "id"], None)],
    }
}

fn index(columns: &[&str], predicate: Option<&str>) -> UniqueIndex {
    UniqueIndex {
        name: "users_key".into(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        predicate: predicate.map(str::to_owned),
    }
}

fn publication() -> PublicationFacts {
    let all = true;
    PublicationFacts {
        row: Publication {
            all_tables: false,
            inserts: all,
            updates: all,
            deletes: all,
            truncates: all,
            via_root: false,
        },
        has_table: true,
        columns: Some(vec!["id".into(), "org".into(), "email".into()]),
    }
}

fn slot() -> SlotRow {
    SlotRow {
        plugin: Some("pgoutput".into()),
        database: Some("auth".into()),
        temporary: false,
        active_pid: None,
        confirmed_flush: None,
        invalid: false,
    }
}

fn valid() -> SourceFacts {
    SourceFacts {
        role: "sync".into(),
        database: "auth".into(),
        wal_level: "logical".into(),
        is_standby: false,
        may_replicate: true,
        has_rds_role: false,
        may_create: true,
        slots: Usage { used: 1, max: 10 },
        senders: Usage { used: 0, max: 10 },
        keep_size_mb: Some(4096),
        has_column_lists: true,
        table: Some(table()),
        others: Vec::new(),
        publication: Some(publication()),
        slot: Some(slot()),
        was_replicated: false,
        query: None,
        faults: Vec::new(),
    }
}

/// The findings without the notes about columns, which are always present.
fn reported(facts: &SourceFacts) -> Vec<Finding> {
    let mut found = findings(&config(), facts);
    found.retain(|finding| !finding.message.starts_with("columns "));
    found
}

/// Asserts that there is exactly one finding.
#[track_caller]
fn check(facts: SourceFacts, severity: Severity, message: &str, remedy: &str) {
    let found = reported(&facts);
    let [finding] = &found[..] else { panic!("not one finding: {found:#?}") };
    assert_eq!(finding.severity, severity, "{finding}");
    assert!(finding.message.contains(message), "{finding}\ndoes not contain\n{message}");
    assert!(finding.remedy.contains(remedy), "{finding}\ndoes not contain\n{remedy}");
}

#[track_caller]
fn check_error(change: impl Fn(&mut SourceFacts), message: &str, remedy: &str) {
    let mut facts = valid();
    change(&mut facts);
    check(facts, Severity::Error, message, remedy);
}

fn with_table(change: impl Fn(&mut TableFacts)) -> impl Fn(&mut SourceFacts) {
    move |facts| facts.table.iter_mut().for_each(&change)
}

fn with_publication(change: impl Fn(&mut PublicationFacts)) -> impl Fn(&mut SourceFacts) {
    move |facts| facts.publication.iter_mut().for_each(&change)
}

fn with_slot(change: impl Fn(&mut SlotRow)) -> impl Fn(&mut SourceFacts) {
    move |facts| facts.slot.iter_mut().for_each(&change)
}

#[test]
fn a_correct_source_has_no_findings() {
    assert_eq!(reported(&valid()), []);
    let all: Vec<_> = findings(&config(), &valid()).into_iter().map(|finding| finding.message).collect();
    assert_eq!(
        all,
        [
            "columns of auth.users:\n    id     leaves as id, raw_json.id\n    org    leaves as tenant key, raw_json.org\n    \
          email  leaves as email, raw_json.primary_email, raw_json.email"
        ]
    );
}

#[test]
fn a_server_without_logical_decoding_is_an_error() {
    check_error(|f| f.wal_level = "replica".into(), "wal_level is replica", "SET wal_level = 'logical'");
    check_error(|f| f.is_standby = true, "standby", "primary");
    check_error(|f| f.may_replicate = false, "no REPLICATION", "ALTER ROLE \"sync\" REPLICATION;");
    let rds = |f: &mut SourceFacts| (f.may_replicate, f.has_rds_role) = (false, true);
    check_error(rds, "no REPLICATION", "GRANT rds_replication TO \"sync\";");
    check_error(|f| f.slots.used = 10, "max_replication_slots is 10", "max_replication_slots = 11");
    check_error(|f| f.senders.used = 9, "max_wal_senders is 10", "max_wal_senders = 11");
}

#[test]
fn an_unbounded_slot_is_a_warning() {
    let keep = |mb| SourceFacts { keep_size_mb: mb, ..valid() };
    check(keep(Some(-1)), Severity::Warning, "is not set", "max_slot_wal_keep_size = '4096MB'");
    check(keep(Some(1024)), Severity::Warning, "not above limits.source_wal", "4096MB");
    assert_eq!(reported(&keep(None)), []);
}

#[test]
fn a_missing_or_unreadable_table_is_an_error() {
    let others = |f: &mut SourceFacts| (f.table, f.others) = (None, vec!["public.orders".into(), "auth.user".into()]);
    check_error(others, "no table auth.users in database auth", "table: auth.user ");
    check_error(with_table(|t| (t.relation, t.kind) = (None, "v".into())), "is not a table", "users.table");
    check_error(with_table(|t| t.schema_usage = false), "cannot use schema auth", "GRANT USAGE ON SCHEMA \"auth\"");
    check_error(with_table(|t| t.row_security = true), "row security", "ALTER ROLE \"sync\" BYPASSRLS");
    let some = |t: &mut TableFacts| (t.may_select, t.readable) = (false, vec!["id".into(), "org".into()]);
    check_error(
        with_table(some),
        "cannot read auth.users (email)",
        "GRANT SELECT (\"id\", \"org\", \"email\") ON \"auth\".\"users\" TO \"sync\"",
    );
}

#[test]
fn a_mapping_that_does_not_fit_is_an_error() {
    let rename = |t: &mut TableFacts| t.relation.as_mut().unwrap().columns[2].name = "mail".into();
    check_error(with_table(rename), "users.email: there is no column \"email\"; did you mean \"mail\"?", "this key");
    let key_only = |t: &mut TableFacts| t.relation.as_mut().unwrap().columns[1].in_identity = false;
    check_error(with_table(key_only), "lacks org", "REPLICA IDENTITY USING INDEX");
}

#[test]
fn an_incomplete_publication_is_an_error() {
    let set = "ALTER PUBLICATION \"users_sync\"";
    check_error(
        with_publication(|p| p.has_table = false),
        "does not include auth.users",
        "ADD TABLE \"auth\".\"users\"",
    );
    let fault = Fault { what: "only some rows".into(), remedy: set.into() };
    check_error(|f| f.faults = vec![fault.clone()], "only some rows", set);
}

#[test]
fn missing_objects_need_the_privilege_to_create_them() {
    let none = SourceFacts { publication: None, ..valid() };
    check(none.clone(), Severity::Note, "`run` creates it", "");
    let mut guest = none.clone();
    guest.table.as_mut().unwrap().is_owner = false;
    check(guest, Severity::Error, "requires the table's owner (owner)", "CREATE PUBLICATION \"users_sync\" FOR TABLE");
    check(SourceFacts { may_create: false, ..none }, Severity::Error, "with CREATE on database auth", "superuser");
    check(SourceFacts { slot: None, ..valid() }, Severity::Note, "slot users_sync does not exist yet", "");
    let gone = SourceFacts { slot: None, was_replicated: true, ..valid() };
    check(gone, Severity::Note, "slot users_sync does not exist any more", "");
}

#[test]
fn a_foreign_slot_is_an_error() {
    let drop = "pg_drop_replication_slot('users_sync')";
    check_error(with_slot(|s| s.plugin = Some("wal2json".into())), "uses the plugin wal2json", drop);
    check_error(with_slot(|s| s.plugin = None), "a physical slot", drop);
    check_error(with_slot(|s| s.database = Some("other".into())), "belongs to database other", drop);
    check_error(with_slot(|s| s.temporary = true), "temporary", "source.slot");
    let mut lost = valid();
    with_slot(|s| s.invalid = true)(&mut lost);
    check(lost, Severity::Warning, "is lost", "max_slot_wal_keep_size");
    let mut active = valid();
    with_slot(|s| s.active_pid = Some(77))(&mut active);
    active.senders.used = 9;
    check(active, Severity::Note, "in use by process 77", "");
}

#[test]
fn ids_that_are_not_unique_are_reported_with_the_missing_index() {
    let with = |indexes: Vec<UniqueIndex>| {
        let mut facts = valid();
        facts.table.as_mut().unwrap().unique_indexes = indexes;
        facts
    };
    for unique in [index(&["id"], None), index(&["id", "org"], None)] {
        assert!(reported(&with(vec![unique])).is_empty());
    }
    let statement =
        "CREATE UNIQUE INDEX CONCURRENTLY \"users_users_sync_identity\" ON \"auth\".\"users\" (\"id\", \"org\");";
    for (indexes, why) in [
        (vec![], "there is no unique index"),
        (vec![index(&["id", "email"], None), index(&[""], None)], "there is no unique index"),
        (vec![index(&["id"], Some("(deleted_at IS NULL)"))], "users_key leaves rows out (WHERE (deleted_at IS NULL))"),
    ] {
        check(with(indexes), Severity::Warning, why, statement);
    }
    let mut partitioned = with(vec![]);
    partitioned.table.as_mut().unwrap().kind = "p".into();
    assert!(!reported(&partitioned).iter().any(|finding| finding.message.contains("the same id")));
}
