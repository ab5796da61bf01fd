//! The auth store is never harmed: its commits, its settings, and what a process leaves behind.

use crate::remedies::statements;
use crate::support::majors::binaries;
use crate::support::process::{Process, command, said};
use crate::support::{Bed, DEADLINE, Service};
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
