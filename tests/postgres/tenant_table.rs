//! Tenants from a table (`tenants.from`) of a real database: they are added, moved and removed while the others follow, and no
//! fault of the table or of its server ends a tenant.

use crate::support::http::get;
use crate::support::lights::free_address;
use crate::support::process::{Process, command, said};
use crate::support::{Bed, DEADLINE, pause};
use rustix::process::Signal;
use std::io::Write;
use std::time::Instant;
use tempfile::NamedTempFile;
use users_sync::throwaway::{Options, PostgresServer};

const USERS: &str = "users: {table: auth.users, id: id, name: {join: [first_name, last_name]}, email: email, created_at: created_at, \
                     updated_at: updated_at, deleted_at: deleted_at, tenant: org}\n";

/// A database with the table, on a server of its own.
struct Control {
    server: PostgresServer,
}

impl Control {
    async fn start() -> Control {
        let server = PostgresServer::start(Options::new()).await.unwrap();
        server.create_database("control").await.unwrap();
        let table = "CREATE TABLE public.tenants (id text, target text, is_active boolean DEFAULT true)";
        server.sql("control", table).await.unwrap();
        Control { server }
    }

    async fn sql(&self, sql: &str) {
        self.server.sql("control", sql).await.unwrap();
    }

    async fn add(&self, bed: &Bed, tenant: &str) {
        self.sql(&format!("INSERT INTO public.tenants VALUES ('{tenant}', '{}')", bed.server.url(tenant))).await;
    }

    fn config(&self, bed: &Bed, from: &str, more: &str) -> NamedTempFile {
        let text = format!(
            "source: {{url: '{}'}}\n{USERS}tenants:\n  from:\n    url: '{}'\n    {from}\n{more}",
            bed.server.url("auth"),
            self.server.url("control")
        );
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }
}

/// Only a notification makes it read the table.
const NOTIFIED: &str =
    "query: SELECT id, target FROM public.tenants WHERE is_active\n    every: 1d\n    channel: Tenants Changed";
const NOTIFY: &str = "; NOTIFY \"Tenants Changed\"";
/// It is read every second.
const POLLED: &str = "query: SELECT id, target FROM public.tenants WHERE is_active\n    every: 1s";

async fn add_user(bed: &Bed, id: &str, org: &str) {
    bed.auth(&format!("INSERT INTO auth.users (id, org, first_name) VALUES ('{id}', '{org}', 'Ann')")).await;
}

async fn holds(bed: &Bed, database: &str, users: &str) {
    bed.becomes(database, "SELECT to_regclass('neon_auth.users_sync') IS NOT NULL", "t").await;
    bed.becomes(database, "SELECT count(*) FROM neon_auth.users_sync", users).await;
}

async fn sessions(bed: &Bed) -> Option<String> {
    bed.query("auth", "SELECT count(*) FROM users_sync.epoch").await[0][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_added_moved_and_removed_by_rows() {
    let bed = Bed::start(&["acme", "globex", "elsewhere"]).await;
    let control = Control::start().await;
    control.add(&bed, "acme").await;
    add_user(&bed, "a1", "acme").await;
    add_user(&bed, "g1", "globex").await;
    let config = control.config(&bed, NOTIFIED, "");
    let (process, log) = Process::start_logged(&config);
    holds(&bed, "acme", "1").await;

    control.add(&bed, "globex").await;
    control.sql(&format!("SELECT 1{NOTIFY}")).await;
    holds(&bed, "globex", "1").await;
    let moved = format!("UPDATE public.tenants SET target = '{}' WHERE id = 'globex'", bed.server.url("elsewhere"));
    control.sql(&format!("{moved}{NOTIFY}")).await;
    holds(&bed, "elsewhere", "1").await;
    add_user(&bed, "g2", "globex").await;
    holds(&bed, "elsewhere", "2").await;
    holds(&bed, "globex", "1").await;

    // The connection that listens is lost: the table is read at once when it is there again.
    control.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'ROLLBACK%' AND pid <> pg_backend_pid()").await;
    control.sql(&format!("UPDATE public.tenants SET is_active = false WHERE id = 'globex'{NOTIFY}")).await;
    bed.state_is("globex", "parked").await;
    add_user(&bed, "a2", "acme").await;
    holds(&bed, "acme", "2").await;
    assert_eq!(sessions(&bed).await.as_deref(), Some("1"), "{}", log.text());
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_table_ends_a_tenant() {
    let bed = Bed::start(&["acme", "globex", "initech"]).await;
    let mut control = Control::start().await;
    control.add(&bed, "acme").await;
    add_user(&bed, "a0", "acme").await;
    let admin = free_address();
    let config = control.config(&bed, POLLED, &format!("admin: {{listen: '{admin}'}}\n"));
    let (process, log) = Process::start_logged(&config);
    holds(&bed, "acme", "1").await;
    shows(admin, &[]).await;

    // A row with a fault, in a result that has a good new one.
    control.sql("UPDATE public.tenants SET target = 'postgres://u:hunter2@h:x/acme'").await;
    control.add(&bed, "globex").await;
    add_user(&bed, "g0", "globex").await;
    holds(&bed, "globex", "1").await;
    shows(admin, &["tenant_unusable"]).await;
    let (text, code) = said(&command(&["check", "-c", config.path().to_str().unwrap()]).await);
    assert!(text.contains("the row of tenant acme cannot be used") && code == Some(0), "{text}");
    // It would leave the target of that tenant as it is.
    let (text, code) = said(&command(&["teardown", "-c", config.path().to_str().unwrap(), "--yes"]).await);
    assert!(text.contains("correct the rows of the table of tenants first") && code == Some(1), "{text}");

    // Each of these is refused, or returns nothing: both tenants go on.
    for (number, (fault, codes)) in [
        ("DELETE FROM public.tenants", &["tenant_unusable"][..]),
        ("ALTER TABLE public.tenants RENAME TO moved", &["tenants_unread", "tenant_unusable"]),
        (
            "ALTER TABLE public.moved RENAME TO tenants; ALTER TABLE public.tenants RENAME target TO url",
            &["tenants_unread", "tenant_unusable"],
        ),
        ("ALTER TABLE public.tenants RENAME url TO target", &["tenant_unusable"]),
    ]
    .into_iter()
    .enumerate()
    {
        control.sql(fault).await;
        shows(admin, codes).await;
        for tenant in ["acme", "globex"] {
            add_user(&bed, &format!("{tenant}{number}"), tenant).await;
            holds(&bed, tenant, &(number + 2).to_string()).await;
        }
    }

    control.add(&bed, "acme").await;
    control.add(&bed, "globex").await;
    shows(admin, &[]).await;

    // Its server is away.
    control.server.stop().await.unwrap();
    shows(admin, &["tenants_unread"]).await;
    add_user(&bed, "last", "acme").await;
    holds(&bed, "acme", "6").await;
    control.server.restart().await.unwrap();
    control.add(&bed, "initech").await;
    add_user(&bed, "i0", "initech").await;
    holds(&bed, "initech", "1").await;
    shows(admin, &[]).await;
    assert_eq!(sessions(&bed).await.as_deref(), Some("1"));
    assert!(!log.text().contains("hunter2"), "{}", log.text());
    assert!(process.stop().await.success());
}

/// Waits until the verdict has exactly these codes.
async fn shows(admin: std::net::SocketAddr, codes: &[&str]) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let status = get(admin, "/api/status").await.json();
        let reasons = status["verdict"]["reasons"].as_array().cloned().unwrap_or_default();
        let shown: Vec<_> = reasons.iter().map(|reason| reason["code"].as_str().unwrap_or_default()).collect();
        if shown == codes && status["verdict"].is_object() {
            return;
        }
        assert!(Instant::now() < deadline, "{codes:?} expected: {status}");
        pause().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_tables_server_and_refuses_a_wrong_query() {
    let bed = Bed::start(&["acme"]).await;
    let mut control = Control::start().await;
    control.add(&bed, "acme").await;
    add_user(&bed, "a0", "acme").await;
    for (query, expected) in [
        ("query: SELECT id, target FROM tenants", "42P01"),
        ("query: SELEKT 1", "42601"),
        ("query: SELECT target FROM public.tenants", "no column id"),
        ("query: INSERT INTO public.tenants VALUES ('x') RETURNING id", "25006"),
        ("query: SET x.y = 1", "must be one SELECT"),
    ] {
        let config = control.config(&bed, query, "");
        for name in ["run", "check", "verify"] {
            let (text, code) = said(&command(&[name, "-c", config.path().to_str().unwrap()]).await);
            assert!(code == Some(1) && text.contains(expected), "{name}: {text}");
        }
    }
    control.server.stop().await.unwrap();
    let config = control.config(&bed, POLLED, "");
    let (process, log) = Process::start_logged(&config);
    log.says("the table of tenants cannot be read").await;
    // Neither ends it.
    process.signal(Signal::HUP);
    control.server.restart().await.unwrap();
    holds(&bed, "acme", "1").await;
    assert!(process.stop().await.success());

    // The tenants of an earlier process are not removed because the table is empty, or away.
    control.sql("DELETE FROM public.tenants").await;
    let (process, log) = Process::start_logged(&config);
    log.says("the result has no rows, although tenants of the table are replicated (1)").await;
    let path = config.path().to_str().unwrap();
    let paused = said(&command(&["pause", "-c", path, "acme", "--reason", "test"]).await);
    assert!(paused.1 == Some(0), "{paused:?}");
    control.server.stop().await.unwrap();
    let (text, code) = said(&command(&["status", "-c", path]).await);
    assert!(text.contains("the tenants are those that the state knows") && text.contains("acme"), "{text}");
    assert!(code.is_some_and(|code| code != 0), "{text}");
    assert_eq!(said(&command(&["resume", "-c", path, "acme"]).await).1, Some(0));
    control.server.restart().await.unwrap();
    control.add(&bed, "acme").await;
    add_user(&bed, "a1", "acme").await;
    holds(&bed, "acme", "2").await;
    assert!(!log.text().contains("snapshot requested"), "{}", log.text());
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_reads_a_secret_for_each_tenant_and_follows_its_rotation() {
    let bed = Bed::start_with(&["acme"], Options::new().auth("scram-sha-256")).await;
    bed.server.sql("auth", "CREATE ROLE app LOGIN PASSWORD 'first'; ALTER DATABASE acme OWNER TO app").await.unwrap();
    let control = Control::start().await;
    control.sql("INSERT INTO public.tenants (id, target) VALUES ('acme', 'not used')").await;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("acme");
    std::fs::write(&secret, "first\n").unwrap();
    let target = format!(
        "  target: 'postgres://app:${{file:{}/{{tenant}}}}@{{host}}:{}/{{tenant}}?sslmode=disable'\n",
        directory.path().display(),
        bed.server.port()
    );
    let from = "query: SELECT id, '127.0.0.1' AS host FROM public.tenants\n    every: 1s";
    let config = control.config(&bed, from, &target);
    let (process, log) = Process::start_logged(&config);
    add_user(&bed, "a1", "acme").await;
    holds(&bed, "acme", "1").await;
    bed.server.sql("auth", "ALTER ROLE app PASSWORD 'second'").await.unwrap();
    std::fs::write(&secret, "second\n").unwrap();
    log.says("connection settings changed").await;
    add_user(&bed, "a2", "acme").await;
    holds(&bed, "acme", "2").await;
    assert!(process.stop().await.success());
}
