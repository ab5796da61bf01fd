//! Deletes that a target refuses or skips, also when deleted users are purged.

use super::kinds::WORD;
use crate::rejected::{HELD, REJECTED, fill};
use crate::support::Bed;
use crate::support::process::Process;

/// Refuses only deletes: of rows, and the marks of soft ones. Users named Back may not come back.
const TRIGGER: &str = r#"
    CREATE FUNCTION public.judge() RETURNS trigger LANGUAGE plpgsql AS $$
      DECLARE
        deletes bool := TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL;
        r neon_auth.users_sync := coalesce(NEW, OLD);
        kind text := split_part(r.name, ' ', 1);
      BEGIN
        IF deletes AND kind = 'Kept' OR NOT deletes AND kind = 'Back' THEN
          RAISE EXCEPTION '%', r.name USING ERRCODE = '45000', DETAIL = r.name, HINT = r.name, TABLE = r.name,
            SCHEMA = r.name, COLUMN = r.name, DATATYPE = r.name, CONSTRAINT = r.name;
        END IF;
        IF deletes AND kind = 'Skipped' THEN RETURN NULL; END IF;
        RETURN r;
      END $$;
    CREATE TRIGGER judge BEFORE UPDATE OR DELETE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION public.judge()"#;

/// In `u1` to `u6`: two each that are kept and skipped, one innocent user, and one that comes back.
const NAMES: &str = "UPDATE auth.users SET updated_at = now(), last_name = 'Sesame', first_name =
    (ARRAY['Kept', 'Kept', 'Skipped', 'Skipped', 'Innocent', 'Returned'])[substr(id, 2)::int] WHERE length(id) = 2 AND id < 'u7'";

#[tokio::test(flavor = "multi_thread")]
async fn deletes_that_a_trigger_refuses_or_skips_are_set_aside_by_every_path() {
    let bed = Bed::start(&["acme"]).await;
    let at_target = async |sql: &str| bed.server.sql("acme", sql).await.unwrap();
    fill(&bed, 100).await;
    bed.auth(NAMES).await;
    let config = bed.config_file("deletes: {mode: soft}");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    at_target(TRIGGER).await;
    at_target(
        "CREATE TABLE public.todos (user_id text REFERENCES neon_auth.users_sync(id) ON DELETE CASCADE);
         INSERT INTO public.todos VALUES ('u6')",
    )
    .await;
    // One of each is gone, the other one is marked at the source.
    bed.auth(
        "BEGIN; DELETE FROM auth.users WHERE id IN ('u1', 'u3', 'u5', 'u6');
         UPDATE auth.users SET deleted_at = now(), updated_at = now() WHERE id IN ('u2', 'u4');
         UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE id = 'u50'; COMMIT",
    )
    .await;
    let marks = "u1 45000, u2 45000, u3 02000, u4 02000";
    bed.becomes("acme", REJECTED, marks).await;
    bed.becomes("acme", HELD, "98").await;
    bed.becomes("acme", "SELECT name FROM neon_auth.users_sync WHERE id = 'u50'", "Bea").await;
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    bed.becomes("acme", REJECTED, marks).await;
    // The user came back, and its target refuses the row.
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name, last_name, created_at, updated_at)
         VALUES ('u6', 'acme', 'Back', 'Sesame', now(), now())",
    )
    .await;
    let marks = "u1 45000, u2 45000, u3 02000, u4 02000, u6 45000";
    bed.becomes("acme", REJECTED, marks).await;
    assert!(process.stop().await.success());
    assert!(!log.text().contains(WORD) && !log.text().contains(" parked "), "{}", log.text());

    at_target(
        "ALTER TABLE neon_auth.users_sync DISABLE TRIGGER judge;
         UPDATE neon_auth.users_sync SET deleted_at = now() - interval '1 day' WHERE id IN ('u1', 'u2', 'u3', 'u4', 'u5', 'u6');
         ALTER TABLE neon_auth.users_sync ENABLE TRIGGER judge; DELETE FROM users_sync.rejected WHERE id <> 'u6'",
    )
    .await;
    let config = bed.config_file("deletes: {mode: soft, purge_after: 1s}");
    let (process, log) = Process::start_logged(&config);
    bed.becomes("acme", REJECTED, marks).await;
    log.says_times("deleted permanently", 1).await;
    // The purge is tried again and again; changes arrive beside it.
    let tried =
        "SELECT count(*) FROM users_sync.rejected WHERE id IN ('u1', 'u3') AND tried_at > since + interval '2 s'";
    bed.becomes("acme", tried, "2").await;
    bed.auth("UPDATE auth.users SET first_name = 'Cleo', updated_at = now() WHERE id = 'u50'").await;
    bed.becomes("acme", "SELECT name FROM neon_auth.users_sync WHERE id = 'u50'", "Cleo").await;
    bed.becomes("acme", "SELECT count(*) FROM public.todos", "1").await;
    bed.state_is("acme", "following").await;
    let text = log.text();
    assert!(text.matches("the target rejects users").count() <= 2 && !text.contains("could not remove"), "{text}");
    at_target("DROP TRIGGER judge ON neon_auth.users_sync").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE id < 'u6' AND length(id) = 2", "0").await;
    bed.becomes(
        "acme",
        "SELECT count(*) || min(u.name) FROM public.todos JOIN neon_auth.users_sync u ON u.id = user_id",
        "1Back Sesame",
    )
    .await;
    assert!(process.stop().await.success());
    assert!(!log.text().contains(WORD) && !log.text().contains(" parked "), "{}", log.text());
}
