//! Connections cut at the worst moment, and processes that resume too late.

use crate::support::process::{Process, config_file};
use crate::support::proxy::{Direction, TcpProxy};
use crate::support::{Bed, DEADLINE, Service, pause};
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

/// The history of what was visible: number of users, and checkpoints.
const HISTORY: &str = "
    CREATE SCHEMA history;
    CREATE TABLE history.checkpoints (n bigserial, position pg_lsn, users bigint);
    CREATE FUNCTION history.checkpoint_seen() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO history.checkpoints (position, users)
      SELECT NEW.position, (SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'); RETURN NULL; END $$;
    CREATE TRIGGER seen AFTER INSERT OR UPDATE OF position ON users_sync.checkpoint FOR EACH ROW
      EXECUTE FUNCTION history.checkpoint_seen()";

async fn proxy(bed: &Bed) -> TcpProxy {
    TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap()
}

async fn fill(bed: &Bed, users: u32) {
    let sql = format!(
        "INSERT INTO auth.users (id, org, first_name, updated_at)
         SELECT 'u' || n, (ARRAY['acme', 'globex'])[1 + n % 2], 'Ann', now() FROM generate_series(1, {users}) n"
    );
    bed.auth(&sql).await;
}

/// Asserts that positions are unique and increasing, and that the changed users became visible all at once.
async fn history_is_clean(bed: &Bed, tenant: &str, all: &str) {
    let stuck = "SELECT count(*) FROM (SELECT position <= lag(position) OVER (ORDER BY n) AS stuck
                 FROM history.checkpoints) h WHERE stuck";
    assert_eq!(bed.query(tenant, stuck).await[0][0].as_deref(), Some("0"), "{tenant}: a checkpoint did not rise");
    let parts = format!("SELECT count(*) FROM history.checkpoints WHERE users NOT IN (0, {all})");
    assert_eq!(bed.query(tenant, &parts).await[0][0].as_deref(), Some("0"), "{tenant}: a part was visible");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_inside_a_source_transaction_applies_it_once_and_whole() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 40_000).await;
    let proxy = proxy(&bed).await;
    let mut config = bed.config();
    config.source.url.port = proxy.port();
    let service = Service::start(config);
    bed.equal().await;
    for tenant in ["acme", "globex"] {
        bed.server.sql(tenant, HISTORY).await.unwrap();
    }
    proxy.cut_after_bytes(Direction::ToClient, 3_000_000);
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    proxy.wait_cut().await;
    bed.equal().await;
    service.stop().await;
    for tenant in ["acme", "globex"] {
        history_is_clean(&bed, tenant, "20000").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_between_commit_and_reply_applies_nothing_twice() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, 40000) n").await;
    let proxy = proxy(&bed).await;
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[0]).target.port = proxy.port();
    let service = Service::start(config);
    bed.equal().await;
    bed.server.sql("acme", HISTORY).await.unwrap();
    // First one statement, then a transaction in chunks.
    for (needle, change) in [
        (
            &b"users_sync.checkpoint SET position"[..],
            "UPDATE auth.users SET email = 'a', updated_at = now() WHERE id = 'u1'",
        ),
        (b"COMMIT", "UPDATE auth.users SET first_name = 'Bea', updated_at = now()"),
    ] {
        proxy.swallow_reply_to(needle);
        bed.auth(change).await;
        proxy.wait_cut().await;
        bed.equal().await;
    }
    service.stop().await;
    history_is_clean(&bed, "acme", "40000").await;
    // The lost replies belonged to committed transactions, so they caused no resync.
    let joined = bed.query("acme", "SELECT count(*) FROM history.checkpoints").await;
    assert_eq!(joined[0][0].as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_in_a_backlog_of_full_batches_loses_nothing() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, 20000) n").await;
    let proxy = proxy(&bed).await;
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[0]).target.port = proxy.port();
    let service = Service::start(config.clone());
    bed.equal().await;
    service.stop().await;
    bed.server.sql("acme", HISTORY).await.unwrap();
    // A backlog of full batches: small transactions, each far smaller than a batch.
    let auth = bed.server.connect("auth").await.unwrap();
    auth.batch_execute(
        "CREATE PROCEDURE auth.churn() LANGUAGE plpgsql AS $$ BEGIN FOR n IN 1..20000 LOOP
           UPDATE auth.users SET email = n || '@x.org', updated_at = clock_timestamp() WHERE id = 'u' || n; COMMIT;
         END LOOP; END $$",
    )
    .await
    .unwrap();
    // The procedure commits, so the CALL cannot share a query with other statements.
    auth.batch_execute("CALL auth.churn()").await.unwrap();
    // Some 4 MB go to the target. The cut falls inside what is sent, and before the reply.
    let service = {
        proxy.cut_after_bytes(Direction::ToServer, 1_500_000);
        Service::start(config)
    };
    proxy.wait_cut().await;
    proxy.swallow_reply_to(b"users_sync.checkpoint SET position");
    proxy.wait_cut().await;
    bed.equal().await;
    service.stop().await;
    history_is_clean(&bed, "acme", "20000").await;
    let resyncs = bed.query("auth", "SELECT count(*) FROM users_sync.tenant WHERE state <> 'following'").await;
    assert_eq!(resyncs[0][0].as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_survives_a_cut_at_source_or_target() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 40_000).await;
    let (source, target) = (proxy(&bed).await, proxy(&bed).await);
    let mut config = bed.config();
    config.source.url.port = source.port();
    Arc::make_mut(&mut config.tenants[0]).target.port = target.port();
    source.cut_after_bytes(Direction::ToClient, 500_000);
    target.cut_after_bytes(Direction::ToServer, 500_000);
    let service = Service::start(config);
    source.wait_cut().await;
    target.wait_cut().await;
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE id < 'u2'").await;
    bed.equal().await;
    service.stop().await;
}

/// SIGSTOP stops the old process with a statement in flight, a new one takes over, then the statement arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_arrives_after_the_takeover_writes_nothing() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('u1', 'acme', 'Ann', now())").await;
    let held = proxy(&bed).await;
    let through = |port: u16| bed.server.url("acme").replace(&bed.server.port().to_string(), &port.to_string());
    let old_file = config_file(&bed.server.url("auth"), &[("acme".into(), through(held.port()))], "");
    let mut old = Process::start(&old_file);
    bed.equal().await;
    bed.server.sql("acme", HISTORY).await.unwrap();

    held.freeze(true);
    bed.auth("UPDATE auth.users SET first_name = 'Old', updated_at = now()").await;
    // The confirmed position shows that it has read the change. What it sends to the target waits in the proxy.
    let sent = "SELECT sent_lsn >= pg_current_wal_lsn() FROM pg_stat_replication WHERE application_name = 'users-sync'";
    bed.becomes("auth", sent, "t").await;
    old.signal(Signal::STOP);
    bed.auth("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await;

    let new_file = bed.config_file("");
    let new = Process::start(&new_file);
    bed.becomes("acme", "SELECT name FROM neon_auth.users_sync", "Old").await;
    bed.auth("UPDATE auth.users SET first_name = 'New', updated_at = now()").await;
    bed.equal().await;
    held.freeze(false);
    old.signal(Signal::CONT);
    // The old process finds its successor and becomes the standby.
    bed.becomes(
        "auth",
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'acme' AND state = 'active' AND query LIKE 'WITH%'",
        "0",
    )
    .await;
    bed.auth("UPDATE auth.users SET first_name = 'Newer', updated_at = now()").await;
    bed.equal().await;
    history_is_clean(&bed, "acme", "0").await;
    let positions = bed.query("acme", "SELECT count(*) FROM history.checkpoints").await;
    assert_eq!(positions[0][0].as_deref(), Some("3"), "one move of the checkpoint a change");
    assert!(old.is_running());
    old.kill();
    assert!(new.stop().await.success());
}

/// The old process is stopped with a chunked transaction open in the target. The new one gets past its locks.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_gets_past_the_open_transaction_of_a_frozen_process() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, 60000) n").await;
    let old_file = bed.config_file("");
    let mut old = Process::start(&old_file);
    bed.equal().await;
    bed.server.sql("acme", HISTORY).await.unwrap();
    let writer = bed.server.connect("auth").await.unwrap();
    let changing = tokio::spawn(async move {
        writer.batch_execute("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await.unwrap();
    });
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'acme' AND application_name LIKE 'users-sync%'
                AND backend_xid IS NOT NULL";
    let deadline = Instant::now() + DEADLINE;
    while bed.query("acme", open).await[0][0].as_deref() != Some("1") {
        assert!(Instant::now() < deadline, "no chunked transaction was seen");
    }
    old.signal(Signal::STOP);
    changing.await.unwrap();
    bed.auth("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await;
    let new = Process::start(&old_file);
    // As idle_in_transaction_session_timeout does after a minute.
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'acme' AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + DEADLINE;
    while bed.query("acme", blocked).await[0][0].as_deref() != Some("1") {
        assert!(Instant::now() < deadline, "the new process does not wait for the old one's transaction");
        pause().await;
    }
    let frozen = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'acme'
                  AND application_name LIKE 'users-sync%' AND state LIKE 'idle in transaction%'";
    let deadline = Instant::now() + DEADLINE;
    while bed.query("acme", frozen).await.is_empty() {
        assert!(Instant::now() < deadline, "the frozen transaction is not idle");
        pause().await;
    }
    bed.equal().await;
    old.signal(Signal::CONT);
    bed.auth("UPDATE auth.users SET email = 'after', updated_at = now() WHERE id = 'u1'").await;
    bed.equal().await;
    history_is_clean(&bed, "acme", "60000").await;
    assert!(old.is_running());
    old.kill();
    assert!(new.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_target_does_not_delay_the_shutdown() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 10).await;
    let silent = proxy(&bed).await;
    let urls = [silent.port(), bed.server.port()].map(|port| {
        let url = bed.server.url("TENANT");
        url.replace(&bed.server.port().to_string(), &port.to_string())
    });
    let targets = ["acme", "globex"].map(str::to_owned);
    let targets: Vec<_> =
        targets.iter().zip(&urls).map(|(tenant, url)| (tenant.clone(), url.replace("TENANT", tenant))).collect();
    let file = config_file(&bed.server.url("auth"), &targets, "");
    let process = Process::start(&file);
    bed.equal().await;
    silent.freeze(true);
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'", "5").await;
    // The target stays silent: a shutdown that waited for it would not end before the deadline.
    assert!(process.stop().await.success());
    silent.freeze(false);
    let process = Process::start(&file);
    bed.equal().await;
    assert!(process.stop().await.success());
}
