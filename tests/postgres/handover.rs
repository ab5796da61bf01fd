//! Users hand over values that are unique: the order of writes frees a value before another user takes it.

use crate::rejected::{HELD, REJECTED, fill};
use crate::support::{Bed, GENERATED, Service};
use users_sync::config::Config;
use users_sync::model::Deletes;
use users_sync::throwaway::Options;

async fn following(users: u32, options: Options, change: impl FnOnce(&mut Config)) -> (Bed, Service) {
    let bed = Bed::start_with(&["acme"], options).await;
    fill(&bed, users).await;
    let mut config = bed.config();
    change(&mut config);
    let service = Service::start(config);
    bed.equal().await;
    (bed, service)
}

async fn at_target(bed: &Bed, sql: &str) {
    bed.server.sql("acme", sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_deletes_then_updates_then_inserts() {
    let options = Options::new().set("log_statement", "all");
    let (bed, service) = following(20, options, |config| config.deletes = Deletes::Hard).await;
    at_target(&bed, "CREATE UNIQUE INDEX one_address ON neon_auth.users_sync (email)").await;
    // Each takes the address of a user who gives it up in the same transaction.
    bed.auth(
        "BEGIN;
         DELETE FROM auth.users WHERE id = 'u1';
         UPDATE auth.users SET email = '1@x.org', updated_at = now() WHERE id = 'u2';
         INSERT INTO auth.users (id, org, first_name, email, created_at, updated_at)
           VALUES ('new', 'acme', 'Bea', '2@x.org', now(), now());
         COMMIT",
    )
    .await;
    bed.equal().await;
    bed.becomes("acme", REJECTED, "").await;
    service.stop().await;
    let log = std::fs::read_to_string(bed.server.data_dir().parent().unwrap().join("server.log")).unwrap();
    let after = log.split("one_address").nth(1).unwrap();
    assert!(!after.contains("SAVEPOINT"), "the batch was refused at first");
}

/// A trigger that skips users named Eve without an error, also when they are deleted.
const SKIP: &str = "
    CREATE FUNCTION public.skip() RETURNS trigger LANGUAGE plpgsql AS $$
      DECLARE r neon_auth.users_sync := coalesce(NEW, OLD);
      BEGIN IF r.name = 'Eve' THEN RETURN NULL; END IF; RETURN r; END $$;
    CREATE TRIGGER skip BEFORE INSERT OR UPDATE OR DELETE ON neon_auth.users_sync
      FOR EACH ROW EXECUTE FUNCTION public.skip()";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_trigger_skips_are_set_aside() {
    for deletes in [Deletes::Soft, Deletes::Hard] {
        let (bed, service) = following(100, Options::new(), |config| config.deletes = deletes).await;
        bed.auth("UPDATE auth.users SET first_name = 'Eve', updated_at = now() WHERE id = 'u8'").await;
        bed.equal().await;
        at_target(&bed, SKIP).await;
        // An update, an insert, and a delete; unchanged rows are not skipped ones.
        bed.auth(
            "BEGIN;
             UPDATE auth.users SET updated_at = now(), first_name = CASE id WHEN 'u7' THEN 'Eve' ELSE 'Bea' END
               WHERE id <> 'u8';
             INSERT INTO auth.users (id, org, first_name, email, created_at, updated_at)
               VALUES ('new', 'acme', 'Eve', 'new@x.org', now(), now());
             DELETE FROM auth.users WHERE id IN ('u8', 'u10');
             COMMIT",
        )
        .await;
        bed.becomes("acme", REJECTED, "new 02000, u7 02000, u8 02000").await;
        bed.becomes(
            "acme",
            "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea' AND deleted_at IS NULL",
            "97",
        )
        .await;
        service.stop().await;
    }
}

/// Exchanges of addresses by users who all exist, each in one transaction.
#[tokio::test(flavor = "multi_thread")]
async fn exchanged_addresses_arrive() {
    for shape in ["", GENERATED] {
        let bed = Bed::start_with(&["acme"], Options::new().set("log_statement", "all")).await;
        at_target(&bed, shape).await;
        fill(&bed, 40).await;
        let service = Service::start(bed.config());
        bed.equal().await;
        at_target(
            &bed,
            "CREATE UNIQUE INDEX one_address ON neon_auth.users_sync (lower(email));
             CREATE TABLE public.todos (user_id text REFERENCES neon_auth.users_sync(id) ON DELETE CASCADE);
             INSERT INTO public.todos SELECT id FROM neon_auth.users_sync",
        )
        .await;
        // A swap, a rotation of ten, a chain of ten whose last address is new, and one innocent change.
        let address = |user: u32, address: u32| {
            format!("UPDATE auth.users SET email = '{address}@X.org', updated_at = now() WHERE id = 'u{user}';")
        };
        let mut changes = vec![address(1, 2), address(2, 1)];
        changes.extend((10..20).map(|n| address(n, if n == 19 { 10 } else { n + 1 })));
        changes.extend((20..30).map(|n| address(n, if n == 29 { 999 } else { n + 1 })));
        changes.push("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE id = 'u40'".into());
        bed.auth(&format!("BEGIN; {}; COMMIT", changes.concat())).await;
        bed.equal().await;
        bed.becomes("acme", REJECTED, "").await;
        bed.becomes("acme", "SELECT count(*) FROM public.todos", "40").await;
        service.stop().await;
        // Each pass tries each refused row once, and there are at most 16 passes after the first one.
        let log = std::fs::read_to_string(bed.server.data_dir().parent().unwrap().join("server.log")).unwrap();
        let after = log.split("INTO public.todos").nth(1).unwrap();
        let statements = after.matches("execute <unnamed>: WITH v AS").count();
        assert!(statements <= 23 * 17, "{statements} statements for 23 changes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_user_gets_the_address_of_a_deleted_one() {
    for shape in ["", GENERATED] {
        let bed = Bed::start(&["acme"]).await;
        at_target(&bed, shape).await;
        fill(&bed, 10).await;
        let service = Service::start(bed.config());
        bed.equal().await;
        at_target(&bed, "CREATE UNIQUE INDEX one_address ON neon_auth.users_sync (email)").await;
        bed.auth("DELETE FROM auth.users WHERE id IN ('u1', 'u2')").await;
        bed.becomes("acme", HELD, "8").await;
        bed.auth(
            "INSERT INTO auth.users (id, org, first_name, email, created_at, updated_at)
             VALUES ('again', 'acme', 'Ann', '1@x.org', date_trunc('second', now()), now());
             UPDATE auth.users SET email = '2@x.org', updated_at = now() WHERE id = 'u3'",
        )
        .await;
        bed.equal().await;
        bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE email IS NULL", "2").await;
        // The source does not have the users who gave way: nothing of them can arrive.
        bed.becomes("acme", REJECTED, "").await;
        bed.becomes("auth", "SELECT rejected FROM users_sync.tenant", "0").await;
        service.stop().await;
    }
}

/// Two users have one address, until one of them gets another, or is deleted, or the constraint is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_user_arrives_once_it_fits() {
    let (bed, service) = following(30, Options::new(), |_| {}).await;
    at_target(
        &bed,
        "CREATE UNIQUE INDEX one_address ON neon_auth.users_sync (email);
         ALTER TABLE neon_auth.users_sync ADD CONSTRAINT no_eve CHECK (raw_json ->> 'first_name' <> 'Eve')",
    )
    .await;
    bed.auth(
        "UPDATE auth.users SET email = '1@x.org', updated_at = now() WHERE id IN ('u2', 'u3');
         UPDATE auth.users SET first_name = 'Eve', updated_at = now() WHERE id = 'u9'",
    )
    .await;
    bed.becomes("acme", REJECTED, "u2 23505, u3 23505, u9 23514").await;
    // The address goes to one of them; the other one can only get it next.
    bed.auth("UPDATE auth.users SET email = 'other@x.org', updated_at = now() WHERE id = 'u1'").await;
    bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected", "2").await;
    bed.auth("UPDATE auth.users SET email = id || '@x.org', updated_at = now() WHERE id IN ('u2', 'u3')").await;
    bed.becomes("acme", REJECTED, "u9 23514").await;
    // The constraint goes without a notice.
    at_target(&bed, "ALTER TABLE neon_auth.users_sync DROP CONSTRAINT no_eve").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.equal().await;
    // A rejected user who is deleted is not rejected any more.
    bed.auth("UPDATE auth.users SET email = '5@x.org', updated_at = now() WHERE id = 'u6'").await;
    bed.becomes("acme", REJECTED, "u6 23505").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'u6'").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.becomes("acme", HELD, "29").await;
    bed.becomes("auth", "SELECT state || rejected FROM users_sync.tenant", "following0").await;
    service.stop().await;
}
