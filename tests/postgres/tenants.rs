//! Tenants join, are refused, and do not delay each other.

use crate::support::process::{Process, command, config_file, said};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, GENERATED, Service};
use std::net::Ipv4Addr;
use std::sync::Arc;
use users_sync::config::OnSlotLoss;
use users_sync::model::Deletes;

async fn fill(bed: &Bed, tenant: &str, users: u32) {
    let sql = format!(
        "INSERT INTO auth.users (id, org, first_name, email, created_at)
         SELECT 'u' || n, '{tenant}', 'Ann', n || '@x.org', '2024-02-29 12:00:00+00' FROM generate_series(1, {users}) n"
    );
    bed.auth(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_shapes_are_written() {
    let bed = Bed::start(&["plain", "neon"]).await;
    bed.server.sql("neon", GENERATED).await.unwrap();
    fill(&bed, "plain", 100).await;
    fill(&bed, "neon", 100).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.auth("UPDATE auth.users SET first_name = 'Bea', email = NULL, updated_at = now() WHERE id < 'u3'").await;
    bed.auth("DELETE FROM auth.users WHERE id > 'u8'").await;
    bed.auth("INSERT INTO auth.users (id, org, created_at) VALUES ('a', 'neon', '2024-01-01 00:00+00'), ('b', 'plain', now())").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_tenant_needs_no_tenant_column_and_deletes_can_be_hard() {
    let bed = Bed::start(&["acme"]).await;
    let mut config = bed.config();
    config.users.tenant = None;
    config.deletes = Deletes::Hard;
    fill(&bed, "acme", 100).await;
    let service = Service::start(config);
    bed.equal().await;
    bed.auth("DELETE FROM auth.users WHERE id > 'u5'; UPDATE auth.users SET email = 'x', updated_at = now()").await;
    bed.equal().await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL", "0").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_added_later_joins_without_disturbing_the_others() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, "acme", 50).await;
    fill(&bed, "globex", 50).await;
    let mut config = bed.config();
    let globex = config.tenants.pop().unwrap();
    let service = Service::start(config.clone());
    bed.state_is("acme", "following").await;
    service.stop().await;
    let since = bed.query("auth", "SELECT since FROM users_sync.tenant WHERE tenant = 'acme'").await;
    bed.auth("UPDATE auth.users SET first_name = 'Meanwhile', updated_at = now()").await;
    config.tenants.push(globex);
    let service = Service::start(config);
    bed.state_is("globex", "following").await;
    bed.equal().await;
    assert_eq!(since, bed.query("auth", "SELECT since FROM users_sync.tenant WHERE tenant = 'acme'").await);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_target_delays_no_other_tenant() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, "acme", 50).await;
    fill(&bed, "globex", 50).await;
    let mut config = bed.config();
    // The discard port has no listener.
    Arc::make_mut(&mut config.tenants[1]).target.port = 9;
    let service = Service::start(config);
    bed.state_is("acme", "following").await;
    bed.auth("UPDATE auth.users SET first_name = 'On', updated_at = now()").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'On'", "50").await;
    service.stop().await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_table_is_never_merged() {
    let bed = Bed::start(&["rows", "other", "fine"]).await;
    for tenant in ["rows", "other", "fine"] {
        fill(&bed, tenant, 10).await;
    }
    bed.server
        .sql(
            "rows",
            "CREATE SCHEMA neon_auth; CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL,
             name text, email text, created_at timestamptz, deleted_at timestamptz, updated_at timestamptz);
             INSERT INTO neon_auth.users_sync (id, raw_json) VALUES ('theirs', '{}')",
        )
        .await
        .unwrap();
    bed.server
        .sql(
            "other",
            "CREATE SCHEMA users_sync; CREATE TABLE users_sync.checkpoint (only_row boolean PRIMARY KEY DEFAULT true,
             tenant text NOT NULL, target_id uuid NOT NULL, generation bigint NOT NULL, position pg_lsn NOT NULL,
             epoch bigint NOT NULL, mapping text NOT NULL);
             INSERT INTO users_sync.checkpoint VALUES (true, 'another', gen_random_uuid(), 1, '0/1', 1, '')",
        )
        .await
        .unwrap();
    let service = Service::start(bed.config());
    bed.state_is("fine", "following").await;
    bed.state_is("rows", "parked").await;
    bed.state_is("other", "parked").await;
    bed.becomes("rows", "SELECT string_agg(id, ' ') FROM neon_auth.users_sync", "theirs").await;
    bed.becomes("other", "SELECT count(*) FROM neon_auth.users_sync", "0").await;

    // The remedies work.
    bed.server.sql("other", "DELETE FROM users_sync.checkpoint").await.unwrap();
    bed.state_is("other", "following").await;
    let remedy = "SELECT remedy FROM users_sync.tenant WHERE tenant = 'rows'";
    assert_eq!(bed.query("auth", remedy).await[0][0].as_deref(), Some("users-sync adopt -c FILE rows"));
    let file = bed.config_file("");
    let adopt = ["adopt", "-c", file.path().to_str().unwrap(), "rows", "--yes"];
    // All users that the table had would go.
    let (text, code) = said(&command(&adopt).await);
    assert!(code == Some(1) && text.contains("1 of 1 users would be marked as deleted"), "{text}");
    let (text, code) = said(&command(&[&adopt[..], &["--allow-deletes"]].concat()).await);
    assert_eq!(code, Some(0), "{text}");
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_would_delete_too_many_is_refused() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, "acme", 300).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.auth("TRUNCATE auth.users").await;
    bed.state_is("acme", "parked").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL", "300").await;
    service.stop().await;
    // With 100 % any number may go, but an empty snapshot needs permission.
    let mut config = bed.config();
    config.limits.max_deletes.percent = 100.0;
    let service = Service::start(config.clone());
    bed.becomes("auth", "SELECT reason LIKE '%would delete 300 of 300 users%(299)' FROM users_sync.tenant", "t").await;
    service.stop().await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('only', 'acme')").await;
    let service = Service::start(config);
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_table_holds_back_no_wal() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, "acme", 10).await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    bed.auth("CREATE TABLE busy AS SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n").await;
    let here = bed.query("auth", "SELECT pg_current_wal_lsn()").await[0][0].clone().unwrap();
    let passed = format!("SELECT confirmed_flush_lsn >= '{here}'::pg_lsn - 65536 FROM pg_replication_slots");
    bed.becomes("auth", &passed, "t").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_or_emptied_target_is_filled_again() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, "acme", 10).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    // As an older backup would have it.
    bed.server.sql("acme", "CREATE TABLE backup AS TABLE users_sync.checkpoint").await.unwrap();
    bed.auth("UPDATE auth.users SET first_name = 'Later', updated_at = now()").await;
    bed.equal().await;
    let sql = "DELETE FROM users_sync.checkpoint; INSERT INTO users_sync.checkpoint TABLE backup;
         UPDATE neon_auth.users_sync SET name = 'Ann', raw_json = raw_json || '{\"first_name\": \"Ann\"}'";
    bed.server.sql("acme", sql).await.unwrap();
    bed.auth("UPDATE auth.users SET email = 'new', updated_at = now() WHERE id = 'u1'").await;
    bed.equal().await;
    bed.server.sql("acme", "DROP SCHEMA neon_auth CASCADE").await.unwrap();
    bed.auth("UPDATE auth.users SET email = 'newer', updated_at = now() WHERE id = 'u1'").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_tenant_can_be_added_again() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, "acme", 10).await;
    fill(&bed, "globex", 10).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    let mut config = bed.config();
    config.tenants.pop();
    let service = Service::start(config);
    bed.state_is("globex", "parked").await;
    bed.auth("UPDATE auth.users SET first_name = 'Meanwhile', updated_at = now()").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Meanwhile'", "10").await;
    service.stop().await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_is_recreated_with_a_resync_or_stops_the_process() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, "acme", 10).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    bed.auth("UPDATE auth.users SET first_name = 'Unseen', updated_at = now()").await;
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync')").await;
    let mut config = bed.config();
    config.on_slot_loss = OnSlotLoss::Stop;
    let error = Service::start(config).fails().await.to_string();
    assert!(error.contains("slot users_sync no longer exists") && error.contains("on_slot_loss: resync"), "{error}");
    bed.becomes("auth", "SELECT count(*) FROM pg_replication_slots", "0").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.becomes("auth", "SELECT generation FROM users_sync.tenant", "2").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_a_new_key_gets_other_users() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, "acme", 10).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'g' || n, 'globex' FROM generate_series(1, 10) n").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    let mut config = bed.config();
    config.limits.max_deletes.percent = 100.0;
    let [acme, globex] = &mut config.tenants[..] else { panic!("two tenants") };
    std::mem::swap(&mut Arc::make_mut(acme).key, &mut Arc::make_mut(globex).key);
    let service = Service::start(config);
    let live = "SELECT string_agg(DISTINCT left(id, 1), '') FROM neon_auth.users_sync WHERE deleted_at IS NULL";
    bed.becomes("acme", live, "g").await;
    bed.becomes("globex", live, "u").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapped_column_can_be_renamed_together_with_the_configuration() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, "acme", 10).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    // The slot still holds changes of the old table.
    bed.auth("UPDATE auth.users SET email = 'before', updated_at = now()").await;
    bed.auth("ALTER TABLE auth.users RENAME email TO mail").await;
    bed.auth("UPDATE auth.users SET mail = 'after', updated_at = now() WHERE id = 'u1'").await;
    let error = Service::start(bed.config()).fails().await.to_string();
    assert!(error.contains("users.email") && error.contains("\"email\""), "{error}");
    let mut config = bed.config();
    config.users.email = Some(users_sync::map::Value::Column("mail".into()));
    let service = Service::start(config);
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE email = 'before'", "9").await;
    bed.becomes("acme", "SELECT email FROM neon_auth.users_sync WHERE id = 'u1'", "after").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_publication_gets_a_new_slot() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, "acme", 10).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    bed.auth("UPDATE auth.users SET email = 'unseen', updated_at = now()").await;
    bed.auth("DROP PUBLICATION users_sync").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.auth("UPDATE auth.users SET email = 'seen', updated_at = now()").await;
    bed.equal().await;
    service.stop().await;
    bed.auth("ALTER PUBLICATION users_sync DROP TABLE auth.users").await;
    bed.auth("UPDATE auth.users SET email = 'never sent', updated_at = now()").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

/// After a kill the slot resends what the target holds, possibly more than a mailbox takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_larger_than_the_mailbox_is_processed() {
    let bed = Bed::start(&["acme"]).await;
    let mut config = bed.config();
    config.limits.tenant_memory = 1 << 20;
    let service = Service::start(config.clone());
    bed.state_is("acme", "following").await;
    fill(&bed, "acme", 30_000).await;
    bed.equal().await;
    service.stop().await;
    // As if nothing had been confirmed: a copy of the slot from before the changes.
    bed.auth("SELECT pg_copy_logical_replication_slot('users_sync', 'older')").await;
    bed.auth("UPDATE auth.users SET email = 'replayed', updated_at = now()").await;
    let service = Service::start(config.clone());
    bed.equal().await;
    service.stop().await;
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync')").await;
    bed.auth("SELECT pg_copy_logical_replication_slot('older', 'users_sync')").await;
    let service = Service::start(config);
    bed.auth("UPDATE auth.users SET email = 'after', updated_at = now() WHERE id = 'u7'").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_an_earlier_version_is_migrated() {
    let bed = Bed::start(&["acme"]).await;
    let config = bed.config_file("");
    let path = config.path().to_str().unwrap();
    let process = Process::start(&config);
    fill(&bed, "acme", 20).await;
    bed.state_is("acme", "following").await;
    bed.equal().await;
    assert!(process.stop().await.success());
    bed.auth("ALTER TABLE users_sync.source DROP COLUMN publication, DROP COLUMN received, DROP COLUMN behind").await;
    let (text, _) = said(&command(&["status", "-c", path]).await);
    assert!(text.contains("acme"), "{text}");
    let (process, log) = Process::start_logged(&config);
    bed.auth("UPDATE auth.users SET email = 'later', updated_at = now()").await;
    bed.equal().await;
    bed.becomes("auth", "SELECT received >= confirmed AND publication <> '' FROM users_sync.source", "t").await;
    assert!(process.stop().await.success());
    assert!(!log.text().contains("starting over"), "{}", log.text());
}

/// A server has any number of names: only its databases tell whether two targets are one.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_two_tenants_reach_by_two_names_belongs_to_one_of_them() {
    let bed = Bed::start(&["acme", "globex"]).await;
    let proxy = TcpProxy::start((Ipv4Addr::LOCALHOST, bed.server.port()).into()).await.unwrap();
    let by_name = bed.server.url("acme").replace(&bed.server.port().to_string(), &proxy.port().to_string());
    let targets = |globex: String| [("acme".to_owned(), bed.server.url("acme")), ("globex".to_owned(), globex)];
    let file = config_file(&bed.server.url("auth"), &targets(by_name), "");
    let path = file.path().to_str().unwrap();
    bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('a', 'acme', now()), ('g', 'globex', now())").await;
    let (process, log) = Process::start_logged(&file);
    log.says("reason_code=\"foreign\"").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.tenant WHERE state = 'following'", "1").await;
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert!(text.contains(", by another name [foreign]") && code == Some(1), "{text}");
    let (text, code) = said(&command(&["status", "-c", path]).await);
    assert!(text.contains("degraded foreign ") && code == Some(1), "{text}");
    // Both may create the tables at once: that passes.
    assert!(!log.text().contains("drop constraint"), "{}", log.text());
    assert!(process.stop().await.success());
}
