//! Text of end users and of targets' owners reaches a terminal only in escaped form, and a printed script runs nothing
//! but its statements.

use crate::support::process::{Process, command, config_file, said};
use crate::support::{Bed, USERS};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use users_sync::throwaway::{Options, PostgresServer};

/// Sequences that change a terminal's colour, title and content, and characters that change the order of text.
const HOSTILE: &str = "\u{1b}[31m\u{1b}]0;owned\u{7}\u{9b}2J\r\u{8}\u{202e}\u{2066}\u{200f}";
/// The same as an SQL literal.
const LITERAL: &str = r"E'\x1b[31m\x1b]0;owned\x07\u009b2J\r\b\u202e\u2066\u200f'";

/// Fails if the output has a character that a terminal obeys, or lacks `expected`.
#[track_caller]
fn is_harmless(what: &str, output: &Output, expected: &str) {
    let (text, _) = said(output);
    let obeyed = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let raw: Vec<char> = text.chars().filter(|c| obeyed(*c)).collect();
    assert!(raw.is_empty(), "{what} prints {raw:?}: {text:?}");
    assert!(text.contains(expected), "{what} does not print {expected:?}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_prints_a_control_character() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name) SELECT {LITERAL} || n, tenant, {LITERAL}
         FROM unnest(ARRAY['acme', 'globex']) tenant, generate_series(1, 3) n"
    ))
    .await;
    let config = bed.config_file("");
    let path = config.path().to_str().unwrap();
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "following").await;
    }
    // Differences are listed by id.
    bed.server.sql("globex", "UPDATE neon_auth.users_sync SET name = 'x' WHERE id LIKE '%1'").await.unwrap();
    let different = command(&["verify", "-c", path]).await;
    assert_eq!(different.status.code(), Some(1));
    is_harmless("verify", &different, "\\u001b[31m");
    // A refused row, and a tenant that is parked with its owner's text.
    bed.server
        .sql(
            "globex",
            &format!(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                   RAISE EXCEPTION '%', {LITERAL} USING ERRCODE = '23514'; END $$;
                 CREATE TRIGGER refuse BEFORE UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION refuse()"
            ),
        )
        .await
        .unwrap();
    bed.server.sql("acme", &format!("UPDATE users_sync.checkpoint SET tenant = {LITERAL}")).await.unwrap();
    bed.auth("UPDATE auth.users SET email = 'changed', updated_at = now()").await;
    bed.state_is("acme", "parked").await;
    log.says("the target rejects users").await;
    is_harmless("status", &command(&["status", "-c", path]).await, "\\u001b[31m");
    is_harmless("check", &command(&["check", "-c", path]).await, "\\u001b[31m");
    is_harmless("resync", &command(&["resync", "--all", "-c", path]).await, "\\u001b[31m");
    is_harmless("verify", &command(&["verify", "-c", path]).await, "");
    assert!(process.stop().await.success());
    let text = log.text();
    assert!(!text.contains(HOSTILE) && !text.contains('\u{9b}') && !text.contains('\u{202e}'), "{text:?}");
}

/// `psql` beside the server programs or on the path.
fn psql() -> PathBuf {
    let beside = users_sync::throwaway::Binaries::find().unwrap().program("psql");
    if beside.exists() { beside } else { "psql".into() }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_runs_only_the_statements_of_a_printed_script() {
    if Command::new(psql()).arg("--version").output().is_err() {
        println!("not run: there is no psql");
        return;
    }
    let server = PostgresServer::start(Options::new()).await.unwrap();
    server.create_database("auth").await.unwrap();
    server.sql("auth", USERS).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    for (number, name) in
        [r"x \! touch owned", r#"x"; \! touch owned --"#, r"x -- */ \! touch owned", r"x'\'; \! touch owned"]
            .into_iter()
            .enumerate()
    {
        let (database, role) = (format!("{name} {number}"), format!("{name} role {number}"));
        let quoted = database.replace('"', "\"\"");
        server.sql("postgres", &format!("CREATE DATABASE \"{quoted}\"")).await.unwrap();
        let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let url = server.url_for(&encode(&role), &encode(&database));
        // The tenant's id and key are printed, too.
        let id = name.replace('\'', "''");
        let config = config_file(&server.url("auth"), &[(format!("'{id}', key: '{id}'"), url)], "");
        let path = config.path().to_str().unwrap();
        let arguments = ["setup", "-c", path, "--application-role", &role, "--source-admin", &server.url("auth")];
        let printed = command(&arguments).await;
        let text = String::from_utf8(printed.stdout.clone()).unwrap();
        let target = text.find("-- run at the target").unwrap_or_else(|| panic!("{}", said(&printed).0));
        let mut running = Command::new(psql())
            .args([
                "-X",
                "-v",
                "ON_ERROR_STOP=1",
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-p",
                &server.port().to_string(),
            ])
            .args(["-d", &database])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        running.stdin.take().unwrap().write_all(&text.as_bytes()[target..]).unwrap();
        let output = running.wait_with_output().unwrap();
        assert!(output.status.success(), "{name}: {}{text}", said(&output).0);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{name} ran a command");
        let role = role.replace('\'', "''");
        let client = server.connect("postgres").await.unwrap();
        let created = client.query(&format!("SELECT FROM pg_roles WHERE rolname = '{role}'"), &[]).await.unwrap();
        assert_eq!(created.len(), 1, "{name}");
    }
}

/// `COMMAND | head` closes the pipe while the command prints.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_ends_no_command() {
    let bed = Bed::start(&["acme"]).await;
    let config = bed.config_file("");
    let path = config.path().to_str().unwrap();
    let admin = bed.server.url("auth");
    let apply = ["setup", "-c", path, "--apply", "--source-admin", &admin];
    for arguments in
        [&["schema"][..], &["presets"], &["-c", path, "check"], &["setup", "-c", path], &apply, &["status"]]
    {
        let run = |stdout: Stdio, stderr: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
            let command = command.args(arguments).env("USERS_SYNC_CONFIG", path).stdin(Stdio::null());
            command.stdout(stdout).stderr(stderr).output().unwrap()
        };
        let closed = || std::io::pipe().unwrap().1;
        let (without_stdout, without_both) =
            (run(closed().into(), Stdio::piped()), run(closed().into(), closed().into()));
        let open = run(Stdio::piped(), Stdio::piped());
        let said = String::from_utf8_lossy(&without_stdout.stderr);
        assert!(!said.contains("internal error") && !said.contains("panicked"), "{arguments:?}: {said}");
        assert_eq!(without_stdout.status.code(), open.status.code(), "{arguments:?}: {said}");
        assert_eq!(without_both.status.code(), open.status.code(), "{arguments:?}");
    }
    // `setup --apply` has done its work.
    bed.becomes("auth", "SELECT count(*) FROM pg_publication WHERE pubname = 'users_sync'", "1").await;
}
