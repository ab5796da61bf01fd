//! The auth store is never harmed by a snapshot: neither its migrations nor its logins wait for a target, whatever it does.

use crate::support::process::{Process, command, config_file};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, DEADLINE, Service, pause};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::Client;
use users_sync::config::Config;
use users_sync::map::{Query, Watch};
use users_sync::throwaway::Options;

/// What hangs until a test releases it.
const GATE: &str = "SELECT pg_advisory_lock(42)";
const OPEN: &str = "SELECT pg_advisory_unlock(42)";
/// Sessions that hang at the gate.
/// Not the count of users by key, which reads the same query.
const AT_GATE: &str = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND NOT granted AND query NOT LIKE '%GROUP BY%'";
/// Locks of users-sync on the users' table.
const READING: &str = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE relation = 'auth.users'::regclass AND application_name LIKE 'users-sync%'";
/// A row of a kilobyte that hardly compresses.
const PROFILE: &str =
    "jsonb_build_object('about', (SELECT string_agg(md5(n || '.' || m), '') FROM generate_series(1, 30) m))";

async fn add(bed: &Bed, tenant: &str, users: u32) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, profile, updated_at)
         SELECT '{tenant}' || n, '{tenant}', {PROFILE}, now() FROM generate_series(1, {users}) n"
    ))
    .await;
}

/// A session that keeps the gate closed.
async fn close_gate(bed: &Bed, database: &str) -> Client {
    let gate = bed.server.connect(database).await.unwrap();
    gate.batch_execute(GATE).await.unwrap();
    gate
}

/// A target whose first row hangs at the gate.
async fn hanging(bed: &Bed, tenant: &str) -> Client {
    bed.server
        .sql(
            tenant,
            "CREATE SCHEMA neon_auth;
             CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL, name text, email text,
               created_at timestamptz, updated_at timestamptz, deleted_at timestamptz);
             CREATE FUNCTION public.hang() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(42); RETURN NEW; END $$;
             CREATE TRIGGER hang BEFORE INSERT ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION public.hang()",
        )
        .await
        .unwrap();
    close_gate(bed, tenant).await
}

/// Files of this process in a directory, with or without a name.
fn open_files(directory: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten().map(|entry| std::fs::read_link(entry.path()));
    links.flatten().filter(|link| link.starts_with(directory)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joining_target_that_hangs_delays_neither_a_migration_nor_another_tenant() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 10_000).await;
    add(&bed, "globex", 100).await;
    let gate = hanging(&bed, "acme").await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = bed.config();
    config.limits.memory = 4 << 20;
    config.spool.directory = Some(directory.path().to_str().unwrap().to_owned());
    let service = Service::start(config);
    bed.becomes("acme", AT_GATE, "1").await;
    bed.state_is("globex", "following").await;
    bed.becomes("auth", READING, "0").await;
    assert_eq!(open_files(directory.path()), 1, "nothing was spooled");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "a file of the spool has a name");
    // Another scan, while the users of the first one are still waiting.
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'globex', false)")
        .await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    bed.state_is("globex", "following").await;
    bed.becomes("auth", READING, "0").await;
    bed.becomes("acme", AT_GATE, "1").await;
    let migrated = bed.auth("ALTER TABLE auth.users ADD COLUMN note text");
    timeout(DEADLINE, migrated).await.expect("the migration waits for a target");
    assert_eq!(bed.query("acme", AT_GATE).await[0][0].as_deref(), Some("1"));
    // DDL is noticed with the next change.
    bed.auth("UPDATE auth.users SET first_name = 'Bea' WHERE id = 'globex1'").await;
    gate.batch_execute(OPEN).await.unwrap();
    bed.equal().await;
    let deadline = Instant::now() + DEADLINE;
    while open_files(directory.path()) > 0 {
        assert!(Instant::now() < deadline, "the spool keeps a file");
        pause().await;
    }
    service.stop().await;
}

/// A mapping whose scan hangs at the gate of the auth database.
async fn gated(bed: &Bed) -> Config {
    bed.auth(
        "CREATE FUNCTION auth.gate() RETURNS boolean LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(42); RETURN true; END $$",
    )
    .await;
    let mut config = bed.config();
    let watch = Watch {
        is_users_own: true,
        table: config.users.table.clone(),
        key: vec!["id".into()],
        tenant: config.users.tenant.clone(),
        via: None,
    };
    let sql = "SELECT * FROM auth.users WHERE (SELECT auth.gate())".into();
    config.users.query = Some(Query { sql, key: vec!["id".into()], watch: vec![watch], distinct: Vec::new() });
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_a_scan_aborts_it_and_the_tenants_join_afterwards() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 10).await;
    add(&bed, "globex", 10).await;
    let config = gated(&bed).await;
    let gate = close_gate(&bed, "auth").await;
    let service = Service::start(config);
    for _ in 0..3 {
        bed.becomes("auth", AT_GATE, "1").await;
        let migrating = bed.auth("BEGIN; LOCK TABLE auth.users IN ACCESS EXCLUSIVE MODE; COMMIT");
        timeout(DEADLINE, migrating).await.expect("the scan was not aborted");
    }
    // After three of them, both wait.
    let paused = "SELECT count(*) FROM users_sync.tenant WHERE state = 'joining' AND reason_code = 'scan_aborted'
        AND reason LIKE 'its snapshot waits % s: 3 scans were aborted, %'";
    bed.becomes("auth", paused, "2").await;
    assert_eq!(bed.query("auth", AT_GATE).await[0][0].as_deref(), Some("0"));
    gate.batch_execute(OPEN).await.unwrap();
    bed.equal().await;
    service.stop().await;
}

/// Nothing reads yet: the first target cannot be reached.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_the_unused_snapshot_of_a_new_slot_releases_it() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 10).await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    proxy.refuse(true);
    let target = bed.server.url("acme").replace(&format!(":{}/", bed.server.port()), &format!(":{}/", proxy.port()));
    let config = config_file(&bed.server.url("auth"), &[("acme".to_owned(), target)], "");
    let (process, log) = Process::start_logged(&config);
    log.says("streaming").await;
    let indexing = bed.auth("CREATE INDEX CONCURRENTLY email ON auth.users (email)");
    timeout(DEADLINE, indexing).await.expect("the migration waits for a snapshot that nothing uses");
    log.says("the snapshot of the new slot was released before it was used").await;
    proxy.refuse(false);
    bed.equal().await;
    assert!(process.stop().await.success());
}

/// The same in `verify`, which is one scan, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_waits_for_verify_aborts_it() {
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 10).await;
    bed.auth(
        "CREATE FUNCTION auth.gate() RETURNS boolean LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(42); RETURN true; END $$",
    )
    .await;
    let yaml = std::fs::read_to_string(bed.config_file("").path()).unwrap();
    let query = "users: {query: 'SELECT * FROM auth.users WHERE (SELECT auth.gate())', key: id, watch: \
                 [{table: auth.users, key: id, tenant: org}], ";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml.replace("users: {", query)).unwrap();
    let process = Process::start(&file);
    bed.equal().await;
    let gate = close_gate(&bed, "auth").await;
    let path = file.path().to_str().unwrap().to_owned();
    let verifying = tokio::spawn(async move { command(&["verify", "-c", &path]).await });
    bed.becomes("auth", AT_GATE, "1").await;
    let migrating = bed.auth("BEGIN; LOCK TABLE auth.users IN ACCESS EXCLUSIVE MODE; COMMIT");
    timeout(DEADLINE, migrating).await.expect("the scan was not aborted");
    let output = verifying.await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("the scan of the source was aborted: another session waits for a lock that it blocks"),
        "{said}"
    );
    assert!(!output.status.success());
    gate.batch_execute(OPEN).await.unwrap();
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_lets_the_slowest_tenant_leave_which_joins_later() {
    let bed = Bed::start(&["acme", "globex"]).await;
    // In turns, so that both need room all the time.
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, profile) SELECT 'u' || n, (ARRAY['acme', 'globex'])[1 + n % 2], {PROFILE}
         FROM generate_series(1, 20000) n"
    ))
    .await;
    let gate = hanging(&bed, "acme").await;
    let directory = tempfile::tempdir().unwrap();
    let more = format!(
        "spool: {{directory: '{}', size: 2MB}}\nlimits: {{memory: 4MB, tenant_memory: 1MB, stall: 200ms}}",
        directory.path().display()
    );
    let file = bed.config_file(&more);
    let (process, log) = Process::start_logged(&file);
    bed.state_is("globex", "following").await;
    log.says("the spool is full: the slowest tenant leaves the snapshot").await;
    bed.becomes("acme", AT_GATE, "1").await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync", "10000").await;
    gate.batch_execute(OPEN).await.unwrap();
    bed.equal().await;
    assert!(log.text().contains("reason_code=\"spool_full\""), "{}", log.text());
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_used_is_reported_with_its_remedy() {
    let bed = Bed::start_with(&["acme"], Options::new()).await;
    let file = bed.config_file("spool: {directory: /dev/null/spool}");
    let path = file.path().to_str().unwrap();
    for arguments in [["check", "-c", path], ["run", "-c", path]] {
        let output = command(&arguments).await;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("no file can be created in spool.directory /dev/null/spool: "), "{said}");
        assert!(said.contains("create this directory for the user that runs users-sync"), "{said}");
    }
}

/// A directory that is lost later costs nothing but its use.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_removed_while_running_leaves_memory() {
    let bed = Bed::start(&["acme", "globex"]).await;
    add(&bed, "acme", 10_000).await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = bed.config();
    config.limits.memory = 4 << 20;
    config.limits.stall = Duration::from_secs(1);
    config.spool.directory = Some(directory.path().to_str().unwrap().to_owned());
    drop(directory);
    let service = Service::start(config);
    bed.equal().await;
    service.stop().await;
}
