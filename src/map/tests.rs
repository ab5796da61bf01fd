//! Compiling rules, with their problems, and mapping tuples.

mod choice;
mod redaction;

use super::json::oid;
use super::*;
use crate::model::{
    Cell, Change, Column, Patch, Relation, ReplicaIdentity, Set, TableName, Timestamp, TypeCatalog, TypeKind, User, Xid,
};
use proptest::prelude::*;

const AT: CommitInfo = CommitInfo { commit_time: Timestamp(777), xid: Xid(42) };

const COLUMNS: [(&str, u32); 9] = [
    ("id", oid::INT8),
    ("tenant", oid::TEXT),
    ("email", oid::VARCHAR),
    ("password_hash", oid::TEXT),
    ("created", oid::TIMESTAMPTZ),
    ("updated", oid::INT8),
    ("meta", oid::JSONB),
    ("display_name", oid::TEXT),
    ("meta.nick", oid::TEXT),
];

/// The row that the cases below vary, in the order of `COLUMNS`.
const ROW: [Cell<'static>; 9] = [
    Cell::Text(b"1"),
    Cell::Text(b"acme"),
    Cell::Text(b"a@b.c"),
    Cell::Excluded,
    Cell::Text(b"2000-01-01 00:00:00.001+00"),
    Cell::Text(b"0"),
    Cell::Text(br#"{"name": "Ada", "n": 5}"#),
    Cell::Excluded,
    Cell::Null,
];

fn column(name: &str) -> Value {
    Value::Column(name.to_owned())
}

fn relation(identity: &[&str]) -> Relation {
    let columns = COLUMNS.iter().map(|(name, type_oid)| Column {
        name: (*name).to_owned(),
        type_oid: *type_oid,
        in_identity: identity.contains(name),
    });
    Relation {
        oid: 1,
        table: TableName { schema: "auth".to_owned(), name: "users".to_owned() },
        replica_identity: ReplicaIdentity::Default,
        columns: columns.collect(),
        leaves: Vec::new(),
    }
}

fn rules() -> Rules {
    Rules {
        table: relation(&[]).table,
        id: column("id"),
        name: Some(Value::First(vec![column("meta.name"), column("meta.nick")])),
        email: Some(column("email")),
        created_at: Some(column("created")),
        updated_at: Some(Value::Time { column: "updated".to_owned(), unit: TimeUnit::Millis }),
        deleted_at: None,
        tenant: Some(column("tenant")),
        filter: None,
        allow: None,
        exclude: vec![],
        query: None,
        redactions: Redactions::default(),
    }
}

fn plan_of(rules: &Rules) -> RowPlan {
    RowPlan::compile(rules, &relation(&["id", "tenant"]), &TypeCatalog::new()).unwrap()
}

fn row(changed: &[(usize, Cell<'static>)]) -> Vec<Cell<'static>> {
    let mut row = ROW.to_vec();
    changed.iter().for_each(|(column, cell)| row[*column] = *cell);
    row
}

/// A change in one line.
fn show(tenant: TenantRef<'_>, change: &Change) -> String {
    fn set<T>(set: &Set<Option<T>>, show: impl Fn(&T) -> String) -> String {
        match set {
            Set::Keep => "keep".to_owned(),
            Set::To(value) => option(value, show),
        }
    }
    fn option<T>(value: &Option<T>, show: impl Fn(&T) -> String) -> String {
        value.as_ref().map_or("-".to_owned(), show)
    }
    let time = |time: &Timestamp| time.0.to_string();
    let tenant = match tenant {
        TenantRef::Only => "only".to_owned(),
        TenantRef::Key(key) => key.into_owned(),
        TenantRef::NoTenant => "no tenant".to_owned(),
        TenantRef::Unsent => "unsent".to_owned(),
    };
    let shown = match change {
        Change::Upsert(User { id, raw_json, name, email, created_at, updated_at, updated_at_derived, .. }) => format!(
            "upsert {id} {} {} {} {}{} {raw_json}",
            option(name, String::clone),
            option(email, String::clone),
            option(created_at, time),
            option(updated_at, time),
            if *updated_at_derived { "*" } else { "" },
        ),
        Change::Patch(Patch { id, raw_json, name, email, created_at, updated_at, updated_at_derived, .. }) => format!(
            "patch {id} {} {} {} {}{} {raw_json}",
            set(name, String::clone),
            set(email, String::clone),
            set(created_at, time),
            set(updated_at, time),
            if *updated_at_derived { "*" } else { "" },
        ),
        Change::Delete { id, at } => format!("delete {id} {}", at.0),
        Change::Reread { id, xid, .. } => format!("reread {id} {}", xid.0),
    };
    format!("{tenant}: {shown}")
}

fn updated(plan: &RowPlan, old: Option<&[Cell<'_>]>, new: &[Cell<'_>]) -> Vec<String> {
    let mut shown = Vec::new();
    if let Err(error) = plan.update(old, new, AT, &mut |tenant, change| shown.push(show(tenant, &change))) {
        shown.push(format!("error: {error}"));
    }
    shown
}

fn inserted(plan: &RowPlan, row: &[Cell<'_>]) -> String {
    match plan.insert(row) {
        Ok(Some((tenant, user))) => show(tenant, &Change::Upsert(user)),
        Ok(None) => "no user".to_owned(),
        Err(error) => format!("error: {error}"),
    }
}

const JSON: &str = r#"{"id":"1","meta":{"name": "Ada", "n": 5},"email":"a@b.c","tenant":"acme","created":"2000-01-01T00:00:00.001+00:00","updated":0,"meta.nick":null,"display_name":"Ada","primary_email":"a@b.c","signed_up_at_millis":946684800001}"#;

#[test]
fn an_inserted_row_becomes_a_user() {
    let plan = plan_of(&rules());
    assert_eq!(inserted(&plan, &ROW), format!("acme: upsert 1 Ada a@b.c 1000 -* {JSON}"));
    assert_eq!(plan.decoded(), [true, true, true, false, true, true, true, false, true]);
    assert_eq!(
        plan.exposed_columns().collect::<Vec<_>>(),
        ["id", "tenant", "email", "created", "updated", "meta", "meta.nick"]
    );
    let account: Vec<String> = plan
        .account(&relation(&["id"]))
        .iter()
        .map(|account| format!("{} {}", account.column, account.describe()))
        .collect();
    let expected = [
        "id leaves as id, raw_json.id",
        "tenant leaves as tenant key, raw_json.tenant",
        "email leaves as email, raw_json.primary_email, raw_json.email",
        "password_hash stays: its name looks like a secret",
        "created leaves as created_at, raw_json.signed_up_at_millis, raw_json.created",
        "updated leaves as updated_at, raw_json.updated",
        "meta leaves as name (its name), raw_json.display_name (its name), raw_json.meta",
        "display_name stays: raw_json has a mapped value under its name",
        "meta.nick leaves as name, raw_json.display_name, raw_json.meta.nick",
    ];
    assert_eq!(account, expected);
}

#[test]
fn null_empty_and_infinite_values_are_distinguished() {
    let plan = plan_of(&rules());
    let changed = [
        (1, Cell::Text(b"")),
        (2, Cell::Text(b"")),
        (4, Cell::Text(b"infinity")),
        (5, Cell::Text(b"946684800002")),
        (6, Cell::Null),
        (8, Cell::Text(b"nick\"")),
    ];
    assert_eq!(
        inserted(&plan, &row(&changed)),
        format!(
            "no tenant: upsert 1 nick\" - {} 2000 {}",
            i64::MAX,
            r#"{"id":"1","meta":null,"email":"","tenant":"","created":"infinity","updated":946684800002,"meta.nick":"nick\"","display_name":"nick\"","primary_email":null,"signed_up_at_millis":null}"#
        )
    );
}

#[test]
fn a_row_larger_than_a_tenants_memory_is_set_aside_before_it_is_copied() {
    let mut plan = plan_of(&rules());
    plan.limit_rows(1_000);
    let big: &'static [u8] = Box::leak(vec![b'x'; 1_000].into_boxed_slice());
    let large = row(&[(2, Cell::Text(big))]);
    let expected = "more than limits.tenant_memory (1000); raise it, or list a column in users.exclude";
    assert!(inserted(&plan, &large).contains(expected), "{}", inserted(&plan, &large));
    assert!(updated(&plan, None, &large).concat().contains(expected));
    assert!(inserted(&plan, &ROW).starts_with("acme: upsert 1"));
    // It has left its old place all the same.
    let moved = updated(&plan, Some(&ROW), &row(&[(0, Cell::Text(b"2")), (2, Cell::Text(big))]));
    assert!(moved[0].starts_with("acme: delete 1") && moved[1].contains(expected), "{moved:?}");
    // A column that is not read does not count.
    let unread = row(&[(3, Cell::Text(big))]);
    assert!(inserted(&plan, &unread).starts_with("acme: upsert 1"));
}

#[test]
fn an_unmappable_row_names_its_column_but_not_its_value() {
    let plan = plan_of(&rules());
    for (changed, expected) in [
        ((0, Cell::Null), "error: the user's id is null or empty (from id)"),
        ((0, Cell::Text(b"")), "error: the user's id is null or empty (from id)"),
        ((2, Cell::Text(b"\xff")), "error: column \"email\": the text is not valid UTF-8"),
        ((6, Cell::Text(b"{s3cret")), "error: column \"meta\": the value is not a valid JSON document"),
    ] {
        assert_eq!(inserted(&plan, &row(&[changed])), expected);
    }
    assert_eq!(inserted(&plan, &ROW[..3]), "error: the tuple has 3 columns, but its relation has 9");
    assert!(inserted(&plan, &row(&[(6, Cell::Unchanged)])).contains("\"meta\": the value was not sent"));
}

#[test]
fn an_optional_time_that_does_not_parse_is_null_and_counted() {
    let invalid = Cell::Text(b"s3cret");
    let plan = plan_of(&rules());
    assert!(inserted(&plan, &row(&[(4, invalid)])).starts_with("acme: upsert 1 Ada a@b.c -"));
    assert_eq!(plan.take_unparsed_values(), 1);
    let plan = plan_of(&Rules { deleted_at: Some(column("created")), ..rules() });
    // A deleted user must not look alive.
    let changed = row(&[(4, invalid)]);
    let error = plan.insert(&changed).err().unwrap();
    let (tenant, user) = plan.identify(None, &changed, &error).unwrap();
    assert!(matches!(tenant, TenantRef::Key(key) if key == "acme"));
    assert_eq!((&*user.id, user.why_unmappable()), ("1", Some(&*error.to_string())));
    assert!(plan.identify(None, &row(&[(0, Cell::Null)]), &error).is_none());
}

#[test]
fn values_come_from_lists_joins_and_paths() {
    let join =
        |parts: &[&str]| Value::Join { parts: parts.iter().map(|name| column(name)).collect(), with: " ".into() };
    for (name, expected) in [
        (column("meta.n"), "5"),
        (column("meta.nick"), "-"),
        (column("meta"), "-"),
        (column("meta.name.first"), "-"),
        (join(&["email", "meta.nick", "meta.name"]), "a@b.c Ada"),
        (join(&["meta.nick", "meta.zip"]), "-"),
        (Value::First(vec![join(&["meta.nick"]), column("id")]), "1"),
        (Value::First(vec![]), "-"),
    ] {
        let plan = plan_of(&Rules { name: Some(name.clone()), ..rules() });
        let shown = inserted(&plan, &ROW);
        assert!(shown.starts_with(&format!("acme: upsert 1 {expected} a@b.c")), "{name:?}: {shown}");
    }
}

#[test]
fn an_excluded_or_secret_input_can_feed_a_value_but_stays_out_of_raw_json() {
    let changed = Rules { email: Some(column("password_hash")), exclude: vec!["meta".to_owned()], ..rules() };
    let plan = plan_of(&changed);
    assert_eq!(plan.decoded(), [true, true, true, true, true, true, true, false, true]);
    let shown = inserted(&plan, &row(&[(3, Cell::Text(b"hash"))]));
    assert!(shown.contains(r#""primary_email":"hash""#) && shown.contains(r#""display_name":"Ada""#), "{shown}");
    assert!(!shown.contains("\"meta\":") && !shown.contains("password_hash"), "{shown}");
}

#[test]
fn a_full_update_is_an_upsert_with_the_commit_time() {
    let plan = plan_of(&rules());
    assert_eq!(updated(&plan, None, &ROW), [format!("acme: upsert 1 Ada a@b.c 1000 777* {JSON}")]);
    let shown = updated(&plan, None, &row(&[(5, Cell::Text(b"946684800002"))]));
    assert!(shown[0].starts_with("acme: upsert 1 Ada a@b.c 1000 2000 {"), "{shown:?}");
}

#[test]
fn unsent_values_come_from_a_full_old_row_or_stay_unchanged() {
    let plan = plan_of(&rules());
    let unsent_meta = row(&[(6, Cell::Unchanged)]);
    let full = format!("acme: upsert 1 Ada a@b.c 1000 777* {JSON}");
    assert_eq!(updated(&plan, Some(&ROW), &unsent_meta), [full]);
    // `name` depends on `meta` and on `meta.nick`, which was sent.
    assert_eq!(updated(&plan, None, &unsent_meta), ["acme: reread 1 42"]);

    let plan = plan_of(&Rules { name: Some(column("meta.name")), ..rules() });
    assert_eq!(
        updated(&plan, None, &row(&[(6, Cell::Unchanged), (2, Cell::Null)])),
        [concat!(
            "acme: patch 1 keep - 1000 777* ",
            r#"{"id":"1","email":null,"tenant":"acme","created":"2000-01-01T00:00:00.001+00:00","updated":0,"#,
            r#""meta.nick":null,"primary_email":null,"signed_up_at_millis":946684800001}"#
        )]
    );

    // Every value before the first non-empty one was sent.
    let plan = plan_of(&Rules { name: Some(Value::First(vec![column("email"), column("meta.name")])), ..rules() });
    assert!(updated(&plan, None, &unsent_meta)[0].starts_with("acme: patch 1 a@b.c a@b.c"));
    assert_eq!(updated(&plan, None, &row(&[(6, Cell::Unchanged), (2, Cell::Null)])), ["acme: reread 1 42"]);
}

#[test]
fn an_unsent_id_or_tenant_leads_to_a_reread() {
    let plan = plan_of(&Rules { tenant: Some(column("meta.name")), ..rules() });
    assert_eq!(updated(&plan, None, &row(&[(6, Cell::Unchanged)])), ["unsent: reread 1 42"]);
    let plan = plan_of(&Rules { id: column("meta.name"), ..rules() });
    let shown = updated(&plan, None, &row(&[(6, Cell::Unchanged)]));
    assert!(shown[0].starts_with("error: column \"meta\": the value was not sent"), "{shown:?}");
    assert!(shown[0].ends_with("run: ALTER TABLE \"auth\".\"users\" REPLICA IDENTITY FULL;"), "{shown:?}");
}

#[test]
fn a_user_that_moves_is_deleted_before_it_is_inserted() {
    let plan = plan_of(&rules());
    let key = |id, tenant| {
        let mut old = [Cell::Absent; 9];
        (old[0], old[1]) = (id, tenant);
        old
    };
    let upsert = format!("acme: upsert 1 Ada a@b.c 1000 777* {JSON}");
    let (one, two, acme, other) = (Cell::Text(b"1"), Cell::Text(b"2"), Cell::Text(b"acme"), Cell::Text(b"other"));
    for (old, left) in [
        (key(one, acme), None),
        (key(two, acme), Some("acme: delete 2 777")),
        (key(one, other), Some("other: delete 1 777")),
        (key(two, other), Some("other: delete 2 777")),
        (key(one, Cell::Null), Some("no tenant: delete 1 777")),
        (key(Cell::Null, acme), None),
        (key(Cell::Absent, acme), None),
        (key(one, Cell::Absent), None),
        (key(Cell::Absent, other), Some("other: delete 1 777")),
    ] {
        let expected: Vec<String> = left.map(str::to_owned).into_iter().chain([upsert.clone()]).collect();
        assert_eq!(updated(&plan, Some(&old), &ROW), expected, "{old:?}");
    }
    let unsent = row(&[(6, Cell::Unchanged)]);
    assert_eq!(updated(&plan, Some(&key(two, acme)), &unsent), ["acme: delete 2 777", "acme: reread 1 42"]);
    // The old tenant is unknown: the new row is passed on, the old one is reported.
    let shown = updated(&plan, Some(&key(two, Cell::Absent)), &ROW);
    assert_eq!(shown[0], upsert);
    assert!(shown[1].starts_with("error: the replica identity lacks"), "{shown:?}");
    // A row that lost its id is still deleted under the old one.
    let shown = updated(&plan, Some(&ROW), &row(&[(0, Cell::Null)]));
    assert_eq!(shown, ["acme: delete 1 777", "error: the user's id is null or empty (from id)"]);
}

#[test]
fn a_delete_needs_id_and_tenant_in_the_replica_identity() {
    let deleted = |plan: &RowPlan, old: &[Cell<'_>]| {
        let mut shown = Vec::new();
        let mapped = plan.delete(old, AT, &mut |tenant, change| shown.push(show(tenant, &change)));
        mapped.map(|()| shown).map_err(|error| error.to_string())
    };
    let plan = plan_of(&rules());
    assert!(plan.identity_gap().is_empty());
    assert_eq!(deleted(&plan, &ROW), Ok(vec!["acme: delete 1 777".to_owned()]));

    let plan = RowPlan::compile(&rules(), &relation(&["id"]), &TypeCatalog::new()).unwrap();
    assert_eq!(plan.identity_gap(), ["tenant"]);
    assert_eq!(
        deleted(&plan, &row(&[(1, Cell::Absent)])),
        Err(concat!(
            "the replica identity lacks tenant, so a deleted or moved user cannot be found; run: ",
            "CREATE UNIQUE INDEX CONCURRENTLY \"users_users_sync_identity\" ON \"auth\".\"users\" (\"id\", \"tenant\"); ",
            "ALTER TABLE \"auth\".\"users\" REPLICA IDENTITY USING INDEX \"users_users_sync_identity\"; ",
            "(each column has to be NOT NULL; dropping the index later makes the store's own UPDATEs and DELETEs fail), ",
            "or: ALTER TABLE \"auth\".\"users\" REPLICA IDENTITY FULL;"
        )
        .to_owned())
    );
}

#[test]
fn all_mistakes_of_a_mapping_are_reported_at_once() {
    let wrong = Rules {
        id: column("ID"),
        name: Some(Value::First(vec![column("mta.name"), column("email.domain")])),
        email: Some(column("zzz")),
        created_at: Some(column("updated")),
        updated_at: Some(Value::Time { column: "created".to_owned(), unit: TimeUnit::Seconds }),
        deleted_at: Some(Value::Join { parts: vec![], with: String::new() }),
        tenant: Some(Value::Time { column: "tenant".to_owned(), unit: TimeUnit::Seconds }),
        exclude: vec!["passwordhash".to_owned(), "email".to_owned()],
        ..rules()
    };
    let error = RowPlan::compile(&wrong, &relation(&[]), &TypeCatalog::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"the mapping does not fit auth.users:
  users.id: there is no column "ID"; did you mean "id"?
  users.tenant: a unit makes a time, but this value is a text; name the column without a unit
  users.name: there is no column "mta.name"; did you mean "meta"?
  users.name: "email.domain" is a path into "email", which is not of type json or jsonb; name a column, or a path into a json column
  users.email: there is no column "zzz"; name a column of the table, or remove the key
  users.created_at: column "updated" is a number; add its unit: `created_at: {column: updated, unit: ms}` (or `s`)
  users.updated_at: column "created" is already a time, which has no such unit; write `updated_at: created`
  users.deleted_at: a time cannot be joined from texts; name one column, or a list whose first time is used
  users.exclude: there is no column "passwordhash"; did you mean "password_hash"?"#
    );
}

#[test]
fn domains_count_as_their_base_and_stripped_escapes_are_counted() {
    let types = TypeCatalog::from([(9000, TypeKind::Domain(oid::JSON)), (9001, TypeKind::Domain(oid::TIMESTAMP))]);
    let mut relation = relation(&["id", "tenant"]);
    relation.columns[6].type_oid = 9000;
    relation.columns[4].type_oid = 9001;
    let plan = RowPlan::compile(&rules(), &relation, &types).unwrap();
    let shown =
        inserted(&plan, &row(&[(6, Cell::Text(br#"{"name":"A\u0000da"}"#)), (4, Cell::Text(b"2000-01-01 00:00:00"))]));
    assert!(shown.starts_with("acme: upsert 1 Ada a@b.c 0 -*"), "{shown}");
    assert!(shown.contains(r#""meta":{"name":"Ada"}"#), "{shown}");
    assert_eq!(plan.take_stripped_escapes(), 1);
}

/// A cell of any kind, whose text is close to valid input of some type.
fn any_cell() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let text = prop_oneof![
        Just(b"2024-01-01 00:00:00+00".to_vec()),
        Just(br#"{"name": "x", "n": 1}"#.to_vec()),
        "-?[0-9]{0,20}".prop_map(String::into_bytes),
        r#"[\[{(]?[\\"{}(),:ua0]{0,12}"#.prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..8),
    ];
    (0u8..9, text)
}

proptest! {
    #[test]
    fn no_tuple_makes_the_mapping_panic(
        new in proptest::collection::vec(any_cell(), 8..=9),
        old in proptest::option::of(proptest::collection::vec(any_cell(), 9)),
        columns in proptest::collection::vec(0usize..9, 4),
        types in proptest::collection::vec(0usize..8, 9),
    ) {
        let cells = |texts: &[(u8, Vec<u8>)]| -> Vec<Cell<'static>> {
            let leak = |text: &[u8]| &*Box::leak(text.to_vec().into_boxed_slice());
            texts.iter().map(|(kind, text)| match kind {
                0 => Cell::Null,
                1 => Cell::Unchanged,
                2 => Cell::Absent,
                3 => Cell::Excluded,
                _ => Cell::Text(leak(text)),
            }).collect()
        };
        const TYPES: [u32; 8] = [oid::TEXT, oid::JSON, oid::JSONB, oid::BOOL, oid::INT8, oid::TIMESTAMPTZ, oid::DATE, 1009];
        let named = |at: usize| column(COLUMNS[columns[at]].0);
        let rules = Rules {
            id: named(0),
            name: Some(Value::First(vec![named(1), named(2)])),
            tenant: Some(named(3)),
            created_at: None,
            updated_at: None,
            ..rules()
        };
        let mut relation = relation(&["id"]);
        relation.columns.iter_mut().zip(&types).for_each(|(column, at)| column.type_oid = TYPES[*at]);
        let catalog = TypeCatalog::from([(1009, TypeKind::Array { element: oid::TEXT, delimiter: b',' })]);
        let plan = RowPlan::compile(&rules, &relation, &catalog).unwrap();
        let (new, old) = (cells(&new), old.map(|old| cells(&old)));
        let _ = inserted(&plan, &new);
        let _ = updated(&plan, old.as_deref(), &new);
        let _ = plan.delete(&new, AT, &mut |_, _| {});
    }
}

#[test]
fn a_value_that_only_the_source_can_convert_is_read_from_it() {
    let types = TypeCatalog::from([(9000, TypeKind::Cast)]);
    let mut relation = relation(&["id", "tenant"]);
    relation.columns[8].type_oid = 9000;
    let plan = RowPlan::compile(&rules(), &relation, &types).unwrap();
    assert_eq!(plan.cast_columns().collect::<Vec<_>>(), ["meta.nick"]);
    let streamed = |plan: &RowPlan, row: &[Cell<'_>]| {
        plan.inserted(row, AT).unwrap().map(|(tenant, change)| show(tenant, &change)).unwrap()
    };
    // Null needs no conversion.
    assert_eq!(streamed(&plan, &ROW), format!("acme: upsert 1 Ada a@b.c 1000 -* {JSON}"));
    let nick = row(&[(8, Cell::Text(b"nick"))]);
    assert_eq!(streamed(&plan, &nick), "acme: reread 1 42");
    assert_eq!(updated(&plan, None, &nick), ["acme: reread 1 42"]);
    assert_eq!(updated(&plan, Some(&nick), &row(&[(8, Cell::Unchanged)])), ["acme: reread 1 42"]);
    assert!(updated(&plan, None, &row(&[(8, Cell::Unchanged)]))[0].contains("patch 1"));
    assert!(inserted(&plan, &nick).starts_with("error: column \"meta.nick\""));
    let filtered = Rules { filter: Some(Filter::IsNull("id".into())), ..rules() };
    let filtered = RowPlan::compile(&filtered, &relation, &types).unwrap();
    assert!(filtered.inserted(&nick, AT).unwrap().is_none());

    relation.columns.push(Column { name: "converted".into(), type_oid: oid::JSONB, in_identity: false });
    let plan = plan.read_converted(&relation);
    let mut read = nick.clone();
    read.push(Cell::Text(b"{\"x\": 1}"));
    assert!(inserted(&plan, &read).contains(r#","meta.nick":{"x": 1},"#));
    assert_eq!(plan.decoded().len(), read.len());
}
