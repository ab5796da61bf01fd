//! Rows per second that one core maps. The table has ten columns, as an auth provider's users table does.

use std::hint::black_box;
use std::time::{Duration, Instant};
use users_sync::map::{CommitInfo, RowPlan, Rules, Value};
use users_sync::model::{Cell, Column, Relation, ReplicaIdentity, TableName, Timestamp, TypeCatalog, Xid};

const COLUMNS: [(&str, u32, &str); 10] = [
    ("id", 2950, "6f1ed002-ab5a-4f0e-9d5e-0d6f2f8c1a11"),
    ("tenant_id", 25, "acme"),
    ("email", 1043, "ada.lovelace@example.com"),
    ("encrypted_password", 1043, "$2a$10$abcdefghijklmnopqrstuvwxyz"),
    ("is_active", 16, "t"),
    ("logins", 20, "1234"),
    ("created_at", 1184, "2024-02-29 12:34:56.789012+00"),
    ("updated_at", 1184, "2024-03-01 01:02:03.4+00"),
    ("deleted_at", 1184, "2024-03-01 01:02:03.4+00"),
    (
        "raw_user_meta_data",
        3802,
        r#"{"iss": "https://accounts.example.com", "sub": "11223344", "name": "Ada \"L\" Lovelace", "email": "a@example.com", "picture": "https://example.com/a/photo.jpg", "full_name": "Ada Lovelace", "email_verified": true}"#,
    ),
];

fn main() {
    let column = |name: &str| Value::Column(name.to_owned());
    let relation = Relation {
        oid: 1,
        table: TableName { schema: "auth".to_owned(), name: "users".to_owned() },
        replica_identity: ReplicaIdentity::Full,
        columns: COLUMNS
            .map(|(name, type_oid, _)| Column { name: name.to_owned(), type_oid, in_identity: true })
            .into(),
        leaves: Vec::new(),
    };
    let rules = |name: &str| Rules {
        table: relation.table.clone(),
        id: column("id"),
        name: Some(column(name)),
        email: Some(column("email")),
        created_at: Some(column("created_at")),
        updated_at: Some(column("updated_at")),
        deleted_at: None,
        tenant: Some(column("tenant_id")),
        filter: None,
        allow: None,
        exclude: Vec::new(),
        query: None,
        redactions: Default::default(),
    };
    let row = COLUMNS.map(|(_, _, text)| Cell::Text(text.as_bytes()));
    for (what, name) in [("name from a column", "email"), ("name from a json path", "raw_user_meta_data.full_name")] {
        let plan = match RowPlan::compile(&rules(name), &relation, &TypeCatalog::new()) {
            Ok(plan) => plan,
            Err(error) => return eprintln!("{error}"),
        };
        assert!(plan.insert(&row).is_ok(), "the row is mapped, not refused");
        let at = CommitInfo { commit_time: Timestamp(0), xid: Xid(1) };
        rate(&format!("insert, {what}"), || {
            black_box(plan.insert(black_box(&row)).is_ok());
        });
        rate(&format!("update, {what}"), || {
            let mapped = plan.update(None, black_box(&row), at, &mut |tenant, change| {
                black_box((tenant, change.heap_bytes()));
            });
            black_box(mapped.is_ok());
        });
    }
}

/// Calls `once` for about a second and prints the rate.
fn rate(what: &str, mut once: impl FnMut()) {
    const BATCH: u32 = 1000;
    let (start, mut rows) = (Instant::now(), 0u32);
    while start.elapsed() < Duration::from_secs(1) {
        (0..BATCH).for_each(|_| once());
        rows += BATCH;
    }
    println!("{what}: {:.0} rows/s", f64::from(rows) / start.elapsed().as_secs_f64());
}
