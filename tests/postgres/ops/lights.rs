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

/// Ends the sessions in a database.
fn end(database: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    )
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
    // It is no fault for a command that is run before a process starts.
    assert!(!lights.check().await.contains(&"not_running".to_owned()));
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
    source.auth(drop).await;
    shows("slot_gone").await;
    // `run` repairs it, so that it is a note.
    assert!(lights.notes().await.contains(&"slot_gone".to_owned()));
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
    // The process creates the table again.
    lights.show_without_check("degraded", "altered").await;
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

#[tokio::test(flavor = "multi_thread")]
async fn every_light_names_a_password_a_publication_or_a_full_disk() {
    let with_passwords = || Options::new().auth("scram-sha-256");
    let source = Bed::start_with(&[], with_passwords()).await;
    let targets = Bed::start_with(&["acme", "globex", "state"], with_passwords()).await;
    let publish = "CREATE PUBLICATION users_sync FOR TABLE auth.users WITH (publish_via_partition_root = true)";
    // A role that may not repair the publication.
    source
        .auth(&format!(
            "CREATE ROLE reader LOGIN REPLICATION PASSWORD 'right'; GRANT USAGE ON SCHEMA auth TO reader;
             GRANT SELECT ON auth.users TO reader; {publish}; INSERT INTO auth.users (id, org, updated_at)
             VALUES ('a', 'acme', now()), ('g', 'globex', now())"
        ))
        .await;
    let (source_port, target_port) = (source.server.port(), targets.server.port());
    let at = free_address();
    let more = format!("admin: {{listen: '{at}'}}\nstate: {{url: '{}'}}", targets.server.url("state"));
    let urls = ["acme", "globex"]
        .map(|name| (name.to_owned(), format!("postgresql://{name}:right@127.0.0.1:{target_port}/{name}")));
    let config = config_file(&format!("postgresql://reader:right@127.0.0.1:{source_port}/auth"), &urls, &more);
    let mut lights = Lights::new(config, at);
    let (source, targets) = (&source.server, &targets.server);
    for (tenant, password) in [("acme", "right"), ("globex", "wrong")] {
        let role =
            format!("CREATE ROLE {tenant} LOGIN PASSWORD '{password}'; GRANT CREATE ON DATABASE {tenant} TO {tenant}");
        targets.sql("postgres", &role).await.unwrap();
    }
    let wakes = async || source.sql("auth", "UPDATE auth.users SET updated_at = clock_timestamp()").await.unwrap();

    // A tenant that never followed.
    let process = lights.run().await;
    lights.show("degraded", "login").await;
    targets.sql("postgres", "ALTER ROLE globex PASSWORD 'right'").await.unwrap();
    lights.show("ok", "").await;

    // The password of a role is changed, of a target and of the source.
    for (server, database, role, level, code) in
        [(targets, "acme", "acme", "degraded", "target_login"), (source, "auth", "reader", "failed", "source_login")]
    {
        server.sql("postgres", &format!("ALTER ROLE {role} PASSWORD 'wrong'")).await.unwrap();
        server.sql("postgres", &end(database)).await.unwrap();
        wakes().await;
        lights.show(level, code).await;
        server.sql("postgres", &format!("ALTER ROLE {role} PASSWORD 'right'")).await.unwrap();
        lights.show("ok", "").await;
    }

    for (fault, fix, code) in [
        ("DROP PUBLICATION users_sync", publish, "publication_missing"),
        (
            "ALTER PUBLICATION users_sync DROP TABLE auth.users",
            "ALTER PUBLICATION users_sync ADD TABLE auth.users",
            "source_unready",
        ),
    ] {
        source.sql("auth", fault).await.unwrap();
        wakes().await;
        lights.show("failed", code).await;
        source.sql("auth", fix).await.unwrap();
        lights.show("ok", "").await;
    }

    // The disk of a target is full: that of its large values, whose table is empty so far.
    let client = targets.connect("acme").await.unwrap();
    let file = "SELECT current_setting('data_directory') || '/' || pg_relation_filepath(reltoastrelid),
                pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'neon_auth.users_sync'::regclass";
    let row = client.query_one(file, &[]).await.unwrap();
    let (file, size): (String, i64) = (row.get(0), row.get(1));
    assert_eq!(size, 0, "{file}");
    let kept = format!("{file}.kept");
    std::fs::rename(&file, &kept).unwrap();
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    targets.sql("postgres", &end("acme")).await.unwrap();
    let large = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 300))";
    source
        .sql("auth", &format!("UPDATE auth.users SET first_name = {large}, updated_at = clock_timestamp()"))
        .await
        .unwrap();
    lights.show("degraded", "target_no_resources").await;
    assert!(lights.log().contains("SQLSTATE 53100"), "{}", lights.log());
    std::fs::rename(&kept, &file).unwrap();
    targets.sql("postgres", &end("acme")).await.unwrap();
    lights.show("ok", "").await;
    assert!(process.stop().await.success());
}
