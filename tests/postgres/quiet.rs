//! Changes of columns that stay at the source cost a target nothing, and unsent values keep what the target has.

use crate::support::{Bed, DEADLINE, GENERATED, Service, pause};
use std::sync::Arc;
use std::time::Instant;
use users_sync::map::{Query, Value, Watch};
use users_sync::model::TenantId;
use users_sync::pg::PgUrl;
use users_sync::throwaway::{Options, PostgresServer};

const USERS: usize = 1_000;

/// The last transaction that wrote, and the position of the log.
async fn written(target: &PostgresServer) -> (String, i64) {
    let client = target.connect("acme").await.unwrap();
    let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text, (pg_current_wal_insert_lsn() - '0/0')::bigint";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

/// The sessions in the target's database, but not those of this test.
async fn sessions(target: &PostgresServer) -> Option<String> {
    let client = target.connect("postgres").await.unwrap();
    let sql = "SELECT string_agg(concat_ws(' ', backend_type, application_name), ', ') FROM pg_stat_activity \
               WHERE datname = 'acme' AND application_name LIKE 'users-sync%'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Runs `updates` of columns that do not leave, in transactions of `batch` rows each.
async fn cost_nothing(query: Option<Query>, updates: usize) {
    let bed = Bed::start(&[]).await;
    let target = PostgresServer::start(Options::new()).await.unwrap();
    target.create_database("acme").await.unwrap();
    bed.auth("ALTER TABLE auth.users ADD COLUMN last_active timestamptz, ADD COLUMN sequence_id bigint").await;
    bed.auth(&format!("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, {USERS}) n"))
        .await;
    let mut config = bed.config();
    config.users.exclude = vec!["last_active".into(), "sequence_id".into()];
    config.users.query = query;
    let url = PgUrl::parse(&target.url("acme")).unwrap();
    config.tenants.push(Arc::new(users_sync::config::Tenant::new(TenantId::new("acme"), url)));
    let service = Service::start(config);
    bed.state_is("acme", "following").await;

    // Wait until the target's connection is closed.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'acme'";
    target.connect("postgres").await.unwrap().query(end, &[]).await.unwrap();
    let before = written(&target).await;
    let auth = bed.server.connect("auth").await.unwrap();
    for _ in 0..updates / USERS {
        let churn = "UPDATE auth.users SET last_active = clock_timestamp(), sequence_id = coalesce(sequence_id, 0) + 1";
        auth.batch_execute(churn).await.unwrap();
    }
    let position: String = bed.query("auth", "SELECT pg_current_wal_lsn()").await[0][0].clone().unwrap();
    let passed = format!("SELECT confirmed_flush_lsn >= '{position}' FROM pg_replication_slots");
    bed.becomes("auth", &passed, "t").await;
    let after = written(&target).await;
    assert_eq!(before.0, after.0, "no transaction wrote");
    // The server itself logs its running transactions now and then.
    assert!(after.1 - before.1 < 1024, "{} bytes of log", after.1 - before.1);
    assert_eq!(sessions(&target).await, None, "the target was woken");

    bed.auth("UPDATE auth.users SET email = 'woken@x.org', last_active = now() WHERE id = 'u7'").await;
    let deadline = Instant::now() + DEADLINE;
    let client = target.connect("acme").await.unwrap();
    while client.query("SELECT FROM neon_auth.users_sync WHERE email = 'woken@x.org'", &[]).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline, "the change that leaves does not arrive");
        pause().await;
    }
    assert!(sessions(&target).await.is_some_and(|found| found.starts_with("client backend")), "that change woke it");
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_of_excluded_columns_write_nothing_and_wake_no_target() {
    cost_nothing(None, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_query_updates_of_excluded_columns_write_nothing_and_wake_no_target() {
    let table = crate::support::rules().table;
    let own = Watch {
        table,
        key: vec!["id".into()],
        tenant: Some(Value::Column("org".into())),
        is_users_own: true,
        via: None,
    };
    let query = Query {
        sql: "SELECT * FROM auth.users".into(),
        key: vec!["id".into()],
        watch: vec![own],
        distinct: Vec::new(),
    };
    cost_nothing(Some(query), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untouched_large_profile_survives_updates_in_both_shapes() {
    let bed = Bed::start(&["plain", "generated"]).await;
    bed.server.sql("generated", GENERATED).await.unwrap();
    bed.auth(
        "ALTER TABLE auth.users ADD COLUMN bio text, ADD COLUMN visits int;
         ALTER TABLE auth.users ALTER profile SET STORAGE EXTERNAL, ALTER bio SET STORAGE EXTERNAL;
         INSERT INTO auth.users (id, org, bio, profile)
         SELECT 'u' || n, org, repeat(md5(n::text), 6250),
                jsonb_build_object('mail', n || '@x.org', 'big', repeat(md5(n::text), 6250))
         FROM generate_series(1, 5) n, unnest(ARRAY['plain', 'generated']) org",
    )
    .await;
    let mut config = bed.config();
    config.users.name = Some(Value::Column("bio".into()));
    config.users.email = Some(Value::Column("profile.mail".into()));
    let service = Service::start(config);
    bed.state_is("plain", "following").await;
    bed.state_is("generated", "following").await;
    bed.auth("UPDATE auth.users SET visits = 1, updated_at = '2025-01-01'").await;
    bed.auth("UPDATE auth.users SET visits = 2 WHERE id = 'u2'").await;
    // Only the touched columns of each user's row have changed.
    let whole = "SELECT string_agg(concat_ws(' ', id, length(name), email, raw_json ->> 'primary_email',
                   md5(raw_json ->> 'bio') = md5(name), length(raw_json -> 'profile' ->> 'big'), raw_json ->> 'visits',
                   length(raw_json ->> 'display_name'), updated_at = '2025-01-01'), ', ' ORDER BY id) FROM neon_auth.users_sync";
    let expected: Vec<_> = (1..=5)
        .map(|n| format!("u{n} 200000 {n}@x.org {n}@x.org t 200000 {} 200000 t", if n == 2 { 2 } else { 1 }))
        .collect();
    for tenant in ["plain", "generated"] {
        bed.becomes(tenant, whole, &expected.join(", ")).await;
    }
    service.stop().await;
}
