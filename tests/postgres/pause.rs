//! Paused tenants get nothing and lose nothing: they continue where they were, or are resynced past a limit.

use crate::support::Bed;
use crate::support::process::{Process, command, said};

const CONNECTIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = 'acme' AND application_name LIKE 'users-sync%'";
const VERSIONS: &str = "SELECT id, xmin FROM neon_auth.users_sync WHERE id LIKE '%-1' ORDER BY id";

/// Users of every tenant, with ids that begin with `prefix`.
async fn sign_up(bed: &Bed, prefix: &str) {
    for tenant in &bed.tenants {
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name, updated_at)
             SELECT '{prefix}-' || n, '{tenant}', 'Ann', now() FROM generate_series(1, 20) n"
        ))
        .await;
    }
}

/// Waits until the tenant's target has every user.
async fn has_all(bed: &Bed, tenant: &str) {
    let users = bed.expected(tenant).await.len().to_string();
    bed.becomes(tenant, "SELECT count(*) FROM neon_auth.users_sync", &users).await;
}

/// Runs a command. Returns its output and exit code.
async fn run(path: &str, arguments: &[&str]) -> (String, Option<i32>) {
    said(&command(&[&["-c", path], arguments].concat()).await)
}

#[track_caller]
fn assert_said((text, code): &(String, Option<i32>), expected: i32, words: &[&str]) {
    assert!(*code == Some(expected) && words.iter().all(|word| text.contains(word)), "{code:?}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_tenant_gets_nothing_and_continues_where_it_was_also_after_a_failover() {
    let bed = Bed::start(&["acme", "globex"]).await;
    sign_up(&bed, "a").await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    assert_said(&run(path, &["pause", "acme", "--reason", "x"]).await, 1, &["`run` has not started"]);
    assert_said(&run(path, &["resume", "--all"]).await, 1, &["`run` has not started"]);
    let first = Process::start(&file);
    bed.equal().await;
    let versions = bed.query("acme", VERSIONS).await;

    // Wrong usage.
    assert_said(&run(path, &["pause", "acme"]).await, 2, &["--reason"]);
    assert_said(&run(path, &["pause", "--reason", "x"]).await, 2, &["TENANT"]);
    assert_said(&run(path, &["pause", "acme", "--all", "--reason", "x"]).await, 2, &["--all"]);
    assert_said(&run(path, &["pause", "acme", "--reason", " "]).await, 1, &["must not be empty"]);
    assert_said(&run(path, &["pause", "acne", "--reason", "x"]).await, 1, &["no tenant acne", "did you mean acme?"]);

    // The command returns once the process has closed its connection.
    assert_said(&run(path, &["pause", "acme", "--reason", "new 'schema'"]).await, 0, &["acme: paused"]);
    assert_eq!(bed.query("auth", CONNECTIONS).await[0][0].as_deref(), Some("0"));
    assert_said(&run(path, &["pause", "acme", "--reason", "y"]).await, 0, &["paused already", "new 'schema'"]);
    assert_said(
        &run(path, &["resync", "acme"]).await,
        1,
        &["acme is paused", "new 'schema'", "users-sync resume acme"],
    );

    sign_up(&bed, "b").await;
    has_all(&bed, "globex").await;
    assert_eq!(bed.held("acme").await.len(), 20);
    let status = run(path, &["status"]).await;
    assert_said(&status, 1, &["verdict: degraded", "tenant_paused acme: it is paused", "new 'schema'"]);
    assert_said(&status, 1, &["bytes of the source's WAL, at most 1073741824", "-> users-sync resume acme"]);
    let (json, _) = run(path, &["status", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let acme = &json["tenants"][0];
    assert_eq!((&acme["state"], &acme["paused"]["reason"]), (&"paused".into(), &"new 'schema'".into()));
    assert!(acme["paused"]["wal_held_bytes"].as_u64() > Some(0), "{acme}");
    assert_eq!(json["tenants"][1]["state"], "following");

    // A standby takes over, and leaves the tenant paused.
    let (second, log) = Process::start_logged(&file);
    log.says("waiting as a standby").await;
    first.kill();
    log.says("paused").await;
    sign_up(&bed, "c").await;
    has_all(&bed, "globex").await;
    assert_eq!(bed.held("acme").await.len(), 20);
    let held_back = "SELECT confirmed_flush_lsn < (SELECT received FROM users_sync.source) FROM pg_replication_slots";
    bed.becomes("auth", held_back, "t").await;

    assert_said(
        &run(path, &["resume", "acme", "globex"]).await,
        0,
        &["acme: resumed (following)", "globex: was not paused"],
    );
    bed.equal().await;
    assert_eq!(bed.query("acme", VERSIONS).await[0], versions[0]);
    assert!(!log.text().contains("snapshot requested"), "{}", log.text());
    bed.becomes("auth", "SELECT count(*) FROM users_sync.tenant WHERE paused IS NULL", "2").await;
    bed.becomes("auth", held_back, "f").await;
    assert!(second.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_paused_without_a_process_stay_paused_and_are_parked_past_a_limit() {
    let bed = Bed::start(&["acme", "globex"]).await;
    sign_up(&bed, "a").await;
    let file = bed.config_file("limits: {tenant_memory: 100kB, source_wal: 4MB}");
    let path = file.path().to_str().unwrap();
    let process = Process::start(&file);
    bed.equal().await;
    assert!(process.stop().await.success());
    let paused = run(path, &["pause", "--all", "--reason", "upgrade", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&paused.0).unwrap();
    assert_eq!((paused.1, &json["is_running"]), (Some(0), &false.into()), "{json}");
    let globex = serde_json::json!({"tenant": "globex", "result": "paused", "is_done": true, "is_changed": true,
        "state": "paused", "reason": "upgrade", "by": json["tenants"][1]["by"]});
    assert_eq!(json["tenants"][1], globex);

    // A restart does not end it, and what waits in memory is bounded, also if no other tenant is delayed.
    let (process, log) = Process::start_logged(&file);
    log.says_times("paused", 2).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name, updated_at)
         SELECT 'm-' || n, 'acme', repeat('x', 1000), now() FROM generate_series(1, 400) n",
    )
    .await;
    bed.state_is("acme", "parked").await;
    let row =
        &bed.query("auth", "SELECT reason_code, reason, remedy FROM users_sync.tenant WHERE tenant = 'acme'").await[0];
    let row: Vec<&str> = row.iter().map(|value| value.as_deref().unwrap()).collect();
    let why = "it was paused (upgrade), and what waits for it exceeds limits.tenant_memory or limits.memory";
    assert_eq!(row, ["memory", why, "users-sync resume acme"]);

    // So is what it holds back at the source.
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE org = 'globex'").await;
    bed.auth("CREATE TABLE other AS SELECT n, repeat('x', 1000) AS x FROM generate_series(1, 10000) n").await;
    bed.state_is("globex", "parked").await;
    let codes = "SELECT string_agg(reason_code, ' ' ORDER BY tenant) FROM users_sync.tenant";
    bed.becomes("auth", codes, "memory log").await;
    assert_said(&run(path, &["status"]).await, 3, &["nothing_replicates", "memory acme", "tenant_paused globex"]);

    // Resumed, both are resynced at once.
    assert_said(&run(path, &["resume", "--all"]).await, 0, &["acme: resumed", "globex: resumed"]);
    bed.equal().await;
    bed.state_is("globex", "following").await;
    assert!(process.stop().await.success());
}
