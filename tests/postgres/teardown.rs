//! `teardown` removes what `setup` and `run` made, also after a failure, and nothing that another installation uses.

use crate::support::Bed;
use crate::support::process::{Process, command, said};
use std::io::Write;
use tempfile::NamedTempFile;

/// The primary key lacks the tenant column, so `setup` changes the replica identity.
const STORE: &str = "
    CREATE TABLE people (id text PRIMARY KEY, org text NOT NULL, name text);
    INSERT INTO people SELECT 'u' || n, 'acme', 'Ann' FROM generate_series(1, 20) n";

/// What exists at the source: publications, slots, indexes and replica identities, and our schema.
const TRACES: &str = "
    SELECT pubname::text FROM pg_publication UNION ALL SELECT slot_name::text FROM pg_replication_slots
    UNION ALL SELECT indexname::text FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT relreplident::text FROM pg_class WHERE oid = 'people'::regclass
    UNION ALL SELECT nspname::text FROM pg_namespace WHERE nspname = 'users_sync' ORDER BY 1";

/// A configuration with roles that have no more than `setup` gives them.
fn config(bed: &Bed, slot: &str) -> NamedTempFile {
    let (source, target) = (bed.server.url_for("sync", "auth"), bed.server.url_for("sync", "acme"));
    let mut file = NamedTempFile::new().unwrap();
    writeln!(
        file,
        "source: {{url: '{source}', slot: {slot}}}\nusers: {{table: public.people, id: id, name: name, tenant: org}}\n\
         tenants: [{{id: acme, target: '{target}'}}]"
    )
    .unwrap();
    file
}

async fn run(file: &NamedTempFile, arguments: &[&str]) -> (String, Option<i32>) {
    let file = ["-c", file.path().to_str().unwrap()];
    said(&command(&[arguments, &file].concat()).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_run_and_teardown_leave_nothing_and_a_later_run_joins_every_tenant() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(STORE).await;
    let before = bed.query("auth", TRACES).await;
    let file = config(&bed, "users_sync");
    let source = bed.server.url("auth");
    let target = format!("acme={}", bed.server.url("acme"));
    let setup = ["setup", "--apply", "--source-admin", &source, "--target-admin", &target];
    let users = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL";
    for round in 0..2 {
        let (text, code) = run(&file, &setup).await;
        assert_eq!(code, Some(0), "{text}");
        let identity = "SELECT relreplident FROM pg_class WHERE oid = 'people'::regclass";
        assert_eq!(bed.query("auth", identity).await[0][0].as_deref(), Some("i"));
        let process = Process::start(&file);
        bed.state_is("acme", "following").await;
        bed.becomes("acme", users, &format!("{}", 20 + round)).await;
        assert!(process.stop().await.success());
        bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
        let full = bed.query("auth", TRACES).await;

        // As the role of the service, which does not own the publication.
        let (text, code) = run(&file, &["teardown", "--dry-run"]).await;
        assert!(code == Some(0) && text.contains("nothing was dropped"), "{text}");
        assert!(text.contains("the replica identity of public.people, which becomes default again"), "{text}");
        assert_eq!(bed.query("auth", TRACES).await, full);
        let (text, code) = run(&file, &["teardown", "--yes"]).await;
        assert_eq!(code, Some(1), "{text}");
        let statement = "run as role postgres or a superuser: DROP PUBLICATION IF EXISTS \"users_sync\";";
        assert!(text.contains(statement) && text.contains("--source-admin URL"), "{text}");
        assert!(text.contains("the state, which the next attempt needs"), "{text}");
        // The store goes on.
        bed.auth(&format!("UPDATE people SET name = 'Bea'; INSERT INTO people VALUES ('new{round}', 'acme')")).await;
        let all = ["teardown", "--yes", "--source-admin", &source, "--target-admin", &target];
        // The role has rights in the target, too.
        let arguments = if round == 0 { &all } else { &all[..4] };
        let (text, code) = run(&file, arguments).await;
        assert!(code == Some(0) && text.contains("done"), "{text}");
        let lacks_admin = "with its rights: no administrator was given: --target-admin acme=URL";
        assert_eq!(text.contains(lacks_admin), round == 1, "{text}");
        let has_role = "SELECT count(*) FROM pg_roles WHERE rolname = 'sync'";
        if round == 1 {
            // The role stays recorded until an administrator of every database is given.
            let (text, code) = run(&file, &["teardown", "--yes", "--source-admin", &source]).await;
            assert!(code == Some(0) && text.contains("nothing to drop") && text.contains(lacks_admin), "{text}");
            assert_eq!(bed.query("auth", has_role).await[0][0].as_deref(), Some("1"));
            let (text, code) = run(&file, &all).await;
            assert!(code == Some(0) && text.contains("done") && !text.contains("stays:"), "{text}");
        }
        assert_eq!(bed.query("auth", has_role).await[0][0].as_deref(), Some("0"));
        assert_eq!(bed.query("auth", TRACES).await, before);
        let (text, code) = run(&file, &all).await;
        assert!(code == Some(0) && text.contains("nothing to drop"), "{text}");
        assert_eq!(bed.query("acme", users).await[0][0], Some(format!("{}", 20 + round)), "targets keep their users");
    }
    // The state is made again.
    let (text, code) = run(&file, &setup).await;
    assert_eq!(code, Some(0), "{text}");
    let process = Process::start(&file);
    bed.state_is("acme", "following").await;
    bed.becomes("acme", users, "22").await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_second_installation_uses_stays() {
    let bed = Bed::start(&["acme", "other"]).await;
    bed.auth(STORE).await;
    let (first, second) = (config(&bed, "users_sync"), config(&bed, "second"));
    let yaml = std::fs::read_to_string(second.path()).unwrap();
    let (acme, other) = (bed.server.url_for("sync", "acme"), bed.server.url_for("sync", "other"));
    std::fs::write(second.path(), yaml.replace(&acme, &other)).unwrap();
    for (file, tenant) in [(&first, "acme"), (&second, "other")] {
        let target = format!("acme={}", bed.server.url(tenant));
        let source = bed.server.url("auth");
        let (text, code) = run(file, &["setup", "--apply", "--source-admin", &source, "--target-admin", &target]).await;
        assert_eq!(code, Some(0), "{text}");
    }
    let processes = [Process::start(&first), Process::start(&second)];
    let states = "SELECT count(*) FROM users_sync.tenant WHERE state = 'following'";
    bed.becomes("auth", "SELECT to_regclass('users_sync.tenant') IS NOT NULL", "t").await;
    bed.becomes("auth", states, "2").await;
    let [one, two] = processes;
    assert!(one.stop().await.success());
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'users_sync'";
    bed.becomes("auth", active, "f").await;
    let source = bed.server.url("auth");
    let target = format!("acme={}", bed.server.url("acme"));
    let admins = ["--source-admin", &source, "--target-admin", &target];
    let (text, code) = run(&first, &[&["teardown", "--yes"][..], &admins].concat()).await;
    assert!(code == Some(0) && text.contains("stays: publication users_sync"), "{text}");
    assert!(text.contains("slot second"), "{text}");
    assert!(text.contains("with its rights: it has rights in database other, which is not of this"), "{text}");
    // The other one goes on.
    bed.auth("INSERT INTO people VALUES ('later', 'acme')").await;
    bed.becomes("other", "SELECT count(*) FROM neon_auth.users_sync WHERE id = 'later'", "1").await;
    bed.auth("UPDATE people SET name = 'Bea'; DELETE FROM people WHERE id = 'later'").await;
    bed.becomes("other", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL", "1").await;
    assert!(two.stop().await.success());
    let slots = "SELECT string_agg(slot_name::text, ' ') FROM pg_replication_slots";
    assert_eq!(bed.query("auth", slots).await[0][0].as_deref(), Some("second"));
    // A slot of another database is not ours.
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    bed.server.sql("acme", "SELECT pg_create_logical_replication_slot('users_sync', 'pgoutput')").await.unwrap();
    let (text, code) = run(&first, &["teardown", "--yes", "--source-admin", &source]).await;
    assert!(code == Some(0) && text.contains("stays: slot users_sync: it is not of this installation"), "{text}");
    let (text, code) = run(&first, &["setup", "--apply", "--source-admin", &source]).await;
    assert!(code == Some(1) && text.contains("it belongs to database acme"), "{text}");
}
