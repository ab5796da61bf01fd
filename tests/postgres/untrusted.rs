//! Targets whose owners are hostile: what they set up in their own database affects no other tenant and no role.

use crate::support::Bed;
use crate::support::process::{Process, config_file};

/// A tenant with a hostile owner, `acme`, beside an honest one, `globex`.
async fn bed() -> Bed {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "INSERT INTO auth.users (id, org) SELECT tenant || '-' || n, tenant
         FROM unnest(ARRAY['acme', 'globex']) tenant, generate_series(1, 20) n",
    )
    .await;
    bed
}

/// After `sql` in the hostile target and a change for both tenants, the honest target is up to date, and the process has
/// neither ended nor begun a new session. Returns with the hostile tenant in `state`.
async fn only_its_own_tenant_is_affected(sql: &str, limits: &str, state: &str, reason: &str) {
    let bed = bed().await;
    let targets = ["acme", "globex"].map(|tenant| (tenant.to_owned(), bed.server.url(tenant)));
    let config = config_file(&bed.server.url("auth"), &targets, limits);
    let (mut process, log) = Process::start_logged(&config);
    bed.equal().await;
    bed.server.sql("acme", sql).await.unwrap();
    bed.auth("UPDATE auth.users SET email = 'changed', updated_at = now()").await;
    bed.becomes("globex", "SELECT count(*) FROM neon_auth.users_sync WHERE email = 'changed'", "20").await;
    bed.state_is("acme", state).await;
    log.says(reason).await;
    assert!(process.is_running(), "{}", log.text());
    let text = log.text();
    assert_eq!(text.matches("streaming slot").count(), 1, "{text}");
    assert_eq!(text.matches("starting over").count(), 1, "{text}");
    assert!(text.lines().all(|line| line.len() < 4000), "{text}");
    bed.state_is("globex", "following").await;
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_a_type_that_is_not_built_in_parks_only_its_tenant() {
    only_its_own_tenant_is_affected(
        "CREATE TYPE deep AS (a text);
         CREATE TABLE users_sync.other AS SELECT * FROM users_sync.checkpoint;
         ALTER TABLE users_sync.other ALTER epoch TYPE deep USING row('1')::deep;
         DROP TABLE users_sync.checkpoint; ALTER TABLE users_sync.other RENAME TO checkpoint",
        "",
        "parked",
        "parked",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_100_megabytes_parks_only_its_tenant() {
    only_its_own_tenant_is_affected(
        "CREATE FUNCTION long() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION '%', repeat('x', 100000000) USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER long BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION long()",
        "",
        "parked",
        "the server sent an error of",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_do_not_reach_the_process() {
    let bed = bed().await;
    let config = bed.config_file("");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    bed.server
        .sql(
            "acme",
            "CREATE FUNCTION chatty() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE NOTICE '%', repeat('x', 1000000); RETURN NEW; END $$;
             CREATE TRIGGER chatty BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION chatty()",
        )
        .await
        .unwrap();
    bed.auth("UPDATE auth.users SET email = 'changed', updated_at = now()").await;
    bed.equal().await;
    assert!(process.stop().await.success(), "{}", log.text());
}

/// While it is fenced or joined, a target that sleeps holds back no more than `limits.source_wal`.
#[tokio::test(flavor = "multi_thread")]
async fn a_joining_target_that_never_answers_retains_no_more_wal_than_it_may() {
    let bed = bed().await;
    bed.server
        .sql(
            "acme",
            "CREATE SCHEMA neon_auth; CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL,
               name text, email text, created_at timestamptz, deleted_at timestamptz, updated_at timestamptz);
             CREATE FUNCTION sleeps() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(100000); RETURN NEW; END $$;
             CREATE TRIGGER sleeps BEFORE INSERT ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION sleeps()",
        )
        .await
        .unwrap();
    let targets = ["acme", "globex"].map(|tenant| (tenant.to_owned(), bed.server.url(tenant)));
    let config = config_file(&bed.server.url("auth"), &targets, "limits: {source_wal: 4MB}");
    let (process, log) = Process::start_logged(&config);
    bed.state_is("globex", "following").await;
    bed.state_is("acme", "joining").await;
    bed.auth("CREATE TABLE auth.noise AS SELECT repeat('x', 500) FROM generate_series(1, 60000)").await;
    log.says("it retained more of the source's WAL than limits.source_wal").await;
    let held_back = "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 8 << 20 FROM pg_replication_slots";
    bed.becomes("auth", held_back, "t").await;
    bed.server.sql("acme", "DROP TRIGGER sleeps ON neon_auth.users_sync").await.unwrap();
    bed.equal().await;
    bed.state_is("acme", "following").await;
    assert!(process.stop().await.success());
}

/// The owner of a database puts an operator of its own before PostgreSQL's. It would run with the rights of our role.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_of_the_databases_owner_is_never_run() {
    let bed = bed().await;
    bed.server
        .sql(
            "acme",
            "CREATE SCHEMA evil; CREATE TABLE public.taken (role text, by text);
             CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.taken VALUES (current_user, 'same'); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$;
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
             CREATE FUNCTION evil.count(text) RETURNS bigint LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.taken VALUES (current_user, 'count'); RETURN 1; END $$;
             CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.taken VALUES (current_user, 'now'); RETURN pg_catalog.now(); END $$;
             ALTER DATABASE acme SET search_path = evil, pg_catalog",
        )
        .await
        .unwrap();
    let config = bed.config_file("deletes: {mode: soft, purge_after: 1s}");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    bed.auth("UPDATE auth.users SET email = 'changed', updated_at = now(); DELETE FROM auth.users WHERE id = 'acme-1'")
        .await;
    bed.equal().await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NOT NULL", "0").await;
    let path = config.path().to_str().unwrap();
    for arguments in [&["verify", "-c", path][..], &["check", "-c", path], &["status", "-c", path]] {
        crate::support::process::command(arguments).await;
    }
    assert!(process.stop().await.success(), "{}", log.text());
    let taken = bed.query("acme", "SELECT role, by FROM public.taken").await;
    assert!(taken.is_empty(), "{taken:?}");
}
