//! The life of an installation with the commands of docs/OPERATIONS.md as they are printed, under a load of sign-ups: nothing
//! is lost, and no snapshot is taken that was not asked for.

use crate::support::process::{Process, said};
use crate::support::{Bed, GENERATED, pause};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_util::sync::CancellationToken;
use users_sync::throwaway::Options;

const DOCUMENT: &str = include_str!("../../docs/OPERATIONS.md");

/// Neon's own table, and an application's rows that refer to it.
const APPLICATION: &str = "
    INSERT INTO neon_auth.users_sync (raw_json, updated_at)
      SELECT jsonb_build_object('id', id, 'display_name', 'Ann', 'primary_email', NULL, 'signed_up_at_millis', 1), now()
      FROM unnest(ARRAY['neon-1', 'neon-2', 'theirs']) id;
    CREATE TABLE todos (id serial PRIMARY KEY, user_id text NOT NULL REFERENCES neon_auth.users_sync(id) ON DELETE CASCADE);
    INSERT INTO todos (user_id) SELECT id FROM neon_auth.users_sync";

/// The blocks of commands of the chapter, in their order.
fn blocks() -> Vec<String> {
    let chapter = DOCUMENT.split("\n## ").find(|chapter| chapter.starts_with("The life of an installation\n")).unwrap();
    let blocks = chapter.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Runs commands in a directory until one fails.
async fn run(bed: &Bed, directory: &Path, commands: &str) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_users-sync")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let commands = commands
        .replace("@auth.example/", &format!("@127.0.0.1:{}/", bed.server.port()))
        .replace("/run/secrets", directory.to_str().unwrap());
    let admins = [("SOURCE_ADMIN", "auth"), ("ACME_ADMIN", "acme"), ("NEON_ADMIN", "neon")];
    let output = tokio::process::Command::new("bash")
        .args(["-euc", &commands])
        .current_dir(directory)
        .env("PATH", path)
        .envs(admins.map(|(name, database)| (name, bed.server.url(database))))
        .output()
        .await
        .unwrap();
    let (text, code) = said(&output);
    assert_eq!(code, Some(0), "{commands}\n{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_commands_lead_from_the_first_look_to_the_removal() {
    let bed = Bed::start_with(&["acme", "neon"], Options::new().auth("scram-sha-256")).await;
    bed.auth("INSERT INTO auth.users (id, org, updated_at) SELECT t || '-' || n, t, now() FROM unnest('{acme,neon}'::text[]) t, generate_series(1, 40) n").await;
    bed.server.sql("neon", &format!("{GENERATED}; {APPLICATION}")).await.unwrap();
    let todos = bed.query("neon", "TABLE todos").await;
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let config = directory.join("users-sync.yaml");
    for name in ["source", "acme", "neon"] {
        std::fs::write(directory.join(name), "first-secret").unwrap();
    }
    let blocks = blocks();
    let [init, setup, start, adopt, pausing, verify, teardown] = &blocks[..] else { panic!("{blocks:?}") };
    assert_eq!(start, "users-sync run\n");

    run(&bed, directory, init).await;
    let found = run(&bed, directory, setup).await;
    assert!(found.contains("users-sync adopt"), "{found}");
    let (first, log) = Process::start_logged(&config);
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync", "40").await;
    bed.state_is("neon", "parked").await;
    run(&bed, directory, adopt).await;
    assert_eq!(bed.query("neon", "TABLE todos").await, todos);

    // From here on users sign up all the time.
    let (signed_up, ends) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let store = bed.server.connect("auth").await.unwrap();
    let load = tokio::spawn({
        let (signed_up, ends) = (signed_up.clone(), ends.clone());
        async move {
            while !ends.is_cancelled() {
                let n = signed_up.fetch_add(1, Ordering::Relaxed);
                let insert = format!(
                    "INSERT INTO auth.users (id, org, updated_at) SELECT t || '-new{n}', t, now() FROM unnest('{{acme,neon}}'::text[]) t"
                );
                store.batch_execute(&insert).await.unwrap();
                pause().await;
            }
        }
    });
    // A user who signs up from now on.
    let arrived = async || {
        let next = format!("acme-new{}", signed_up.load(Ordering::Relaxed));
        bed.becomes("acme", &format!("SELECT count(*) FROM neon_auth.users_sync WHERE id = '{next}'"), "1").await;
    };
    arrived().await;
    for (round, (name, role)) in [("source", "users_sync"), ("acme", "users_sync_acme")].into_iter().enumerate() {
        bed.server.sql("auth", &format!("ALTER ROLE {role} PASSWORD 'second-secret'")).await.unwrap();
        std::fs::write(directory.join(name), "second-secret").unwrap();
        log.says_times("configuration reloaded tenants=2", round + 1).await;
        arrived().await;
    }
    run(&bed, directory, pausing).await;
    arrived().await;
    let (second, later) = Process::start_logged(&config);
    later.says("waiting as a standby").await;
    first.kill();
    arrived().await;
    ends.cancel();
    load.await.unwrap();
    run(&bed, directory, verify).await;
    assert_eq!(bed.query("neon", "TABLE todos").await, todos);
    // One tenant was new, the other was adopted.
    let snapshots = |log: &str| log.matches("snapshot requested").count();
    assert_eq!((snapshots(&log.text()), snapshots(&later.text())), (2, 0), "{}\n{}", log.text(), later.text());
    assert!(!format!("{}{}", log.text(), later.text()).contains("-secret"));

    assert!(second.stop().await.success());
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    let gone = run(&bed, directory, teardown).await;
    assert!(gone.ends_with("done\n") && !gone.contains("stays:"), "{gone}");
    let left = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname LIKE 'users_sync%') + (SELECT count(*) FROM pg_replication_slots)
                + (SELECT count(*) FROM pg_publication)";
    assert_eq!(bed.query("auth", left).await[0][0].as_deref(), Some("0"));
    bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('acme-last', 'acme', now()), ('neon-last', 'neon', now())")
        .await;
    run(&bed, directory, setup).await;
    let process = Process::start_at(&config);
    for tenant in ["acme", "neon"] {
        let last = format!("SELECT count(*) FROM neon_auth.users_sync WHERE id = '{tenant}-last'");
        bed.becomes(tenant, &last, "1").await;
    }
    run(&bed, directory, verify).await;
    assert_eq!(bed.query("neon", "TABLE todos").await, todos);
    assert!(process.stop().await.success());
}
