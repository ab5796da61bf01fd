//! Format `debezium` read by others: Debezium's JDBC sink in Kafka Connect, and Flink SQL.

use crate::bed::TeeBed;
use crate::broker::{BRIEF, Broker, libraries};
use crate::connect::jdbc_sink;
use crate::consumer::arrive;
use crate::support::process::Process;
use crate::support::{HELD, pause};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

const FLINK: &str = "2.2.1";

/// Java programs load many classes before they do anything.
const PATIENCE: Duration = Duration::from_secs(240);

/// Users from before the tee's first start arrive as `r`.
const THERE: &str = r#"INSERT INTO auth.users (id, org, first_name, last_name, email, encrypted_password, profile, created_at)
    VALUES ('ann', 'acme', 'Ann', 'O''Neill "x" \', 'ann@example.com', 'secret', '{"a": [1, "ü", "\n"]}',
            '2024-05-01 12:00:00.000001+00'),
           ('eve', 'acme', 'Eve', NULL, 'eve@example.com', NULL, NULL, '1999-12-31 23:59:59.999999+00'),
           ('zed', 'globex', 'Zed', NULL, NULL, NULL, NULL, '2024-05-01')"#;

/// Sign-up, update, soft delete, hard delete, new id, and moves out of and into the tenant. Each is a transaction of its
/// own; then all of them are one.
const LIFE: [&str; 9] = [
    "INSERT INTO auth.users (id, org, first_name, email) VALUES ('bob', 'acme', 'Bob', ''), ('cy', 'acme', NULL, 'c@d')",
    "INSERT INTO auth.users (id, org, first_name, profile) SELECT 'm' || n, 'acme', 'Many', '{}' FROM generate_series(1, 50) n",
    "UPDATE auth.users SET first_name = 'Anna', updated_at = '2024-06-01 00:00:00.5+00' WHERE id = 'ann'",
    "UPDATE auth.users SET deleted_at = '2024-07-01 01:02:03+02', updated_at = '2024-07-01' WHERE id = 'ann'",
    "DELETE FROM auth.users WHERE id IN ('bob', 'm7')",
    "UPDATE auth.users SET id = 'cyd', updated_at = now() WHERE id = 'cy'",
    "UPDATE auth.users SET org = 'globex', updated_at = now() WHERE id = 'eve'",
    "UPDATE auth.users SET org = 'acme', updated_at = now() WHERE id = 'zed'",
    "BEGIN; INSERT INTO auth.users (id, org) VALUES ('dan', 'acme'), ('fay', 'acme'); \
     UPDATE auth.users SET email = id || '@x.org', updated_at = now() WHERE id IN ('dan', 'm1'); \
     UPDATE auth.users SET id = 'fae', updated_at = now() WHERE id = 'fay'; \
     INSERT INTO auth.users (id, org, deleted_at) VALUES ('gus', 'acme', now()); DELETE FROM auth.users WHERE id = 'm1'; COMMIT",
];

/// The number of messages in acme's topic afterwards.
const MESSAGES: usize = 76;

async fn live(bed: &TeeBed) {
    for statement in LIFE {
        bed.auth(statement).await;
    }
}

/// Starts a program, which is killed on drop. Its output goes to the files `out` and `log`.
pub fn start(directory: &Path, command: std::process::Command) -> Child {
    let file = |name: &str| std::fs::File::create(directory.join(name)).unwrap();
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).stdout(file("out")).stderr(file("log")).kill_on_drop(true).spawn().unwrap()
}

pub fn said(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}

/// The options of a JVM that runs for seconds.
fn brief() -> Vec<&'static str> {
    BRIEF.into_iter().chain(["-Xmx512m"]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn debeziums_jdbc_sink_rebuilds_the_same_table() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "jdbc", "schemas: true", "deletes: hard").await;
    bed.bed.server.create_database("sink").await.unwrap();
    bed.bed.server.sql("sink", "CREATE SCHEMA neon_auth").await.unwrap();
    bed.auth(THERE).await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    let directory = TempDir::new().unwrap();
    let sink = jdbc_sink(directory.path(), &bed.brokers, "jdbc.acme", bed.bed.server.port(), &brief());
    let mut connect = start(directory.path(), sink);
    live(&bed).await;
    bed.bed.equal().await;
    // On its own it would create a json column.
    let held = HELD.replace("raw_json::text", "raw_json::jsonb::text");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let is_there = !bed.bed.held("sink").await.is_empty();
        let held = if is_there { bed.bed.query("sink", &held).await } else { Vec::new() };
        let expected = bed.bed.expected("acme").await;
        if held.iter().eq(&expected) {
            break;
        }
        let log = said(directory.path(), "log");
        assert!(connect.try_wait().unwrap().is_none() && Instant::now() < deadline, "{held:?}\n{expected:?}\n{log}");
        pause().await;
    }
    let types = "SELECT column_name || ' ' || data_type FROM information_schema.columns \
                 WHERE table_schema = 'neon_auth' ORDER BY ordinal_position";
    let types: Vec<_> = bed.bed.query("sink", types).await.into_iter().map(|row| row[0].clone().unwrap()).collect();
    let [created, deleted, updated] =
        ["created", "deleted", "updated"].map(|at| format!("{at}_at timestamp with time zone"));
    assert_eq!(types, ["id text", "raw_json json", "name text", "email text", &*created, &*deleted, &*updated]);
    let expected = bed.bed.expected("acme").await;
    assert!(expected.len() > 50 && expected.iter().any(|row| row[6].is_some()));
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn flinks_changelog_ends_with_the_same_users() {
    let broker = Broker::shared();
    let mut beds = Vec::new();
    for schemas in ["false", "true"] {
        let section = format!("schemas: {schemas}");
        let bed = TeeBed::start(broker, &format!("flink.{schemas}"), &section, "deletes: hard").await;
        // Flink retracts the previous row on an update or a delete, so that row must be complete (as in Debezium).
        bed.auth("ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
        bed.auth(THERE).await;
        let process = Process::start(&bed.file);
        bed.tee_is("following").await;
        live(&bed).await;
        arrive(broker, &bed.topic("acme"), MESSAGES);
        assert!(process.stop().await.success());
        beds.push(bed);
    }
    let program = format!("{}/tests/kafka/Flink.java", env!("CARGO_MANIFEST_DIR"));
    let directory = TempDir::new().unwrap();
    let mut flink = std::process::Command::new("java");
    flink.current_dir(directory.path()).args(brief()).arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn");
    flink.args(["-cp", &libraries("flink", FLINK), &program, &broker.address()]);
    flink.args(["flink.false.acme", "false", "flink.true.acme", "true"]);
    let mut flink = start(directory.path(), flink);
    let ended = timeout(PATIENCE, flink.wait()).await;
    assert!(ended.is_ok_and(|ended| ended.unwrap().success()), "{}", said(directory.path(), "log"));
    let out = said(directory.path(), "out");
    for bed in beds {
        let mut rows: Vec<&str> = Vec::new();
        for line in out.lines() {
            let [kind, topic, row] = line.splitn(3, '\t').collect::<Vec<_>>()[..] else { panic!("{out}") };
            if topic != bed.topic("acme") {
                continue;
            }
            match kind {
                "+I" | "+U" => rows.push(row),
                _ => {
                    let taken_back = rows.iter().position(|there| there == &row);
                    rows.swap_remove(taken_back.unwrap_or_else(|| panic!("{row} was never there\n{out}")));
                }
            }
        }
        let user = |row: &str| {
            let fields: Vec<Option<&str>> = row.split('\t').map(|field| (field != "null").then_some(field)).collect();
            let [id, raw_json, name, email, created_at, deleted_at, updated_at] = fields[..] else { panic!("{row}") };
            let raw_json: Value = serde_json::from_str(raw_json.unwrap()).unwrap();
            let user = json!({"id": id, "raw_json": raw_json, "name": name, "email": email,
                "created_at": created_at, "deleted_at": deleted_at, "updated_at": updated_at});
            (id.unwrap().to_owned(), user)
        };
        assert_eq!(rows.len(), rows.iter().map(|row| user(row).0).collect::<BTreeSet<_>>().len());
        assert_eq!(rows.into_iter().map(user).collect::<BTreeMap<_, _>>(), bed.users("acme").await);
    }
}
