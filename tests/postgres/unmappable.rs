//! Rows that cannot be mapped are set aside with their reason, and their users do not look deleted.

use crate::support::Bed;
use crate::support::process::{Log, Process, command, config_file, said};

/// Times as text, which the mapping declares as RFC 3339 or seconds since 1970.
const USERS: &str = "
    CREATE TABLE auth.people (id text PRIMARY KEY, org text, name json, mail text, born text, changed text, gone text);
    ALTER TABLE auth.people REPLICA IDENTITY FULL;
    INSERT INTO auth.people SELECT 'u' || n, 'acme', '{\"full\": \"Ann\"}', 'u' || n || '@x', '2024-01-01T00:00:00Z',
      '2024-01-01T00:00:00Z', NULL FROM generate_series(1, 50) n";
const SECTION: &str = "users: {table: auth.people, id: id, name: name.full, email: mail, created_at: {column: born, unit: rfc3339}, \
    updated_at: {column: changed, unit: rfc3339}, deleted_at: {column: gone, unit: rfc3339}, tenant: org}";
const REJECTED: &str =
    "SELECT coalesce(string_agg(id || ': ' || reason, '; ' ORDER BY id), '') FROM users_sync.rejected";
const GONE: &str = "u1: it cannot be mapped: column \"gone\": the value is not a valid RFC 3339 time with an offset";
const LIVE: &str = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL";

fn start(bed: &Bed, query: &str) -> (Process, Log, tempfile::NamedTempFile) {
    let targets = [("acme".to_owned(), bed.server.url("acme"))];
    let file = config_file(&bed.server.url("auth"), &targets, "");
    let text = std::fs::read_to_string(file.path()).unwrap();
    let users = text.lines().find(|line| line.starts_with("users:")).unwrap();
    let section = SECTION.replace("table: auth.people,", &format!("table: auth.people, {query}"));
    std::fs::write(file.path(), text.replace(users, &section)).unwrap();
    let (process, log) = Process::start_logged(&file);
    (process, log, file)
}

async fn resync(file: &tempfile::NamedTempFile) {
    let (text, code) = said(&command(&["resync", "-c", file.path().to_str().unwrap(), "acme"]).await);
    assert!(code == Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmappable_user_is_set_aside_and_stays_as_it_was_in_stream_and_resync() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(USERS).await;
    let (process, log, file) = start(&bed, "");
    bed.state_is("acme", "following").await;
    bed.becomes("acme", LIVE, "50").await;
    // Optional values become null.
    bed.auth("UPDATE auth.people SET born = 'soon', changed = 'later' WHERE id = 'u2'").await;
    let nulls = "SELECT created_at IS NULL AND updated_at IS NOT NULL AND raw_json ->> 'born' = 'soon' FROM neon_auth.users_sync WHERE id = 'u2'";
    bed.becomes("acme", nulls, "t").await;
    // A deletion time does not: the user would look alive.
    bed.auth("UPDATE auth.people SET gone = 'yesterday', mail = 'new@x' WHERE id IN ('u1')").await;
    bed.auth("INSERT INTO auth.people (id, org, gone) VALUES ('new', 'acme', '?'), ('good', 'acme', NULL)").await;
    let both = format!("new: {}; {GONE}", &GONE[4..]);
    bed.becomes("acme", REJECTED, &both).await;
    let kept = "SELECT email || coalesce(deleted_at::text, '') FROM neon_auth.users_sync WHERE id = 'u1'";
    bed.becomes("acme", kept, "u1@x").await;
    bed.becomes("auth", "SELECT rejected FROM users_sync.tenant", "2").await;
    resync(&file).await;
    bed.becomes("acme", kept, "u1@x").await;
    bed.becomes("acme", REJECTED, &both).await;
    bed.becomes("acme", LIVE, "51").await;
    let (text, _) = said(&command(&["verify", "-c", file.path().to_str().unwrap()]).await);
    assert!(text.starts_with("acme: equal"), "{text}");
    // Most users at once: none of them looks deleted, and `max_deletes` has nothing to say.
    bed.auth("UPDATE auth.people SET gone = 'never' WHERE id LIKE 'u%'").await;
    bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected", "51").await;
    resync(&file).await;
    bed.state_is("acme", "following").await;
    bed.becomes("acme", LIVE, "51").await;
    // They leave once they can be mapped, or are really deleted.
    bed.auth("UPDATE auth.people SET gone = NULL WHERE id LIKE 'u%'").await;
    bed.auth("DELETE FROM auth.people WHERE id = 'new'").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.becomes("acme", kept, "new@x").await;
    bed.becomes("auth", "SELECT rejected FROM users_sync.tenant", "0").await;
    assert!(!log.text().contains("parked") && !log.text().contains("internal error"), "{}", log.text());
    assert!(process.stop().await.success());
    // A first snapshot, too.
    bed.auth("UPDATE auth.people SET gone = 'x' WHERE id = 'u1'").await;
    bed.server.sql("acme", "DROP SCHEMA neon_auth CASCADE; DROP SCHEMA users_sync CASCADE").await.unwrap();
    let (process, log, _file) = start(&bed, "");
    log.says("up to date, streaming").await;
    bed.becomes("acme", LIVE, "50").await;
    bed.becomes("acme", REJECTED, GONE).await;
    assert!(process.stop().await.success());
}

/// The users are read by a query: a read that cannot map its row has not found that the user is gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_unmappable_user_of_a_query_is_set_aside() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(USERS).await;
    let query = "query: 'SELECT * FROM auth.people',";
    let (process, log, file) = start(&bed, query);
    bed.state_is("acme", "following").await;
    bed.becomes("acme", LIVE, "50").await;
    bed.auth("UPDATE auth.people SET gone = 'yesterday', mail = 'new@x' WHERE id = 'u1'").await;
    bed.becomes("acme", REJECTED, GONE).await;
    resync(&file).await;
    bed.becomes("acme", REJECTED, GONE).await;
    bed.becomes("acme", LIVE, "50").await;
    bed.auth("UPDATE auth.people SET gone = NULL WHERE id = 'u1'").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.becomes("acme", "SELECT email FROM neon_auth.users_sync WHERE id = 'u1'", "new@x").await;
    assert!(!log.text().contains("parked"), "{}", log.text());
    assert!(process.stop().await.success());
}
