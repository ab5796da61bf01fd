//! The purge of deleted users never takes one that came back, and no time and no refusal makes it start over.

use crate::support::Bed;
use crate::support::process::Process;

const PURGE: &str = "deletes: {mode: soft, purge_after: 1h}";
const LEFT: &str = "SELECT coalesce(string_agg(id, ',' ORDER BY id), '') FROM neon_auth.users_sync \
                    WHERE deleted_at IS NOT NULL";

async fn bed() -> Bed {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, first_name, updated_at)
         SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, 20) n",
    )
    .await;
    bed
}

async fn follow(bed: &Bed) {
    let config = bed.config_file("");
    let process = Process::start(&config);
    bed.equal().await;
    bed.state_is("acme", "following").await;
    assert!(process.stop().await.success());
}

/// The application's rows refer to the users, and would be deleted with them.
const TODOS: &str = "
    CREATE TABLE IF NOT EXISTS public.todos (user_id text REFERENCES neon_auth.users_sync(id) ON DELETE CASCADE);
    INSERT INTO public.todos SELECT id FROM neon_auth.users_sync";
const AGE: &str =
    "UPDATE neon_auth.users_sync SET deleted_at = deleted_at - interval '1 day' WHERE deleted_at IS NOT NULL";

/// The source has the change, and no process has applied it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_came_back_while_no_process_ran_keeps_the_rows_of_the_application() {
    let bed = bed().await;
    follow(&bed).await;
    bed.server.sql("acme", TODOS).await.unwrap();
    bed.auth("DELETE FROM auth.users WHERE id IN ('u2', 'u3')").await;
    let config = bed.config_file("");
    let process = Process::start(&config);
    bed.becomes("acme", LEFT, "u2,u3").await;
    assert!(process.stop().await.success());
    bed.server.sql("acme", AGE).await.unwrap();
    // Many transactions of others come first.
    for _ in 0..50 {
        bed.auth("UPDATE auth.users SET first_name = first_name || 'a' WHERE id <> 'u2'").await;
    }
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('u2', 'acme', 'Back', now())").await;
    let config = bed.config_file(PURGE);
    let (process, log) = Process::start_logged(&config);
    log.says("deleted permanently").await;
    bed.becomes("acme", LEFT, "").await;
    bed.equal().await;
    bed.becomes("acme", "SELECT string_agg(user_id, ',') FROM public.todos WHERE user_id IN ('u2', 'u3')", "u2").await;
    assert!(log.text().contains("count=1"), "{}", log.text());
    assert!(process.stop().await.success());
}

/// The row changes between the search and the DELETE.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_no_longer_due_is_not_deleted() {
    let bed = bed().await;
    follow(&bed).await;
    bed.server.sql("acme", TODOS).await.unwrap();
    bed.server
        .sql(
            "acme",
            "UPDATE neon_auth.users_sync SET deleted_at = now() - interval '1 day' WHERE id IN ('u4', 'u5', 'u6')",
        )
        .await
        .unwrap();
    let other = bed.server.connect("acme").await.unwrap();
    other
        .batch_execute(
            "BEGIN; UPDATE neon_auth.users_sync SET deleted_at = NULL WHERE id = 'u4';
             UPDATE neon_auth.users_sync SET deleted_at = now() WHERE id = 'u5'",
        )
        .await
        .unwrap();
    let config = bed.config_file(PURGE);
    let (process, log) = Process::start_logged(&config);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ILIKE '%DELETE FROM neon_auth.users_sync%'
                 AND pid <> pg_backend_pid()";
    bed.becomes("acme", waits, "1").await;
    other.batch_execute("COMMIT").await.unwrap();
    log.says("deleted permanently").await;
    bed.becomes("acme", LEFT, "u5").await;
    let todos =
        "SELECT string_agg(user_id, ',' ORDER BY user_id) FROM public.todos WHERE user_id IN ('u4', 'u5', 'u6')";
    bed.becomes("acme", todos, "u4,u5").await;
    assert!(log.text().contains("count=1"), "{}", log.text());
    assert!(process.stop().await.success());
}

/// Each of these times is stored, none is an error, and the tenant takes no other snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn no_deletion_time_makes_the_purge_fail() {
    let bed = bed().await;
    let far = ["infinity", "294276-12-31 23:59:59.999999+00", "9999-12-31"];
    for (n, time) in far.iter().enumerate() {
        bed.auth(&format!("UPDATE auth.users SET deleted_at = '{time}' WHERE id = 'u{}'", n + 1)).await;
    }
    follow(&bed).await;
    // From the shortest time to one that is too long to be taken from a timestamp.
    for (after, past) in [
        ("1ms", "-infinity"),
        ("1h", "4713-01-01 BC"),
        ("30d", "0001-01-01 BC"),
        ("3000000d", "-infinity"),
        ("213503982334d", "-infinity"),
    ] {
        bed.auth(&format!("UPDATE auth.users SET deleted_at = '{past}' WHERE id = 'u8'")).await;
        let config = bed.config_file(&format!("deletes: {{mode: soft, purge_after: {after}}}"));
        let (process, log) = Process::start_logged(&config);
        log.says("deleted permanently").await;
        bed.becomes("acme", LEFT, "u1,u2,u3").await;
        bed.auth("UPDATE auth.users SET deleted_at = NULL, updated_at = now() WHERE id = 'u8'").await;
        bed.equal().await;
        bed.state_is("acme", "following").await;
        let text = log.text();
        for line in ["snapshot requested", "could not remove", "parked", "retrying", " ERROR "] {
            assert!(!text.contains(line), "{after}: {text}");
        }
        assert!(process.stop().await.success());
    }
}

/// A failing purge is tried again on its own: changes arrive, and the source's table is not read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_the_target_refuses_stops_no_change() {
    let bed = bed().await;
    follow(&bed).await;
    bed.auth("DELETE FROM auth.users WHERE id = 'u2'").await;
    follow(&bed).await;
    bed.server.sql("acme", AGE).await.unwrap();
    // The whole statement is refused. The code of a read-only database would park a tenant that has to write.
    for (n, code) in ["42501", "25006", "0A000", "22008", "55000"].into_iter().enumerate() {
        let sql = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$;
             DROP TRIGGER IF EXISTS refuses ON neon_auth.users_sync;
             CREATE TRIGGER refuses BEFORE DELETE ON neon_auth.users_sync FOR EACH STATEMENT EXECUTE FUNCTION refuse();
             DELETE FROM users_sync.rejected"
        );
        bed.server.sql("acme", &sql).await.unwrap();
        let config = bed.config_file(PURGE);
        let (process, log) = Process::start_logged(&config);
        if code != "25006" {
            let set_aside = format!("u2 {code}");
            bed.becomes("acme", "SELECT id || ' ' || sqlstate FROM users_sync.rejected", &set_aside).await;
        } else {
            log.says("could not remove users that were deleted long ago").await;
        }
        bed.auth(&format!("UPDATE auth.users SET first_name = 'Ann{n}', updated_at = now() WHERE id = 'u1'")).await;
        bed.equal().await;
        bed.state_is("acme", "following").await;
        assert!(!log.text().contains("snapshot requested"), "{code}: {}", log.text());
        assert!(process.stop().await.success());
    }
}

/// Each snapshot succeeds and the same batch fails after it. The pauses grow all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_between_two_failures_does_not_shorten_the_pause() {
    let bed = bed().await;
    follow(&bed).await;
    bed.server
        .sql(
            "acme",
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF current_query() NOT LIKE '%users_sync_stage%' THEN RAISE EXCEPTION 'no' USING ERRCODE = '25006'; END IF;
               RETURN NEW; END $$;
             CREATE TRIGGER refuses BEFORE UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await
        .unwrap();
    let config = bed.config_file("");
    let (process, log) = Process::start_logged(&config);
    bed.state_is("acme", "following").await;
    for n in 1..=4 {
        bed.auth(&format!("UPDATE auth.users SET first_name = 'Ann{n}', updated_at = now() WHERE id = 'u1'")).await;
        log.says_times(" parked ", n).await;
        log.says_times("up to date, streaming", n).await;
        bed.equal().await;
    }
    let text = log.text();
    let pauses: Vec<f64> = text
        .split(" wait=")
        .skip(1)
        .map(|rest| rest.split_whitespace().next().unwrap())
        .map(|wait| match wait.strip_suffix("ms") {
            Some(millis) => millis.parse::<f64>().unwrap() / 1000.0,
            None => wait.strip_suffix('s').unwrap().parse().unwrap(),
        })
        .collect();
    assert!(pauses[2] >= 2.0 && pauses[3] >= 4.0, "{pauses:?}");
    assert!(process.stop().await.success());
}

/// A tenant for which nothing waits has neither a connection nor a task.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_purged_from_a_target_that_sleeps() {
    let bed = bed().await;
    let config = bed.config_file("wake_after: 1h\ndeletes: {mode: soft, purge_after: 3s}");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    bed.state_is("acme", "following").await;
    for user in ["u2", "u3"] {
        bed.auth(&format!("DELETE FROM auth.users WHERE id = '{user}'")).await;
        let left = format!("SELECT count(*) FROM neon_auth.users_sync WHERE id = '{user}'");
        bed.becomes("acme", &left, "0").await;
    }
    assert_eq!(log.text().matches("deleted permanently").count(), 2, "{}", log.text());
    assert!(process.stop().await.success());
}
