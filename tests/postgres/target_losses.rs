//! Every fault of a target while the process runs: the log says what happened, and the process recovers.

use crate::support::process::{Log, Process, command, config_file, said};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, GENERATED};
use std::net::{Ipv4Addr, SocketAddr};
use tempfile::NamedTempFile;

struct Scene {
    bed: Bed,
    process: Process,
    log: Log,
    config: NamedTempFile,
}

impl Scene {
    async fn start(more: &str) -> Scene {
        let bed = Bed::start(&["acme"]).await;
        bed.auth(
            "INSERT INTO auth.users (id, org, first_name, created_at, updated_at)
             SELECT 'u' || n, 'acme', 'Ann', date_trunc('second', now()), now() FROM generate_series(1, 20) n",
        )
        .await;
        let config = bed.config_file(more);
        let (process, log) = Process::start_logged(&config);
        bed.equal().await;
        bed.state_is("acme", "following").await;
        Scene { bed, process, log, config }
    }

    async fn at_target(&self, sql: &str) {
        self.bed.server.sql("acme", sql).await.unwrap();
    }

    async fn change(&self) {
        self.bed.auth("UPDATE auth.users SET first_name = first_name || 'a', updated_at = now() WHERE id = 'u1'").await;
    }

    /// Runs this at the target. The next change reveals it, the log contains these words, and the tenant recovers.
    async fn breaks(sql: &str, words: &str) {
        let scene = Scene::start("").await;
        scene.at_target(sql).await;
        scene.change().await;
        scene.log.says(words).await;
        scene.ends_well().await;
    }

    async fn ends_well(mut self) {
        self.bed.equal().await;
        self.bed.state_is("acme", "following").await;
        self.change().await;
        self.bed.equal().await;
        assert!(self.process.is_running(), "{}", self.log.text());
        assert!(self.process.stop().await.success());
    }
}

const REPLACED: &str = "users_sync was truncated, rewritten or replaced in its target";

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_is_resynced() {
    Scene::breaks("TRUNCATE neon_auth.users_sync", REPLACED).await;
}

/// A new process cannot reach the target at first. It still knows the state from before once it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_truncated_while_unreachable_is_resynced() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org, updated_at) SELECT 'u' || n, 'acme', now() FROM generate_series(1, 20) n",
    )
    .await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let url = bed.server.url("acme").replace(&format!(":{}/", bed.server.port()), &format!(":{}/", proxy.port()));
    let config = config_file(&bed.server.url("auth"), &[("acme".into(), url)], "");
    let process = Process::start(&config);
    bed.state_is("acme", "following").await;
    assert!(process.stop().await.success());
    proxy.refuse(true);
    let (process, log) = Process::start_logged(&config);
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE id = 'u1'").await;
    bed.becomes(
        "auth",
        "SELECT state || coalesce(left(reason, 12), '') FROM users_sync.tenant",
        "followingcannot reach",
    )
    .await;
    bed.server.sql("acme", "TRUNCATE neon_auth.users_sync").await.unwrap();
    proxy.refuse(false);
    log.says(REPLACED).await;
    bed.equal().await;
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_is_recreated_with_a_resync() {
    Scene::breaks("DROP TABLE neon_auth.users_sync", "users_sync is missing in its target").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_table_is_replaced_with_a_resync() {
    Scene::breaks("ALTER TABLE neon_auth.users_sync RENAME TO users_sync_old", "users_sync is missing in its target")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_recreated_in_the_other_shape_is_resynced() {
    let sql = format!("DROP SCHEMA neon_auth CASCADE; {GENERATED}");
    Scene::breaks(&sql, REPLACED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_restored_to_an_older_point_is_resynced() {
    let scene = Scene::start("").await;
    scene
        .at_target(
            "CREATE SCHEMA backup; CREATE TABLE backup.users AS TABLE neon_auth.users_sync;
                     CREATE TABLE backup.checkpoint AS TABLE users_sync.checkpoint",
        )
        .await;
    scene.bed.auth("INSERT INTO auth.users (id, org, created_at, updated_at) SELECT 'n' || n, 'acme', date_trunc('second', now()), now() FROM generate_series(1, 9) n").await;
    scene.bed.equal().await;
    // The target's position is recorded; then the target is set back.
    scene.bed.becomes("auth", "SELECT position = confirmed OR position_at > now() - interval '1 hour' FROM users_sync.tenant JOIN users_sync.source USING (slot)", "t").await;
    scene.at_target("BEGIN; DELETE FROM neon_auth.users_sync; INSERT INTO neon_auth.users_sync SELECT * FROM backup.users;
                     DELETE FROM users_sync.checkpoint; INSERT INTO users_sync.checkpoint SELECT * FROM backup.checkpoint; COMMIT;
                     SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'acme' AND pid <> pg_backend_pid()").await;
    scene.change().await;
    scene.log.says("its target was restored to an older point").await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_target_is_parked_and_recovers() {
    let scene = Scene::start("").await;
    scene.at_target("ALTER DATABASE acme SET default_transaction_read_only = on;
                     SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'acme' AND pid <> pg_backend_pid()").await;
    scene.change().await;
    scene.log.says("SET default_transaction_read_only = off;").await;
    scene.bed.state_is("acme", "parked").await;
    scene.bed.server.sql("postgres", "ALTER DATABASE acme RESET default_transaction_read_only").await.unwrap();
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_loses_its_privileges_is_parked_and_recovers() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('u1', 'acme', now())").await;
    bed.server.sql("acme", "CREATE ROLE writer LOGIN; GRANT CREATE ON DATABASE acme TO writer").await.unwrap();
    let targets = [("acme".to_owned(), bed.server.url_for("writer", "acme"))];
    let config = config_file(&bed.server.url("auth"), &targets, "");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    let scene = Scene { bed, process, log, config };
    scene
        .at_target("ALTER TABLE neon_auth.users_sync OWNER TO postgres; REVOKE ALL ON neon_auth.users_sync FROM writer")
        .await;
    scene.change().await;
    scene.log.says("GRANT SELECT, INSERT, UPDATE ON neon_auth.users_sync TO").await;
    scene.at_target("GRANT SELECT, INSERT, UPDATE ON neon_auth.users_sync TO writer").await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_changed_by_hand_are_found_by_verify() {
    let scene = Scene::start("").await;
    scene.at_target("UPDATE neon_auth.users_sync SET name = 'Mallory' WHERE id = 'u3'; DELETE FROM neon_auth.users_sync WHERE id = 'u4'").await;
    let path = scene.config.path().to_str().unwrap();
    let (text, code) = said(&command(&["verify", "-c", path, "--repair"]).await);
    assert!(code == Some(0) && text.contains("missing: u4") && text.contains("different: u3"), "{text}");
    scene.log.says("a resync was requested").await;
    scene.ends_well().await;
}

/// Deleted users are purged after their time, except those that the application still refers to.
#[tokio::test(flavor = "multi_thread")]
async fn soft_deletes_are_purged_after_their_time() {
    let scene = Scene::start("deletes: {mode: soft, purge_after: 1s}").await;
    scene
        .at_target(
            "CREATE TABLE public.todos (user_id text REFERENCES neon_auth.users_sync(id));
                     INSERT INTO public.todos VALUES ('u3')",
        )
        .await;
    scene.bed.auth("DELETE FROM auth.users WHERE id IN ('u2', 'u3')").await;
    let left = "SELECT coalesce(string_agg(id, ','), '') FROM neon_auth.users_sync WHERE id IN ('u2', 'u3')";
    scene.bed.becomes("acme", left, "u3").await;
    scene.bed.becomes("acme", "SELECT id || ' ' || sqlstate FROM users_sync.rejected", "u3 23503").await;
    scene.log.says("deleted permanently").await;
    scene.change().await;
    let (text, code) = said(&command(&["verify", "-c", scene.config.path().to_str().unwrap()]).await);
    assert_eq!((&*text, code), ("acme: equal, 18 users, 1 rejected\n", Some(1)));
    assert!(scene.process.stop().await.success());
}

/// More users than are purged at once, preceded by as many that the application keeps.
#[tokio::test(flavor = "multi_thread")]
async fn many_soft_deletes_are_purged_in_rounds() {
    let scene = Scene::start("deletes: {mode: soft, purge_after: 1s}").await;
    scene
        .at_target(
            "CREATE TABLE public.todos (user_id text REFERENCES neon_auth.users_sync(id));
             INSERT INTO neon_auth.users_sync (id, raw_json, deleted_at)
             SELECT 'kept' || n, '{}', now() - interval '2 days' FROM generate_series(1, 10) n;
             INSERT INTO public.todos SELECT 'kept' || n FROM generate_series(1, 10) n;
             INSERT INTO neon_auth.users_sync (id, raw_json, deleted_at)
             SELECT 'gone' || n, '{}', now() - interval '1 day' FROM generate_series(1, 20500) n",
        )
        .await;
    scene.bed.auth("DELETE FROM auth.users WHERE id = 'u2'").await;
    let left = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL";
    scene.bed.becomes("acme", left, "10").await;
    scene.log.says_times("deleted permanently", 3).await;
    scene.ends_well().await;
}

/// The target accepts reads but no writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_target_counts_as_unavailable_despite_successful_reads() {
    let scene = Scene::start("limits: {park_after: 2s}").await;
    scene
        .at_target(
            "CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER is_full BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION full()",
        )
        .await;
    scene.change().await;
    scene.bed.state_is("acme", "parked").await;
    scene.log.says_times("retrying target", 2).await;
    let tried = scene.log.text().matches("retrying target").count();
    assert!((2..=8).contains(&tried), "tried {tried} times: {}", scene.log.text());
    scene.at_target("DROP TRIGGER is_full ON neon_auth.users_sync").await;
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forget_deletes_the_users_of_an_unconfigured_tenant() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('a', 'acme'), ('g', 'globex')").await;
    let both = bed.config_file("");
    let (process, _log) = Process::start_logged(&both);
    bed.equal().await;
    assert!(process.stop().await.success());
    let url = bed.server.url("globex");
    let path = both.path().to_str().unwrap();
    let (text, code) = said(&command(&["forget", "-c", path, "globex", "--target", &url, "--yes"]).await);
    assert!(code == Some(1) && text.contains("tenant globex is still in the configuration"), "{text}");
    let one = config_file(&bed.server.url("auth"), &[("acme".into(), bed.server.url("acme"))], "");
    let path = one.path().to_str().unwrap();
    for (arguments, words) in [
        (vec!["unlisted"], "unknown tenant unlisted"),
        (vec!["globex"], "pass --target URL"),
        (vec!["globex", "--target", &bed.server.url("acme")], "the target of tenant globex is "),
        (vec!["globex", "--target", &url], "no terminal to confirm on"),
    ] {
        let (text, code) = said(&command(&[&["forget", "-c", path][..], &arguments].concat()).await);
        assert!(code == Some(1) && text.contains(words), "{text}");
    }
    bed.server
        .sql(
            "globex",
            "CREATE TABLE public.todos (user_id text REFERENCES neon_auth.users_sync(id));
                              INSERT INTO public.todos VALUES ('g')",
        )
        .await
        .unwrap();
    let (text, code) = said(&command(&["forget", "-c", path, "globex", "--target", &url, "--yes"]).await);
    assert!(code == Some(1) && text.contains("nothing was deleted"), "{text}");
    bed.server.sql("globex", "DROP TABLE public.todos").await.unwrap();
    let (text, code) = said(&command(&["forget", "-c", path, "globex", "--target", &url, "--yes"]).await);
    assert!(code == Some(0) && text.contains("1 users deleted; tenant globex is forgotten"), "{text}");
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync", "0").await;
    bed.becomes("auth", "SELECT string_agg(tenant, ',') FROM users_sync.tenant", "acme").await;
}
