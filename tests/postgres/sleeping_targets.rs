//! A new session connects to no target for which nothing waits.

use crate::support::process::{Process, command};
use crate::support::{Bed, DEADLINE, pause};
use rustix::process::Signal;
use std::path::PathBuf;
use tokio::time::Instant;
use users_sync::throwaway::Options;

/// The server's log, from the end that it has now.
struct Connections {
    path: PathBuf,
    from: usize,
}

impl Connections {
    fn of(bed: &Bed) -> Connections {
        let path = bed.server.data_dir().with_file_name("server.log");
        let from = std::fs::read(&path).unwrap().len();
        Connections { path, from }
    }

    /// How often users-sync has logged in to this database since.
    fn to(&self, database: &str) -> usize {
        let log = std::fs::read(&self.path).unwrap();
        let log = String::from_utf8_lossy(&log[self.from..]).into_owned();
        log.lines().filter(|line| line.contains(&format!("database={database} application_name=users-sync"))).count()
    }

    /// Waits for this many.
    async fn reach(&self, database: &str, times: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.to(database) < times {
            assert!(Instant::now() < deadline, "{database}: {} connections, not {times}", self.to(database));
            pause().await;
        }
    }
}

async fn add(bed: &Bed, id: &str) {
    let tenant = id.trim_end_matches(char::is_numeric);
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('{id}', '{tenant}', 'Ann', now())"
    ))
    .await;
}

async fn has(bed: &Bed, id: &str) {
    let tenant = id.trim_end_matches(char::is_numeric);
    bed.becomes(tenant, &format!("SELECT count(*) FROM neon_auth.users_sync WHERE id = '{id}'"), "1").await;
}

/// The source ends the connection, and the process begins another session.
async fn end_session(bed: &Bed) {
    let ended = bed.query("auth", "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_replication").await;
    let pid = ended[0][0].clone().unwrap();
    bed.becomes("auth", &format!("SELECT count(*) FROM pg_stat_replication WHERE pid <> {pid}"), "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_sleeps_through_restarts_until_something_waits_for_it() {
    let mut bed = Bed::start_with(&["acme", "globex"], Options::new().set("log_connections", "on")).await;
    let config = bed.config_file("");
    for id in ["acme1", "globex1"] {
        add(&bed, id).await;
    }
    let process = Process::start(&config);
    bed.equal().await;
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "following").await;
    }
    assert!(process.stop().await.success());

    // A restart. The other tenant's change shows that the session has begun.
    let connections = Connections::of(&bed);
    let process = Process::start(&config);
    add(&bed, "globex2").await;
    has(&bed, "globex2").await;
    assert_eq!((connections.to("globex"), connections.to("acme")), (1, 0));
    // A crash.
    process.kill();
    let (process, log) = Process::start_logged(&config);
    add(&bed, "globex3").await;
    has(&bed, "globex3").await;
    assert_eq!((connections.to("globex"), connections.to("acme")), (2, 0));
    // A new session of the same process.
    end_session(&bed).await;
    add(&bed, "globex4").await;
    has(&bed, "globex4").await;
    assert_eq!((connections.to("globex"), connections.to("acme")), (3, 0));
    // What was there while nothing ran, and what comes later.
    add(&bed, "acme2").await;
    has(&bed, "acme2").await;
    assert_eq!(connections.to("acme"), 1);
    assert!(process.stop().await.success(), "{}", log.text());
    add(&bed, "acme3").await;
    let process = Process::start(&config);
    bed.equal().await;
    assert!(process.stop().await.success());

    // What a person does with a target makes it be looked at: a request, a pause, another address.
    let connections = Connections::of(&bed);
    let process = Process::start(&config);
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    bed.state_is("acme", "following").await;
    let path = config.path().to_str().unwrap();
    let run = async |arguments: &[&str]| {
        let output = command(&[arguments, &["-c", path]].concat()).await;
        assert!(output.status.success(), "{output:?}");
    };
    run(&["pause", "globex", "--reason", "new disk"]).await;
    run(&["resume", "globex"]).await;
    connections.reach("globex", 1).await;
    assert!(process.stop().await.success());
    run(&["pause", "globex", "--reason", "new disk"]).await;
    run(&["resume", "globex"]).await;
    let connections = Connections::of(&bed);
    let process = Process::start(&config);
    connections.reach("globex", 1).await;
    let yaml = std::fs::read_to_string(config.path()).unwrap();
    let (here, there) = (bed.server.url("acme"), bed.server.url("acme").replace("127.0.0.1", "localhost"));
    assert_ne!(here, there);
    std::fs::write(config.path(), yaml.replace(&here, &there)).unwrap();
    assert_eq!(connections.to("acme"), 0);
    process.signal(Signal::HUP);
    connections.reach("acme", 1).await;
    assert!(process.stop().await.success());

    // An emptied table is noticed with the next change.
    bed.server.sql("acme", "TRUNCATE neon_auth.users_sync").await.unwrap();
    let process = Process::start(&config);
    add(&bed, "acme4").await;
    bed.equal().await;
    assert!(process.stop().await.success());

    // A source that has started again may have been restored to an older point.
    bed.server.restart().await.unwrap();
    let connections = Connections::of(&bed);
    let process = Process::start(&config);
    for tenant in ["acme", "globex"] {
        connections.reach(tenant, 1).await;
    }
    assert!(process.stop().await.success());
}

/// Also with `deletes.purge_after`: the state knows when the next users are due.
#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_targets_only_those_with_changes_are_connected_to() {
    let tenants: Vec<String> = (0..50).map(|n| format!("t{n:02}x")).collect();
    let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
    let bed = Bed::start_with(&names, Options::new().set("log_connections", "on")).await;
    let config = bed.config_file("deletes: {mode: soft, purge_after: 30d}");
    bed.auth(
        "INSERT INTO auth.users (id, org, updated_at) SELECT 'u' || n, 't' || lpad(n::text, 2, '0') || 'x', now()
              FROM generate_series(0, 49) n",
    )
    .await;
    let process = Process::start(&config);
    let settled =
        "SELECT count(*) FROM users_sync.tenant WHERE state = 'following' AND purge_due > now() + interval '1 day'";
    bed.equal().await;
    bed.becomes("auth", settled, "50").await;
    assert!(process.stop().await.success());

    let changed = ["t07x", "t23x"];
    let connections = Connections::of(&bed);
    let sleeping = |times| {
        let connected: Vec<(&str, usize)> =
            names.iter().map(|name| (*name, connections.to(name))).filter(|(_, times)| *times > 0).collect();
        assert_eq!(connected, changed.map(|name| (name, times)));
    };
    let (process, log) = Process::start_logged(&config);
    for session in 1..=2 {
        for tenant in changed {
            add(&bed, &format!("{tenant}{session}")).await;
            has(&bed, &format!("{tenant}{session}")).await;
        }
        sleeping(session);
        if session == 1 {
            end_session(&bed).await;
        }
    }
    assert!(process.stop().await.success(), "{}", log.text());
    sleeping(2);
}
