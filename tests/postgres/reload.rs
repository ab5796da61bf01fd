//! A new configuration for a running process: tenants are added, removed and moved. An invalid file changes nothing.

use crate::support::Bed;
use crate::support::process::Process;
use crate::support::proxy::TcpProxy;
use rustix::process::Signal;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use tempfile::TempDir;
use users_sync::throwaway::Options;

/// A directory with a configuration that includes its tenants from `tenants.d`.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new(bed: &Bed, more: &str) -> Files {
        let files = Files { directory: tempfile::tempdir().unwrap() };
        std::fs::create_dir(files.directory.path().join("tenants.d")).unwrap();
        files.write_main(bed, more);
        files
    }

    fn write_main(&self, bed: &Bed, more: &str) {
        let text = format!(
            "source: {{url: '{}'}}\nusers: {{table: auth.users, id: id, name: {{join: [first_name, last_name]}}, \
             email: email, created_at: created_at, updated_at: updated_at, deleted_at: deleted_at, tenant: org{more}}}\n\
             include: [tenants.d/*.yaml]\n",
            bed.server.url("auth")
        );
        std::fs::write(self.main(), text).unwrap();
    }

    fn main(&self) -> PathBuf {
        self.directory.path().join("users-sync.yaml")
    }

    fn tenant(&self, bed: &Bed, id: &str, database: &str) {
        let text = format!("tenants: [{{id: {id}, target: '{}'}}]\n", bed.server.url(database));
        std::fs::write(self.directory.path().join(format!("tenants.d/{id}.yaml")), text).unwrap();
    }

    fn without(&self, id: &str) {
        std::fs::remove_file(self.directory.path().join(format!("tenants.d/{id}.yaml"))).unwrap();
    }
}

async fn add(bed: &Bed, id: &str, org: &str) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('{id}', '{org}', 'Ann', now())"
    ))
    .await;
}

/// The number of sessions: each has an epoch.
async fn sessions(bed: &Bed) -> Option<String> {
    bed.query("auth", "SELECT count(*) FROM users_sync.epoch").await[0][0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_added_removed_and_moved_while_the_others_follow() {
    let bed = Bed::start(&["acme", "globex", "elsewhere"]).await;
    let files = Files::new(&bed, "");
    files.tenant(&bed, "acme", "acme");
    for (id, org) in [("a1", "acme"), ("g1", "globex")] {
        add(&bed, id, org).await;
    }
    let process = Process::start_at(&files.main());
    bed.state_is("acme", "following").await;

    files.tenant(&bed, "globex", "globex");
    bed.state_is("globex", "following").await;
    add(&bed, "g2", "globex").await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync", "2").await;

    files.without("globex");
    bed.state_is("globex", "parked").await;
    add(&bed, "g3", "globex").await;
    add(&bed, "a2", "acme").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync", "2").await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync", "2").await;

    // The tenant is added again and gets what it missed; then its target moves.
    files.tenant(&bed, "globex", "globex");
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync", "3").await;
    bed.state_is("globex", "following").await;
    files.tenant(&bed, "globex", "elsewhere");
    bed.becomes("elsewhere", "SELECT count(*) FROM pg_class WHERE relname = 'users_sync'", "1").await;
    bed.becomes("elsewhere", "SELECT count(*) FROM neon_auth.users_sync", "3").await;
    add(&bed, "g4", "globex").await;
    bed.becomes("elsewhere", "SELECT count(*) FROM neon_auth.users_sync", "4").await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync", "3").await;

    // All in one session: the other tenants were not interrupted.
    assert_eq!(sessions(&bed).await.as_deref(), Some("1"));
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_changes_nothing_and_a_valid_one_is_applied() {
    let bed = Bed::start(&["acme"]).await;
    let files = Files::new(&bed, "");
    files.tenant(&bed, "acme", "acme");
    add(&bed, "a1", "acme").await;
    let mut process = Process::start_at(&files.main());
    bed.state_is("acme", "following").await;

    // Invalid YAML, an unknown key, a column that the table lacks, and a duplicate target.
    let bad = [": [", ", nmae: first_name", ", where: nowhere is null", ", exclude: [nothing]"];
    for (next, bad) in (2..).zip(bad) {
        files.write_main(&bed, bad);
        process.signal(Signal::HUP);
        let id = format!("a{next}");
        add(&bed, &id, "acme").await;
        bed.becomes("acme", &format!("SELECT count(*) FROM neon_auth.users_sync WHERE id = '{id}'"), "1").await;
        assert!(process.is_running() && sessions(&bed).await.as_deref() == Some("1"), "{bad}");
    }

    // A missing database: a working source is not given up for it.
    files.write_main(&bed, "");
    let elsewhere = std::fs::read_to_string(files.main()).unwrap().replace("/auth?", "/nowhere?");
    assert!(elsewhere.contains("/nowhere?"));
    std::fs::write(files.main(), elsewhere).unwrap();
    process.signal(Signal::HUP);
    add(&bed, "a6", "acme").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE id = 'a6'", "1").await;
    assert!(process.is_running() && sessions(&bed).await.as_deref() == Some("1"));

    // A changed mapping resyncs every tenant.
    files.write_main(&bed, ", exclude: [org]");
    process.signal(Signal::HUP);
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE raw_json ? 'org'", "0").await;
    bed.state_is("acme", "following").await;
    assert_eq!(sessions(&bed).await.as_deref(), Some("2"));
    assert!(process.stop().await.success());
}

/// Adds more tenants than targets are opened at once.
#[tokio::test(flavor = "multi_thread")]
async fn tenants_added_together_read_the_table_at_most_twice() {
    let names: Vec<String> = (0..150).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bed = Bed::start_with(&names, Options::new().set("max_connections", "300")).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 't' || n % 150 FROM generate_series(1, 3000) n").await;
    let files = Files::new(&bed, "");
    files.tenant(&bed, "t0", "t0");
    let process = Process::start_at(&files.main());
    bed.state_is("t0", "following").await;

    let all = names.iter().map(|name| format!("- {{id: {name}, target: '{}'}}\n", bed.server.url(name)));
    std::fs::write(files.directory.path().join("tenants.d/t0.yaml"), format!("tenants:\n{}", all.collect::<String>()))
        .unwrap();
    bed.becomes("auth", "SELECT count(*) FROM users_sync.tenant WHERE state = 'following'", "150").await;
    bed.becomes("t149", "SELECT count(*) FROM neon_auth.users_sync", "20").await;
    // One read was for the first tenant, which joined alone, and two counted the users of each key.
    let times = "SELECT seq_tup_read / 3000 FROM pg_stat_user_tables WHERE relname = 'users'";
    bed.becomes("auth", &format!("SELECT ({times}) >= 2"), "t").await;
    let times: u64 = bed.query("auth", times).await[0][0].as_ref().unwrap().parse().unwrap();
    assert!(times <= 5, "the table was read {times} times");
    assert!(process.stop().await.success());
}

/// Rotates the password of a tenant's role, and what else its URL says, under load.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_reached_in_another_way_is_not_resynced() {
    let bed = Bed::start_with(&["acme"], Options::new().auth("scram-sha-256")).await;
    let role = "CREATE ROLE app LOGIN PASSWORD 'first'; ALTER DATABASE acme OWNER TO app";
    bed.server.sql("auth", role).await.unwrap();
    let proxy = TcpProxy::start((Ipv4Addr::LOCALHOST, bed.server.port()).into()).await.unwrap();
    let files = Files::new(&bed, "");
    let write = |password: &str, host: &str, port: u16, more: &str| {
        let text = format!(
            "tenants: [{{id: acme, target: 'postgres://app:{password}@{host}:{port}/acme?sslmode=disable'{more}}}]\n"
        );
        std::fs::write(files.directory.path().join("tenants.d/acme.yaml"), text).unwrap();
    };
    let port = bed.server.port();
    write("first", "127.0.0.1", port, "");
    let (process, log) = Process::start_logged(files.main());
    add(&bed, "u0", "acme").await;
    bed.equal().await;

    // The old password still works for open connections; the next one needs the new one.
    let ways = [
        ("second", "127.0.0.1", port, ""),
        ("second", "localhost", port, ""),
        ("second", "127.0.0.1", proxy.port(), ""),
        ("second", "127.0.0.1", proxy.port(), ", wake_after: 1s"),
        ("second", "127.0.0.1", port, ""),
    ];
    for (n, (password, host, port, more)) in ways.into_iter().enumerate() {
        bed.server.sql("auth", &format!("ALTER ROLE app PASSWORD '{password}'")).await.unwrap();
        for user in 0..20 {
            add(&bed, &format!("u{n}-{user}"), "acme").await;
        }
        write(password, host, port, more);
        log.says_times("connection settings changed", n + 1).await;
        bed.equal().await;
        for user in 20..40 {
            add(&bed, &format!("u{n}-{user}"), "acme").await;
        }
        bed.equal().await;
    }

    // A wrong password is tried again for a while; the right one is tried at once.
    write("wrong", "127.0.0.1", port, "");
    add(&bed, "late", "acme").await;
    bed.becomes("auth", "SELECT state || ' ' || reason_code FROM users_sync.tenant", "following target_login").await;
    write("second", "127.0.0.1", port, "");
    bed.equal().await;
    let text = log.text();
    assert_eq!(text.matches("snapshot requested").count(), 1, "{text}");
    assert!(process.stop().await.success());
}
