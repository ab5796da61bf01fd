//! All lights say one verdict: `status` with its exit code, `/readyz`, `/api/status` and the metrics name the same cause
//! for each fault, and are clear again once it is fixed.

use crate::support::lights::{Lights, free_address};
use crate::support::process::{command, config_file, said};
use crate::support::{Bed, DEADLINE, pause};
use std::time::Instant;
use users_sync::throwaway::Options;

struct Scene {
    source: Bed,
    targets: Bed,
    lights: Lights,
}

impl Scene {
    async fn start() -> Scene {
        let source = Bed::start_with(&[], Options::new()).await;
        let targets = Bed::start(&["acme", "globex", "state"]).await;
        source.auth("INSERT INTO auth.users (id, org, email, updated_at) VALUES ('a', 'acme', 'a@x', now())").await;
        let at = free_address();
        let more = format!("admin: {{listen: '{at}'}}\nstate: {{url: '{}'}}", targets.server.url("state"));
        let urls = ["acme", "globex"].map(|name| (name.to_owned(), targets.server.url_for("postgres", name)));
        let config = config_file(&source.server.url("auth"), &urls, &more);
        Scene { source, targets, lights: Lights::new(config, at) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_light_names_the_cause_of_a_fault_and_is_clear_once_it_is_fixed() {
    let Scene { mut source, targets, mut lights } = Scene::start().await;
    let output = command(&["status", "-c", lights.config.path().to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(3), "before the first start: {:?}", said(&output));
    let process = lights.run().await;
    // No user has the key of globex.
    lights.show("degraded", "tenant_without_users").await;
    source.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('g', 'globex', now())").await;
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
        source.auth(fault).await;
        lights.show("failed", code).await;
        source.auth(fix).await;
        lights.show("ok", "").await;
    }

    // At a target.
    let admin = &targets.server;
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
        source.auth(wakes).await;
        lights.show("degraded", code).await;
        admin.sql("acme", fix).await.unwrap();
        source.auth("UPDATE auth.users SET first_name = 'Zoe', updated_at = now()").await;
        lights.show("ok", "").await;
    }

    // A server is down.
    source.server.stop_immediate().await.unwrap();
    lights.show("failed", "source_unreachable").await;
    source.server.restart().await.unwrap();
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
    source.auth(drop).await;
    shows("slot_gone").await;
    let process = lights.run().await;
    lights.show("ok", "").await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_light_names_a_fault_of_a_login_a_target_or_the_state() {
    let Scene { source, targets, mut lights } = Scene::start().await;
    source.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('g', 'globex', now())").await;
    let process = lights.run().await;
    lights.show("ok", "").await;
    let wakes = async || source.auth("UPDATE auth.users SET updated_at = clock_timestamp()").await;
    let end = |database: &str| {
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )
    };
    let targets = &targets.server;

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
    source.server.sql("postgres", &end("auth")).await.unwrap();
    source.server.sql("postgres", refuses).await.unwrap();
    source.server.sql("postgres", &end("elsewhere")).await.unwrap();
    lights.show("failed", "source_login").await;
    source.server.sql("postgres", "ALTER DATABASE elsewhere RENAME TO auth").await.unwrap();
    lights.show("ok", "").await;
    targets.sql("postgres", "ALTER DATABASE state ALLOW_CONNECTIONS false").await.unwrap();
    targets.sql("postgres", &end("state")).await.unwrap();
    lights.show("failed", "state_unavailable").await;
    targets.sql("postgres", "ALTER DATABASE state ALLOW_CONNECTIONS true").await.unwrap();
    lights.show("ok", "").await;
    assert!(process.stop().await.success());
}
