//! All lights say one verdict: `status` with its exit code, `/readyz`, `/api/status` and the metrics name the same cause
//! for each fault, and are clear again once it is fixed.

use super::health::free_port;
use crate::support::http::get;
use crate::support::process::{Process, command, config_file, said};
use crate::support::{Bed, DEADLINE, pause};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;
use tempfile::NamedTempFile;
use users_sync::throwaway::Options;

struct Lights {
    source: Bed,
    targets: Bed,
    config: NamedTempFile,
    at: SocketAddr,
}

/// What one light shows: the level and the codes.
type Shown = (String, Vec<String>);

impl Lights {
    async fn start() -> Lights {
        let source = Bed::start_with(&[], Options::new()).await;
        let targets = Bed::start(&["acme", "globex", "state"]).await;
        source.auth("INSERT INTO auth.users (id, org, email, updated_at) VALUES ('a', 'acme', 'a@x', now())").await;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let more = format!("admin: {{listen: '{at}'}}\nstate: {{url: '{}'}}", targets.server.url("state"));
        let urls = ["acme", "globex"].map(|name| (name.to_owned(), targets.server.url_for("postgres", name)));
        let config = config_file(&source.server.url("auth"), &urls, &more);
        Lights { source, targets, config, at }
    }

    /// What `status` shows. The exit code follows from the level.
    async fn status(&self) -> Shown {
        let output = command(&["status", "-c", self.config.path().to_str().unwrap(), "--json"]).await;
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{:?}", said(&output)));
        let shown = read(&document["verdict"]);
        let code = match &*shown.0 {
            "ok" => 0,
            "degraded" => 1,
            _ => 3,
        };
        assert_eq!(output.status.code(), Some(code), "{text}");
        shown
    }

    /// What the process itself shows; `None` if it does not answer.
    async fn of_process(&self) -> [Shown; 3] {
        let status = get(self.at, "/api/status").await.json();
        let ready = get(self.at, "/readyz").await.json();
        let metrics = get(self.at, "/metrics").await.body;
        let level = metrics.lines().find_map(|line| line.strip_prefix("users_sync_verdict "));
        let level = match level.unwrap() {
            "0" => "ok",
            "1" => "degraded",
            _ => "failed",
        };
        let codes = metrics.lines().filter_map(|line| line.strip_prefix("users_sync_verdict_reasons{code=\""));
        let codes = codes.filter_map(|rest| rest.split_once("\"} "));
        let mut codes: Vec<String> =
            codes.filter(|(_, count)| *count != "0").map(|(code, _)| code.to_owned()).collect();
        codes.sort_unstable();
        [read(&status["verdict"]), read(&ready), (level.to_owned(), codes)]
    }

    /// Waits until every light shows the level and, unless it is `ok`, the code.
    #[track_caller]
    fn show<'a>(&'a self, level: &'a str, code: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let is_wanted = |shown: &Shown| shown.0 == level && (level == "ok" || shown.1.iter().any(|c| c == code));
            let begun = Instant::now();
            // A parked tenant is tried again within 60 s.
            let deadline = begun + 3 * DEADLINE;
            loop {
                let [status, ready, metrics] = self.of_process().await;
                let shown = [self.status().await, status, ready, metrics];
                if shown.iter().all(is_wanted) {
                    println!("{caller}: {level} {code} after {:?}", begun.elapsed());
                    return;
                }
                assert!(Instant::now() < deadline, "{caller}: {level} {code}, but {shown:?}");
                pause().await;
            }
        }
    }
}

fn read(verdict: &Value) -> Shown {
    let mut codes: Vec<String> = Vec::new();
    for reason in verdict["reasons"].as_array().unwrap() {
        let code = reason["code"].as_str().unwrap().to_owned();
        assert!(!reason["text"].as_str().unwrap().is_empty(), "{verdict}");
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    codes.sort_unstable();
    (verdict["level"].as_str().unwrap().to_owned(), codes)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_light_names_the_cause_of_a_fault_and_is_clear_once_it_is_fixed() {
    let mut lights = Lights::start().await;
    let output = command(&["status", "-c", lights.config.path().to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(3), "before the first start: {:?}", said(&output));
    let process = Process::start(&lights.config);
    super::health::is_ready(lights.at.port()).await;
    // No user has the key of globex.
    lights.show("degraded", "tenant_without_users").await;
    lights.source.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('g', 'globex', now())").await;
    lights.show("ok", "").await;

    // At the source.
    for (fault, fix, code) in [
        (
            "ALTER TABLE auth.users RENAME email TO mail; UPDATE auth.users SET updated_at = now()",
            "ALTER TABLE auth.users RENAME mail TO email",
            "mapping_unfit",
        ),
        (
            "ALTER PUBLICATION users_sync SET (publish = 'insert')",
            "ALTER PUBLICATION users_sync SET (publish = 'insert, update, delete, truncate')",
            "source_unready",
        ),
    ] {
        lights.source.auth(fault).await;
        lights.show("failed", code).await;
        lights.source.auth(fix).await;
        lights.show("ok", "").await;
    }

    // At a target.
    let admin = &lights.targets.server;
    for (fault, fix, code, wakes) in [
        (
            "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT no_bad CHECK (name <> 'Bad')",
            "ALTER TABLE neon_auth.users_sync DROP CONSTRAINT no_bad",
            "rejected_users",
            "UPDATE auth.users SET first_name = 'Bad', updated_at = now()",
        ),
        (
            "ALTER TABLE neon_auth.users_sync RENAME COLUMN name TO full_name",
            "ALTER TABLE neon_auth.users_sync RENAME COLUMN full_name TO name",
            "altered",
            "UPDATE auth.users SET first_name = 'Ann', updated_at = now()",
        ),
    ] {
        admin.sql("acme", fault).await.unwrap();
        lights.source.auth(wakes).await;
        lights.show("degraded", code).await;
        admin.sql("acme", fix).await.unwrap();
        lights.source.auth("UPDATE auth.users SET first_name = 'Zoe', updated_at = now()").await;
        lights.show("ok", "").await;
    }

    // A server is down.
    lights.source.server.stop_immediate().await.unwrap();
    lights.show("failed", "source_unreachable").await;
    lights.source.server.restart().await.unwrap();
    lights.show("ok", "").await;

    // No process, and then no slot.
    process.kill();
    let deadline = Instant::now() + DEADLINE;
    let shows = async |code: &str| loop {
        let shown = lights.status().await;
        if shown.0 == "failed" && shown.1.iter().any(|found| found == code) {
            return;
        }
        assert!(Instant::now() < deadline, "{code}: {shown:?}");
        pause().await;
    };
    shows("not_running").await;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
    lights.source.auth(drop).await;
    shows("slot_gone").await;
    let process = Process::start(&lights.config);
    super::health::is_ready(lights.at.port()).await;
    lights.show("ok", "").await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_light_names_a_fault_of_a_login_a_target_or_the_state() {
    let lights = Lights::start().await;
    lights.source.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('g', 'globex', now())").await;
    let process = Process::start(&lights.config);
    super::health::is_ready(lights.at.port()).await;
    lights.show("ok", "").await;
    let wakes = async || lights.source.auth("UPDATE auth.users SET updated_at = clock_timestamp()").await;
    let end = |database: &str| {
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
    };
    let targets = &lights.targets.server;

    // A lock on the target's table, which no statement fails for.
    let locker = targets.connect("acme").await.unwrap();
    locker.batch_execute("BEGIN; LOCK TABLE neon_auth.users_sync IN ACCESS EXCLUSIVE MODE").await.unwrap();
    wakes().await;
    lights.show("degraded", "target_no_answer").await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    lights.show("ok", "").await;

    // In a target, each with what undoes it. The second tenant follows.
    for (fault, fix, code) in [
        ("ALTER DATABASE acme SET default_transaction_read_only = on", "ALTER DATABASE acme RESET ALL", "rights"),
        (
            "ALTER DATABASE acme ALLOW_CONNECTIONS false",
            "ALTER DATABASE acme ALLOW_CONNECTIONS true",
            "target_unreachable",
        ),
        ("ALTER DATABASE acme RENAME TO moved", "ALTER DATABASE moved RENAME TO acme", "login"),
    ] {
        targets.sql("postgres", &format!("{}; SELECT 1", end("acme"))).await.unwrap();
        targets.sql("postgres", fault).await.unwrap();
        targets.sql("postgres", &end("acme")).await.unwrap();
        wakes().await;
        lights.show("degraded", code).await;
        targets.sql("postgres", fix).await.unwrap();
        targets.sql("postgres", &end("acme")).await.unwrap();
        lights.show("ok", "").await;
    }
    targets.sql("acme", "ALTER SCHEMA neon_auth RENAME TO theirs").await.unwrap();
    wakes().await;
    lights.show("degraded", "altered").await;
    targets
        .sql("acme", "DROP SCHEMA IF EXISTS neon_auth CASCADE; ALTER SCHEMA theirs RENAME TO neon_auth")
        .await
        .unwrap();
    lights.show("ok", "").await;

    // The source refuses the role, and the state cannot be reached.
    let refuses = "ALTER DATABASE auth RENAME TO elsewhere";
    lights.source.server.sql("postgres", &end("auth")).await.unwrap();
    lights.source.server.sql("postgres", refuses).await.unwrap();
    lights.source.server.sql("postgres", &end("elsewhere")).await.unwrap();
    lights.show("failed", "source_login").await;
    lights.source.server.sql("postgres", "ALTER DATABASE elsewhere RENAME TO auth").await.unwrap();
    lights.show("ok", "").await;
    targets.sql("postgres", "ALTER DATABASE state ALLOW_CONNECTIONS false").await.unwrap();
    targets.sql("postgres", &end("state")).await.unwrap();
    lights.show("failed", "state_unavailable").await;
    targets.sql("postgres", "ALTER DATABASE state ALLOW_CONNECTIONS true").await.unwrap();
    lights.show("ok", "").await;
    assert!(process.stop().await.success());
}
