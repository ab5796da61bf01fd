//! `adopt` takes over targets that have rows already, in one transaction, and the application's foreign keys stay intact.

use crate::support::process::{Process, command, said};
use crate::support::{Bed, GENERATED, PLAIN, Service};

/// The application's tables. The second one would lose rows with a deleted user.
const TODOS: &str = "
    CREATE TABLE todos (id serial PRIMARY KEY, user_id text REFERENCES neon_auth.users_sync(id));
    CREATE TABLE notes (id serial PRIMARY KEY, user_id text REFERENCES neon_auth.users_sync(id) ON DELETE CASCADE);
    INSERT INTO todos (user_id) SELECT id FROM neon_auth.users_sync;
    INSERT INTO notes (user_id) SELECT id FROM neon_auth.users_sync";

/// What the application refers to.
const REFERRED: &str = "SELECT t.user_id, n.user_id FROM todos t FULL JOIN notes n ON n.user_id = t.user_id ORDER BY 1";

/// The rows that the source does not have.
const STRANGERS: &str =
    "SELECT id, raw_json, deleted_at IS NULL FROM neon_auth.users_sync WHERE id LIKE 'theirs%' ORDER BY id";

async fn fill(bed: &Bed, users: u32) {
    for tenant in &bed.tenants {
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name, updated_at)
             SELECT '{tenant}-' || n, '{tenant}', 'Ann', now() FROM generate_series(1, {users}) n"
        ))
        .await;
    }
}

/// Runs `adopt` with a configuration file.
async fn adopt(file: &tempfile::NamedTempFile, more: &[&str]) -> (String, Option<i32>) {
    let mut arguments = vec!["adopt", "-c", file.path().to_str().unwrap()];
    arguments.extend(more);
    said(&command(&arguments).await)
}

async fn run(file: &tempfile::NamedTempFile, arguments: &[&str]) -> (String, Option<i32>) {
    let mut all = arguments.to_vec();
    all.extend(["-c", file.path().to_str().unwrap()]);
    said(&command(&all).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn neons_own_table_with_foreign_keys_is_taken_over_by_the_running_process() {
    let bed = Bed::start(&["acme", "other"]).await;
    fill(&bed, 50).await;
    let theirs = "INSERT INTO neon_auth.users_sync (raw_json, updated_at)
        SELECT jsonb_build_object('id', id, 'display_name', 'Ann', 'primary_email', NULL, 'signed_up_at_millis', 1), now()
        FROM unnest(ARRAY['acme-1', 'acme-2', 'theirs-1', 'theirs-2']) id";
    bed.server.sql("acme", &format!("{GENERATED}; {theirs}; {TODOS}")).await.unwrap();
    let referred = bed.query("acme", REFERRED).await;
    let file = bed.config_file("");
    let process = Process::start(&file);
    bed.state_is("acme", "parked").await;
    bed.state_is("other", "following").await;
    let remedy = "SELECT remedy FROM users_sync.tenant WHERE tenant = 'acme'";
    assert_eq!(bed.query("auth", remedy).await[0][0].as_deref(), Some("users-sync adopt -c FILE acme"));
    let (text, code) = run(&file, &["check"]).await;
    assert!(code == Some(1) && text.contains("users-sync adopt -c FILE acme"), "{text}");

    let before = bed.query("acme", "TABLE neon_auth.users_sync").await;
    let (text, code) = adopt(&file, &["acme"]).await;
    let preview = "0 users are equal\n  2 will be updated: acme-1, acme-2\n  48 will be inserted: acme-10, acme-11, acme-12, \
                   acme-13, acme-14, ...\n  2 only in the target, will be marked as deleted: theirs-1, theirs-2";
    assert!(code == Some(1) && text.contains(preview) && text.contains("pass --yes"), "{text}");
    assert_eq!(bed.query("acme", "TABLE neon_auth.users_sync").await, before);

    let strangers = bed.query("acme", STRANGERS).await;
    let (text, code) = adopt(&file, &["acme", "--extra", "keep", "--yes"]).await;
    assert!(code == Some(0) && text.contains("acme: adopted, caught up to"), "{text}");
    bed.state_is("acme", "following").await;
    assert_eq!(bed.query("acme", REFERRED).await, referred);
    assert_eq!(bed.query("acme", STRANGERS).await, strangers);
    let (text, code) = run(&file, &["verify", "acme"]).await;
    assert!(code == Some(1) && text.contains("0 missing, 0 different, 2 extra of 50 users"), "{text}");
    // A later snapshot keeps them too, also one that isolates rows.
    for constraint in ["", "ALTER TABLE neon_auth.users_sync ADD CHECK (raw_json ->> 'first_name' <> 'Eve') NOT VALID"]
    {
        bed.server.sql("acme", constraint).await.unwrap();
        bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('eve' || random(), 'acme', 'Eve')").await;
        let (text, code) = run(&file, &["resync", "acme"]).await;
        assert!(code == Some(0) && text.contains("acme: resynced"), "{text}");
        assert_eq!(bed.query("acme", STRANGERS).await, strangers, "{constraint}");
    }
    bed.server.sql("acme", "ALTER TABLE neon_auth.users_sync DROP CONSTRAINT users_sync_raw_json_check").await.unwrap();
    // The source gets one of them: it is an ordinary user from then on.
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('theirs-2', 'acme')").await;
    let named = "SELECT count(*) FROM neon_auth.users_sync WHERE id = 'theirs-2' AND raw_json ? 'org'";
    bed.becomes("acme", named, "1").await;
    let (text, code) = run(&file, &["resync", "acme"]).await;
    assert!(code == Some(0), "{text}");
    assert_eq!(bed.query("acme", "TABLE users_sync.kept").await, [[Some("theirs-1".to_owned())]]);

    // The other answer, later.
    let (text, code) = adopt(&file, &["acme", "--extra", "mark-deleted", "--yes"]).await;
    assert!(code == Some(0), "{text}");
    let (text, code) = run(&file, &["verify", "acme"]).await;
    assert!(code == Some(0) && text.contains("acme: equal, 53 users"), "{text}");
    assert_eq!(bed.query("acme", REFERRED).await, referred);
    let marked = bed.query("acme", "SELECT id FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL").await;
    assert_eq!(marked, [[Some("theirs-1".to_owned())]]);
    let (text, code) = adopt(&file, &["acne"]).await;
    assert!(code == Some(1) && text.contains("did you mean acme?"), "{text}");
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_process_and_with_hard_deletes_no_row_is_deleted() {
    let bed = Bed::start(&["acme", "empty"]).await;
    fill(&bed, 400).await;
    let theirs = "INSERT INTO neon_auth.users_sync (id, raw_json)
        SELECT p || n, '{}' FROM unnest(ARRAY['acme-', 'theirs-']) p, generate_series(1, 200) n";
    bed.server.sql("acme", &format!("{PLAIN}; {theirs}; {TODOS}")).await.unwrap();
    let referred = bed.query("acme", REFERRED).await;
    let file = bed.config_file("deletes: hard");
    let (text, code) = adopt(&file, &["empty", "--yes"]).await;
    assert!(code == Some(1) && text.contains("there is nothing to adopt") && text.contains("run -c FILE"), "{text}");
    // 200 of 400 are more than max_deletes allows.
    let (text, code) = adopt(&file, &["acme", "--yes"]).await;
    assert!(code == Some(1) && text.contains("200 of 400 users would be marked as deleted"), "{text}");
    assert!(text.contains("adopt -c FILE acme --extra keep") && text.contains("acme --allow-deletes"), "{text}");
    assert_eq!(bed.query("auth", "SELECT FROM pg_replication_slots").await.len(), 0);
    let (text, code) = adopt(&file, &["acme", "--yes", "--allow-deletes"]).await;
    assert!(code == Some(0) && text.contains("no process is running: adopting here"), "{text}");
    assert!(text.contains("slot users_sync retains WAL"), "{text}");
    assert_eq!(bed.query("acme", REFERRED).await, referred);
    let marked = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL AND id LIKE 'theirs%'";
    assert_eq!(bed.query("acme", marked).await[0][0].as_deref(), Some("200"));

    // It continues without another snapshot, and a later one deletes none of them.
    let (text, _) = run(&file, &["run", "--plan"]).await;
    assert!(text.contains("acme    follow"), "{text}");
    let process = Process::start(&file);
    bed.state_is("empty", "following").await;
    let (text, code) = run(&file, &["resync", "acme"]).await;
    assert!(code == Some(0), "{text}");
    assert_eq!(bed.query("acme", REFERRED).await, referred);
    assert_eq!(bed.query("acme", marked).await[0][0].as_deref(), Some("200"));
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_a_renamed_slot_and_a_changed_checkpoint_are_taken_over() {
    let bed = Bed::start(&["acme", "globex"]).await;
    fill(&bed, 20).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    // The state is lost with the slot; users leave meanwhile.
    bed.auth("SELECT pg_drop_replication_slot('users_sync'); DROP SCHEMA users_sync CASCADE").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'acme-7'").await;
    let file = bed.config_file("");
    let process = Process::start(&file);
    for tenant in ["acme", "globex"] {
        bed.state_is(tenant, "parked").await;
        let (text, code) = adopt(&file, &[tenant, "--yes"]).await;
        assert!(code == Some(0) && text.contains(&format!("{tenant}: adopted")), "{text}");
    }
    bed.equal().await;
    // A checkpoint that does not verify, also one from the future.
    for changed in ["position = '0/1'", "epoch = 9223372036854775807", "tenant = 'removed'"] {
        bed.server.sql("acme", &format!("UPDATE users_sync.checkpoint SET {changed}")).await.unwrap();
        bed.auth("UPDATE auth.users SET first_name = first_name || 'x', updated_at = now()").await;
        bed.state_is("acme", "parked").await;
        let (text, code) = adopt(&file, &["acme", "--yes"]).await;
        assert!(code == Some(0), "{changed}: {text}");
        bed.equal().await;
    }
    // Another tenant of the configuration.
    bed.server.sql("acme", "UPDATE users_sync.checkpoint SET tenant = 'globex'").await.unwrap();
    let (text, code) = adopt(&file, &["acme", "--yes"]).await;
    assert!(code == Some(1) && text.contains("belongs to tenant globex, which the configuration has, too"), "{text}");
    bed.server.sql("acme", "UPDATE users_sync.checkpoint SET tenant = 'acme'").await.unwrap();
    bed.equal().await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_of_a_living_installation_is_refused_with_its_name() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, 20).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    // One with the same state, and one with a state of its own that sees only its connection.
    bed.server.create_database("state").await.unwrap();
    let state = bed.server.url("state");
    for (more, name) in
        [("", "slot users_sync, process "), (&*format!("state: {{url: '{state}'}}"), "slot users_sync, epoch ")]
    {
        let file = bed.config_file(more);
        let yaml = std::fs::read_to_string(file.path()).unwrap().replace("source: {", "source: {slot: second, ");
        std::fs::write(file.path(), yaml).unwrap();
        bed.auth("UPDATE auth.users SET first_name = first_name || 'x', updated_at = now()").await;
        bed.equal().await;
        let (text, code) = adopt(&file, &["acme", "--yes"]).await;
        assert!(code == Some(1) && text.contains("another installation writes to this target"), "{text}");
        assert!(text.contains(name) && text.contains("users-sync adopt -c FILE acme"), "{text}");
    }
    service.stop().await;
    let file = bed.config_file("");
    let yaml = std::fs::read_to_string(file.path()).unwrap().replace("source: {", "source: {slot: second, ");
    std::fs::write(file.path(), yaml).unwrap();
    let (text, code) = adopt(&file, &["acme", "--yes"]).await;
    assert!(code == Some(0), "{text}");
    // The first one notices it, and does not write.
    let service = Service::start(bed.config());
    bed.auth("UPDATE auth.users SET first_name = first_name || 'x', updated_at = now()").await;
    bed.becomes("auth", "SELECT state FROM users_sync.tenant WHERE slot = 'users_sync'", "parked").await;
    service.stop().await;
}
