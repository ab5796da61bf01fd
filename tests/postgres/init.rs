//! `init` writes a configuration that works, without a password; and one tenant needs no file at all.

use crate::support::process::{Process, command, said};
use crate::support::{Bed, USERS};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use users_sync::throwaway::{Options, PostgresServer};

/// Better Auth's table, as its own migrations create it.
const BETTER_AUTH: &str = "
    CREATE TABLE public.\"user\" (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE,
      \"emailVerified\" boolean NOT NULL, image text, \"createdAt\" timestamptz NOT NULL DEFAULT now(),
      \"updatedAt\" timestamptz NOT NULL DEFAULT now());
    INSERT INTO public.\"user\" VALUES ('u1', 'Ann', 'ann@example.com', true, NULL)";

/// Runs `init` in a directory of its own, with variables.
fn init(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
    command.arg("init").args(arguments).current_dir(directory).env_remove("USERS_SYNC_SOURCE_URL");
    said(&command.envs(variables.iter().copied()).stdin(Stdio::null()).output().unwrap())
}

/// A URL with a password, which the throwaway server does not ask for.
fn with_password(url: &str) -> String {
    url.replacen('@', ":hunter2@", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_written_for_the_tables_of_the_source() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    for database in ["auth", "shop", "empty", "app"] {
        server.create_database(database).await.unwrap();
    }
    server.sql("auth", BETTER_AUTH).await.unwrap();
    let users = "INSERT INTO auth.users (id, org) VALUES ('1', 'acme'), ('2', 'acme'), ('3', 'Größe & Co'), ('4', '')";
    server.sql("shop", &format!("{USERS}; {users}; CREATE TABLE orders (id int PRIMARY KEY)")).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users-sync.yaml");
    let read = || std::fs::read_to_string(&file).unwrap();

    // A known store. The password is replaced by a variable.
    let (auth, app) = (with_password(&server.url("auth")), with_password(&server.url("app")));
    let target = format!("main={app}");
    let (text, code) = init(directory.path(), &["--source", &auth, "--target", &target], &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("Better Auth") && text.contains("AUTH_DATABASE_URL, MAIN_DATABASE_URL"), "{text}");
    let written = read();
    assert!(
        written.contains("  url: '${AUTH_DATABASE_URL}'\n") && written.contains("  preset: better-auth\n"),
        "{written}"
    );
    assert!(!format!("{written}{}", text.replace(&auth, "")).contains("hunter2"), "{text}{written}");
    // It is never replaced by accident.
    let (text, code) = init(directory.path(), &["--source", &auth], &[]);
    assert_eq!((code, read()), (Some(1), written), "{text}");
    assert!(text.contains("users-sync.yaml exists") && text.contains("--force"), "{text}");

    // An unknown store with tenants.
    let shop = server.url("shop");
    let source = [("USERS_SYNC_SOURCE_URL", &*shop)];
    let (text, code) = init(directory.path(), &["--force"], &source);
    assert_eq!(code, Some(0), "{text}");
    let written = read();
    for line in [
        "  url: '${USERS_SYNC_SOURCE_URL}'",
        "  table: auth.users",
        "  tenant: org",
        "  name: {join: [first_name, last_name]}",
        "  email: email",
        "  created_at: created_at",
        "  - id: acme    # 2 users",
        "    target: '${ACME_DATABASE_URL}'",
        "  - id: 'Größe & Co'    # 1 user",
    ] {
        assert!(written.contains(&format!("{line}\n")), "{line} is missing in\n{written}");
    }
    let (text, code) = init(directory.path(), &["--force", "--tenant", "a=acme", "--tenant", "new"], &source);
    assert_eq!(code, Some(0), "{text}");
    let written = read();
    assert!(
        written.contains("  - id: a    # 2 users\n    key: acme\n") && written.contains("  - id: new\n"),
        "{written}"
    );

    // Bad input says what to do.
    let empty = server.url("empty");
    for (arguments, words) in [
        (&["--force"][..], "--source"),
        (&["--force", "--source", &empty][..], "no tables of a known auth store"),
        (&["--force", "--source", &auth, "--preset", "keycloak"][..], "presets whose tables it has: better-auth"),
        (&["--force", "--source", &shop, "--table", "public.orders"][..], "auth.users"),
        (&["--force", "--source", &auth, "--target", "acme=postgres://u@h/a"][..], "unknown tenant: acme"),
        (&["--force", "--source", "http://h"][..], "it must start with postgres://"),
        (&["--force", "--source", &auth, "-c", "/nowhere/users-sync.yaml"][..], "/nowhere/users-sync.yaml"),
    ] {
        let before = read();
        let (text, code) = init(directory.path(), arguments, &[]);
        assert_eq!((code, read()), (Some(1), before), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?} does not say {words:?}: {text}");
    }

    // At a terminal it asks. `script` gives it one.
    let binary = env!("CARGO_BIN_EXE_users-sync");
    let mut script = Command::new("script");
    script.args(["-qec", &format!("{binary} init --force"), "/dev/null"]).current_dir(directory.path());
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let answers = format!("{shop}\nacme\n{}\n", server.url("app"));
    script.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let written = read();
    assert!(written.contains(&format!("  url: '{shop}'\n")) && written.contains(&server.url("app")), "{written}");
    assert!(written.contains("  - id: acme    # 2 users\n") && !written.contains("Größe"), "{written}");

    // The slot's name belongs to another database: the file has one of its own.
    server.sql("auth", "SELECT pg_create_logical_replication_slot('users_sync', 'pgoutput')").await.unwrap();
    let (text, code) = init(directory.path(), &["--force"], &source);
    assert_eq!(code, Some(0), "{text}");
    assert!(read().contains("  slot: users_sync_shop\n"), "{}", read());
    let checked = command(&["check", "-c", file.to_str().unwrap()]).await;
    assert!(!said(&checked).0.contains("belongs to database"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_needs_no_file_and_a_preset_of_another_store_is_reported() {
    let bed = Bed::start(&["app"]).await;
    bed.auth(BETTER_AUTH).await;
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (bed.server.url("auth"), bed.server.url("app"));
    let run = |arguments: &[&str], preset: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        command.args(arguments).current_dir(directory.path()).stdin(Stdio::null());
        command.env("USERS_SYNC_SOURCE_URL", &source).env("USERS_SYNC_TARGET_URL", &target);
        command.env("USERS_SYNC_PRESET", preset);
        command
    };
    for (preset, words) in [("authjs", "users: {preset: better-auth}"), ("keycloak", "users: {preset: better-auth}")] {
        let (text, _) = said(&run(&["check"], preset).output().unwrap());
        assert!(text.contains("look like those of another store") && text.contains(words), "{text}");
    }
    let (text, code) = said(&run(&["check"], "clerk").output().unwrap());
    assert!(code == Some(1) && text.contains("it gives no access to its database"), "{text}");
    let (text, code) = said(&run(&["check"], "better-auth").output().unwrap());
    assert!(code == Some(0) && !text.contains("look like"), "{text}");

    let process = Process::spawn(run(&["run"], "better-auth"));
    bed.state_is("main", "following").await;
    bed.becomes("app", "SELECT email FROM neon_auth.users_sync", "ann@example.com").await;
    assert!(process.stop().await.success());
}
