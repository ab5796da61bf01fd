//! The auth store is never harmed: its commits, its settings, and what a process leaves behind.

use crate::remedies::statements;
use crate::support::majors::binaries;
use crate::support::pooler::Pooler;
use crate::support::process::{Process, command, config_file, said};
use crate::support::{Bed, DEADLINE, Service, USERS, pause};
use std::time::Instant;
use users_sync::capture::ReplicationConnection;
use users_sync::pg;
use users_sync::throwaway::{Options, PostgresServer};

/// Commits a change of the store. Fails if the commit has to wait for a standby that does not answer.
async fn commits(bed: &Bed, name: &str) {
    let sql = format!("UPDATE auth.users SET first_name = '{name}', updated_at = now()");
    tokio::time::timeout(DEADLINE, bed.auth(&sql)).await.expect("the store's commit hangs");
}

/// A primary whose commits wait for a physical standby, by name.
async fn synchronous_pair(major: u32) -> (Bed, PostgresServer) {
    let mut bed = Bed::start_with(&["acme"], Options::new().binaries(binaries(major))).await;
    bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('u1', 'acme', 'Ann')").await;
    let conninfo = format!("host=127.0.0.1 port={} user=postgres application_name=s1", bed.server.port());
    let options = Options::new().binaries(binaries(major)).set("primary_conninfo", &conninfo);
    let standby = bed.server.standby(options).await.unwrap();
    (bed, standby)
}

async fn set_synchronous(bed: &Bed, names: &str) {
    for sql in [&*format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"), "SELECT pg_reload_conf()"] {
        bed.auth(sql).await;
    }
    bed.becomes("auth", "SHOW synchronous_standby_names", names).await;
}

/// The remedy that `check` prints for the only error.
async fn remedy(path: &str, error: &str) -> String {
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert_eq!(code, Some(1), "{text}");
    let found = text.lines().skip_while(|line| !(line.starts_with("error: source") && line.contains(error)));
    found
        .skip(1)
        .take_while(|line| line.starts_with("    "))
        .map(|line| line.trim().trim_start_matches("-> "))
        .collect()
}

async fn commits_wait_for_standbys_only(major: u32) {
    let (bed, _standby) = synchronous_pair(major).await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    set_synchronous(&bed, "*").await;
    let words = "makes users-sync (users-sync) a synchronous standby";
    let (text, code) = said(&command(&["run", "-c", path]).await);
    assert!(text.contains(words) && code == Some(1), "{text}");
    let error = Service::start(bed.config()).fails().await.to_string();
    assert!(error.contains(words) && error.contains("ALTER SYSTEM SET"), "{error}");
    commits(&bed, "Bea").await;

    let sql = statements(&remedy(path, words).await);
    assert_eq!(sql[0], "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (\"s1\")'");
    for sql in &sql {
        bed.auth(sql).await;
    }
    bed.becomes("auth", "SHOW synchronous_standby_names", "FIRST 1 (\"s1\")").await;
    let (process, log) = Process::start_logged(&file);
    bed.equal().await;
    let (text, code) = said(&command(&["check", "-c", path]).await);
    assert_eq!(code, Some(0), "{text}");

    // While it runs: the session ends, and the store waits for its real standby only.
    set_synchronous(&bed, "ANY 1 (s2, \"USERS-sync\", s1)").await;
    log.says("replication has stopped until this is fixed").await;
    commits(&bed, "Cat").await;
    let remedy = remedy(path, words).await;
    assert!(remedy.starts_with("add application_name=users-sync-cdc to source.url, or: ALTER SYSTEM"), "{remedy}");
    let (_, sql) = remedy.split_once(", or: ").unwrap();
    for sql in statements(sql) {
        bed.auth(&sql).await;
    }
    commits(&bed, "Dan").await;
    bed.equal().await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_the_store_never_waits_for_our_confirmation() {
    tokio::join!(commits_wait_for_standbys_only(15), commits_wait_for_standbys_only(18));
}

/// The harmless remedy: another application_name.
#[tokio::test(flavor = "multi_thread")]
async fn another_application_name_is_no_synchronous_standby() {
    let (bed, _standby) = synchronous_pair(15).await;
    set_synchronous(&bed, "s1, \"users-sync\"").await;
    let file = bed.config_file("");
    let text = std::fs::read_to_string(file.path()).unwrap();
    std::fs::write(file.path(), text.replacen("sslmode=prefer", "sslmode=prefer&application_name=users-sync-cdc", 1))
        .unwrap();
    let process = Process::start(&file);
    bed.equal().await;
    commits(&bed, "Bea").await;
    bed.equal().await;
    assert!(process.stop().await.success());
}

const TIMEOUTS: &str = "SELECT name, setting FROM pg_settings WHERE setting <> '0' AND name IN ('statement_timeout', \
    'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";

/// `transaction_timeout` exists from 17 on.
#[tokio::test(flavor = "multi_thread")]
async fn no_timeout_of_the_role_applies_to_our_sessions() {
    for major in [14, 18] {
        let server = PostgresServer::start(Options::new().binaries(binaries(major))).await.unwrap();
        let mut sql = String::from(
            "CREATE ROLE reader LOGIN REPLICATION; ALTER ROLE reader SET statement_timeout = '1s';
             ALTER ROLE reader SET lock_timeout = '1s'; ALTER ROLE reader SET idle_in_transaction_session_timeout = '1s';
             ALTER ROLE reader SET idle_session_timeout = '1s'; ALTER ROLE reader SET wal_sender_timeout = '1s';",
        );
        if major >= 17 {
            sql.push_str("ALTER ROLE reader SET transaction_timeout = '1s'");
        }
        server.sql("postgres", &sql).await.unwrap();
        let url = pg::PgUrl::parse(&server.url_for("reader", "postgres")).unwrap();
        for client in [pg::connect(&url).await.unwrap(), pg::connect_state(&url).await.unwrap()] {
            let left = client.query(TIMEOUTS, &[]).await.unwrap();
            assert!(left.is_empty(), "PostgreSQL {major}: {left:?}");
        }
        let mut walsender = ReplicationConnection::connect(&url).await.unwrap();
        assert_eq!(walsender.simple_query(TIMEOUTS).await.unwrap(), Vec::<Vec<_>>::new(), "PostgreSQL {major}");
        let shown = walsender.simple_query("SHOW wal_sender_timeout").await.unwrap();
        assert_eq!(shown[0][0].as_deref(), Some("1min"));
    }
}

/// The users of a database in this encoding, from snapshot and stream. Some rows hold bytes that are not UTF-8.
async fn replicates_from(encoding: &str, major: u32) {
    let bed = Bed::start_with(&["acme"], Options::new().binaries(binaries(major))).await;
    let create = format!("CREATE DATABASE store ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    bed.server.sql("postgres", &create).await.unwrap();
    let store = async |sql: &str| bed.server.sql("store", sql).await.unwrap();
    store(USERS).await;
    store("INSERT INTO auth.users (id, org, first_name) VALUES ('e', 'acme', 'Zoë')").await;
    let is_unchecked = encoding == "SQL_ASCII";
    if is_unchecked {
        store(
            "INSERT INTO auth.users (id, org, first_name, encrypted_password) VALUES
               ('bad1', 'acme', E'Zo\\xeb', ''), ('hidden1', 'acme', 'Ann', E'\\xff')",
        )
        .await;
    }
    let mut config = bed.config();
    (config.source.url, config.state_url) = (bed.url("store"), bed.url("store"));
    let service = Service::start(config);
    let names = "SELECT CASE WHEN to_regclass('neon_auth.users_sync') IS NULL THEN '' ELSE (xpath('//n/text()',
                 query_to_xml('SELECT string_agg(id || ''='' || name, '','' ORDER BY id) AS n
                 FROM neon_auth.users_sync WHERE deleted_at IS NULL', true, false, '')))[1]::text END";
    bed.becomes("acme", names, if is_unchecked { "e=Zoë,hidden1=Ann" } else { "e=Zoë" }).await;
    store("INSERT INTO auth.users (id, org, first_name) VALUES ('f', 'acme', 'Zoë')").await;
    if is_unchecked {
        store(
            "INSERT INTO auth.users (id, org, first_name, encrypted_password) VALUES
               ('bad2', 'acme', E'Zo\\xeb', ''), ('hidden2', 'acme', 'Bea', E'\\xff');
             ALTER TABLE auth.users ALTER profile SET STORAGE EXTERNAL;
             UPDATE auth.users SET encrypted_password = E'\\xfe', first_name = 'Cat' WHERE id = 'hidden1'",
        )
        .await;
        store("UPDATE auth.users SET profile = to_jsonb(repeat('x', 10000)) WHERE id LIKE 'hidden%'").await;
        // The profile is not sent again: the users are read from the source.
        store("UPDATE auth.users SET id = 'moved' || right(id, 1) WHERE id LIKE 'hidden%'").await;
    }
    store("UPDATE auth.users SET first_name = 'Noël' WHERE id = 'e'").await;
    let expected = if is_unchecked { "e=Noël,f=Zoë,moved1=Cat,moved2=Bea" } else { "e=Noël,f=Zoë" };
    bed.becomes("acme", names, expected).await;
    assert!(service.is_running());
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_of_any_encoding_is_replicated_without_rows_that_are_not_utf8() {
    for (encoding, major) in [("SQL_ASCII", 14), ("SQL_ASCII", 18), ("LATIN1", 15), ("EUC_JIS_2004", 15)] {
        println!("{encoding} on {major}");
        replicates_from(encoding, major).await;
    }
}

/// Any role may write a logical message of any size.
#[tokio::test(flavor = "multi_thread")]
async fn logical_messages_cost_us_nothing() {
    let bed = Bed::start(&["acme"]).await;
    let file = bed.config_file("");
    let process = Process::start(&file);
    bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('u1', 'acme', 'Ann')").await;
    bed.equal().await;
    let before = process.peak_memory();
    for transactional in ["true", "false"] {
        bed.auth(&format!("SELECT pg_logical_emit_message({transactional}, 'x', repeat('x', 100000000))")).await;
    }
    commits(&bed, "Bea").await;
    bed.equal().await;
    let more = process.peak_memory() - before;
    assert!(more < 50_000_000, "{more} bytes");
    assert!(process.stop().await.success());
}

/// An idle and a prepared transaction, of a role that may not see the others' activity.
async fn waiting_is_visible(major: u32) {
    let options = Options::new().binaries(binaries(major)).set("max_prepared_transactions", "5");
    let bed = Bed::start_with(&["acme"], options).await;
    bed.auth(
        "CREATE ROLE reader LOGIN REPLICATION; GRANT USAGE ON SCHEMA auth TO reader;
         GRANT SELECT ON auth.users TO reader; GRANT CREATE ON DATABASE auth TO reader;
         CREATE PUBLICATION users_sync FOR TABLE auth.users;
         INSERT INTO auth.users (id, org) VALUES ('u1', 'acme')",
    )
    .await;
    let file = config_file(&bed.server.url_for("reader", "auth"), &[("acme".into(), bed.server.url("acme"))], "");
    let path = file.path().to_str().unwrap();
    let shows = async |words: &str| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (text, _) = said(&command(&["status", "-c", path]).await);
            if text.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "`status` does not say {words:?}: {text}");
            pause().await;
        }
    };
    // In another database: the slot waits for the whole server.
    let idle = bed.server.connect("acme").await.unwrap();
    idle.batch_execute("CREATE TABLE other (n int)").await.unwrap();
    idle.batch_execute("BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    let pid: i32 = idle.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let (process, log) = Process::start_logged(&file);
    log.says("creation of a replication slot waits for a transaction").await;
    let words = format!("slot users_sync waits for the transaction of process {pid} (database acme");
    log.says(&words).await;
    shows(&words).await;
    idle.batch_execute("PREPARE TRANSACTION 'it''s'").await.unwrap();
    let words = "slot users_sync waits for prepared transaction 'it's' (database acme, ";
    log.says(words).await;
    shows(words).await;
    shows("ROLLBACK PREPARED 'it''s'; in database acme").await;
    bed.server.sql("acme", "ROLLBACK PREPARED 'it''s'").await.unwrap();
    bed.equal().await;
    // The same for the temporary slot of a snapshot.
    idle.batch_execute("BEGIN; INSERT INTO other VALUES (1)").await.unwrap();
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    log.says("slot users_sync_join_").await;
    shows("waiting: slot users_sync_join_").await;
    idle.batch_execute("COMMIT").await.unwrap();
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_delays_a_slot_is_named() {
    tokio::join!(waiting_is_visible(14), waiting_is_visible(18));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_source_is_refused_by_name() {
    let bed = Bed::start(&["acme"]).await;
    for (settings, name) in [
        ("", "PgBouncer"),
        ("ignore_startup_parameters = options,extra_float_digits", "PgBouncer"),
        ("ignore_startup_parameters = options,replication", "a connection pooler"),
    ] {
        let pooler = Pooler::start(&bed.server, &["postgres"], settings);
        let file = config_file(&pooler.url_for("postgres", "auth"), &[("acme".into(), bed.server.url("acme"))], "");
        for name_of_command in ["check", "run"] {
            let (text, code) = said(&command(&[name_of_command, "-c", file.path().to_str().unwrap()]).await);
            assert_eq!(code, Some(1), "{text}");
            let words = format!("source.url leads to {name}, which passes on no replication connection");
            assert!(
                text.contains(&words) && text.contains("set source.url to the host and port"),
                "{settings}: {text}"
            );
        }
    }
}
