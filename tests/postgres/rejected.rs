//! Rows that a target refuses are left out one by one, recorded, and retried; all other rows arrive.

use crate::support::proxy::{Cut, Direction, TcpProxy};
use crate::support::{Bed, DEADLINE, GENERATED, Service};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use users_sync::config::Config;
use users_sync::model::Deletes;
use users_sync::throwaway::Options;

pub const REJECTED: &str =
    "SELECT coalesce(string_agg(id || ' ' || sqlstate, ', ' ORDER BY id), '') FROM users_sync.rejected";
pub const HELD: &str = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL";

pub async fn fill(bed: &Bed, users: u32) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, email, created_at, updated_at)
         SELECT 'u' || n, 'acme', 'Ann', n || '@x.org', date_trunc('second', now()), now() FROM generate_series(1, {users}) n"
    ))
    .await;
}

async fn following(users: u32, config: impl FnOnce(&mut Config)) -> (Bed, Service) {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, users).await;
    let mut chosen = bed.config();
    config(&mut chosen);
    let service = Service::start(chosen);
    bed.becomes("auth", "SELECT count(*) FROM pg_replication_slots WHERE active", "1").await;
    bed.state_is("acme", "following").await;
    (bed, service)
}

async fn add(bed: &Bed, sql: &str) {
    bed.server.sql("acme", sql).await.unwrap();
}

const CHECK: &str = "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT no_eve CHECK (raw_json ->> 'first_name' <> 'Eve')";

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_row_is_left_out_until_an_acceptable_change() {
    for shape in ["", GENERATED] {
        let bed = Bed::start(&["acme"]).await;
        add(&bed, shape).await;
        fill(&bed, 100).await;
        let service = Service::start(bed.config());
        bed.equal().await;
        add(&bed, CHECK).await;
        bed.auth("UPDATE auth.users SET first_name = CASE id WHEN 'u7' THEN 'Eve' ELSE 'Bea' END, updated_at = now()")
            .await;
        bed.becomes("acme", REJECTED, "u7 23514").await;
        bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE raw_json ->> 'first_name' = 'Bea'", "99")
            .await;
        bed.becomes("auth", "SELECT rejected FROM users_sync.tenant", "1").await;
        let reason = bed.query("acme", "SELECT reason FROM users_sync.rejected").await[0][0].clone().unwrap();
        assert_eq!(reason, "constraint no_eve refuses it");
        // The same values are tried again; then acceptable ones.
        bed.auth("UPDATE auth.users SET email = 'eve@x.org', updated_at = now() WHERE id = 'u7'").await;
        bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected WHERE tried_at > since", "1").await;
        bed.auth("UPDATE auth.users SET first_name = 'Eva', updated_at = now() WHERE id = 'u7'").await;
        bed.becomes("acme", REJECTED, "").await;
        bed.equal().await;
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn constraints_triggers_and_foreign_keys_refuse_only_their_rows() {
    let (bed, service) = following(200, |_| {}).await;
    add(&bed, "
        CREATE UNIQUE INDEX one_address ON neon_auth.users_sync (email);
        CREATE FUNCTION public.judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.name = 'Mallory' THEN RAISE EXCEPTION 'not % again', NEW.name; END IF; RETURN NEW; END $$;
        CREATE TRIGGER judge BEFORE INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION public.judge();
        CREATE FUNCTION public.judge_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF NEW.name = 'Trudy' THEN RAISE integrity_constraint_violation; END IF; RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER judge_late AFTER INSERT OR UPDATE ON neon_auth.users_sync
          DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.judge_late()").await;
    bed.auth(
        "UPDATE auth.users SET updated_at = now(),
        first_name = CASE id WHEN 'u11' THEN 'Mallory' WHEN 'u22' THEN 'Trudy' ELSE 'Bea' END,
        email = CASE id WHEN 'u33' THEN '44@x.org' ELSE email END",
    )
    .await;
    bed.becomes("acme", REJECTED, "u11 P0001, u22 23000, u33 23505").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'", "197").await;
    // A resync tries all of them and leaves out the same.
    bed.auth("UPDATE auth.users SET first_name = 'Eva', updated_at = now() WHERE id = 'u11'").await;
    bed.becomes("acme", REJECTED, "u22 23000, u33 23505").await;
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    bed.becomes("acme", REJECTED, "u22 23000, u33 23505").await;
    bed.becomes("auth", "SELECT state || rejected FROM users_sync.tenant", "following2").await;
    add(&bed, "DROP TRIGGER judge_late ON neon_auth.users_sync; DROP INDEX neon_auth.one_address").await;
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_snapshot_leaves_out_refused_rows() {
    for deferred in ["", " DEFERRABLE INITIALLY DEFERRED"] {
        let bed = Bed::start(&["acme"]).await;
        add(
            &bed,
            "CREATE SCHEMA neon_auth; CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL,
            name text, email text, created_at timestamptz, deleted_at timestamptz, updated_at timestamptz)",
        )
        .await;
        add(&bed, &format!("ALTER TABLE neon_auth.users_sync ADD CONSTRAINT one_address UNIQUE (email){deferred}"))
            .await;
        fill(&bed, 500).await;
        bed.auth("UPDATE auth.users SET email = '7@x.org' WHERE id IN ('u300', 'u499')").await;
        let service = Service::start(bed.config());
        bed.becomes("acme", "SELECT count(*) FROM pg_class WHERE relname = 'rejected'", "1").await;
        bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected WHERE sqlstate = '23505'", "2").await;
        bed.becomes("acme", HELD, "498").await;
        bed.state_is("acme", "following").await;
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_delete_refused_by_a_foreign_key_is_left_out() {
    let (bed, service) = following(50, |config| config.deletes = Deletes::Hard).await;
    add(
        &bed,
        "CREATE TABLE public.todos (user_id text REFERENCES neon_auth.users_sync(id));
               INSERT INTO public.todos VALUES ('u3'), ('u4')",
    )
    .await;
    bed.auth("DELETE FROM auth.users WHERE id IN ('u1', 'u2', 'u3')").await;
    bed.becomes("acme", REJECTED, "u3 23503").await;
    bed.becomes("acme", HELD, "48").await;
    // Also in a merge.
    bed.auth(
        "BEGIN; CREATE TABLE auth.kept AS SELECT * FROM auth.users WHERE id NOT IN ('u4', 'u5');
              TRUNCATE auth.users; INSERT INTO auth.users SELECT * FROM auth.kept; COMMIT",
    )
    .await;
    bed.becomes("acme", REJECTED, "u3 23503, u4 23503").await;
    bed.becomes("acme", HELD, "47").await;
    // The application removes its references, and a resync deletes the users.
    add(&bed, "DELETE FROM public.todos").await;
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.becomes("acme", HELD, "45").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_transaction_is_applied_without_its_refused_rows() {
    let (bed, service) = following(30_000, |_| {}).await;
    add(&bed, CHECK).await;
    bed.auth(
        "UPDATE auth.users SET updated_at = now(),
              first_name = CASE WHEN id IN ('u5', 'u15000', 'u29999') THEN 'Eve' ELSE 'Bea' END",
    )
    .await;
    bed.becomes("acme", REJECTED, "u15000 23514, u29999 23514, u5 23514").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'", "29997").await;
    bed.becomes("auth", "SELECT state FROM users_sync.tenant", "following").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_every_row_is_parked_and_recovers() {
    let (bed, service) = following(12_000, |_| {}).await;
    add(&bed, "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT only_ann CHECK (raw_json ->> 'first_name' = 'Ann')")
        .await;
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    // Ten thousand refused rows are each isolated.
    bed.state_is_within(5 * DEADLINE, "acme", "parked").await;
    let reason = bed.query("auth", "SELECT reason FROM users_sync.tenant").await[0][0].clone().unwrap();
    assert!(reason.contains("more than the limit of 10000"), "{reason}");
    add(&bed, "ALTER TABLE neon_auth.users_sync DROP CONSTRAINT only_ann").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn isolating_one_refused_row_costs_a_binary_search() {
    let bed = Bed::start_with(&["acme"], Options::new().set("log_statement", "all")).await;
    fill(&bed, 1000).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    add(&bed, CHECK).await;
    bed.auth("UPDATE auth.users SET updated_at = now(), first_name = CASE id WHEN 'u700' THEN 'Eve' ELSE 'Bea' END")
        .await;
    bed.becomes("acme", REJECTED, "u700 23514").await;
    service.stop().await;
    // One refused attempt, then at most two for each halving of a thousand rows, in one transaction.
    let log = std::fs::read_to_string(bed.server.data_dir().parent().unwrap().join("server.log")).unwrap();
    let after = log.split("no_eve CHECK").nth(1).unwrap();
    let savepoints = after.matches("SAVEPOINT users_sync").count() - after.matches("ROLLBACK TO SAVEPOINT").count();
    assert!((2..=2 * 11).contains(&savepoints), "{savepoints}");
}

/// Where most parts of a batch would be refused, they are not tried.
#[tokio::test(flavor = "multi_thread")]
async fn many_refused_rows_cost_one_statement_each() {
    let number = |name: &str, default: u32| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (users, refused_of_ten) = (number("USERS_SYNC_REFUSED_OF", 2_000), number("USERS_SYNC_REFUSED_TENTHS", 7));
    let bed = Bed::start_with(&["acme"], Options::new().set("log_statement", "all")).await;
    fill(&bed, users).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    add(&bed, CHECK).await;
    bed.auth(&format!(
        "UPDATE auth.users SET updated_at = now(),
           first_name = CASE WHEN hashtext(id) & 1023 < {refused_of_ten} * 1023 / 10 THEN 'Eve' ELSE 'Bea' END"
    ))
    .await;
    let begun = std::time::Instant::now();
    let refused =
        bed.query("auth", "SELECT count(*) FROM auth.users WHERE first_name = 'Eve'").await[0][0].clone().unwrap();
    bed.becomes("acme", "SELECT count(*) FROM users_sync.rejected", &refused).await;
    bed.becomes(
        "acme",
        "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'",
        &(users - refused.parse::<u32>().unwrap()).to_string(),
    )
    .await;
    println!("{refused} of {users} rows were refused within {:?}", begun.elapsed());
    service.stop().await;
    let log = std::fs::read_to_string(bed.server.data_dir().parent().unwrap().join("server.log")).unwrap();
    let after = log.split("no_eve CHECK").nth(1).unwrap();
    // Those that write rows. Rejected users are tried again later.
    let first = after.split("INTO users_sync.rejected").next().unwrap();
    let statements = first.matches("execute <unnamed>: WITH v AS").count();
    println!("{statements} statements");
    assert!((10..=users as usize * 9 / 8 + 100).contains(&statements), "{statements} statements");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_refused_rows_are_isolated_loses_nothing() {
    let bed = Bed::start(&["acme"]).await;
    fill(&bed, 2000).await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[0]).target.port = proxy.port();
    let service = Service::start(config.clone());
    bed.equal().await;
    add(&bed, CHECK).await;
    proxy.cut_when(Direction::ToServer, b"ROLLBACK TO SAVEPOINT", Cut::Before);
    bed.auth("UPDATE auth.users SET updated_at = now(), first_name = CASE id WHEN 'u700' THEN 'Eve' ELSE 'Bea' END")
        .await;
    proxy.wait_cut().await;
    service.kill().await;
    assert_eq!(bed.query("acme", REJECTED).await[0][0].as_deref(), Some(""));
    let service = Service::start(config);
    bed.becomes("acme", REJECTED, "u700 23514").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Bea'", "1999").await;
    service.stop().await;
}

/// Creates a target again with another encoding.
async fn recreate(bed: &Bed, tenant: &str, encoding: &str) {
    bed.server.sql("postgres", &format!("DROP DATABASE {tenant}")).await.unwrap();
    let create = format!("CREATE DATABASE {tenant} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
    bed.server.sql("postgres", &create).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_any_size_and_with_any_character_is_recorded() {
    let bed = Bed::start(&["acme"]).await;
    recreate(&bed, "acme", "LATIN1").await;
    // A primary key limits an id's size.
    bed.auth("ALTER TABLE auth.users DROP CONSTRAINT users_pkey; ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
    fill(&bed, 10).await;
    let mut service = Service::start(bed.config());
    bed.equal().await;
    add(&bed, CHECK).await;
    // The hash of each id, computed by the source.
    let keys = "SELECT string_agg(key, ' ' ORDER BY key)
                FROM (SELECT encode(sha256(convert_to(id, 'UTF8')), 'hex') AS key FROM auth.users WHERE first_name = 'Eve') u";
    let recorded = "SELECT string_agg(key, ' ' ORDER BY key)
                    FROM (SELECT encode(id_hash, 'hex') AS key FROM users_sync.rejected) r";
    bed.auth(
        r"INSERT INTO auth.users (id, org, first_name, updated_at) VALUES
          ((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 10000) n), 'acme', 'Eve', now()),
          (U&'z\00fc' || repeat('x', 5), 'acme', 'Eve', now()),
          (U&'z\20ac', 'acme', 'Eve', now())",
    )
    .await;
    let keys = bed.query("auth", keys).await[0][0].clone().unwrap();
    bed.becomes("acme", recorded, &keys).await;
    bed.becomes("acme", "SELECT max(length(id)) FROM users_sync.rejected", "320000").await;
    bed.becomes(
        "acme",
        r"SELECT count(*) FROM users_sync.rejected WHERE id IN ('z\u{20AC}', 'z' || chr(252) || 'xxxxx')",
        "2",
    )
    .await;
    // A new process knows them, too.
    service.stop().await;
    service = Service::start(bed.config());
    bed.auth(
        "DELETE FROM auth.users WHERE first_name = 'Eve'; UPDATE auth.users SET first_name = 'Eva', updated_at = now()",
    )
    .await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Eva'", "10").await;
    bed.becomes("acme", REJECTED, "").await;
    service.stop().await;
}

/// A table without a unique key, as a query or `fan_out` may return it.
#[tokio::test(flavor = "multi_thread")]
async fn of_several_rows_with_one_id_the_last_one_arrives_and_the_id_is_reported() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(
        "ALTER TABLE auth.users DROP CONSTRAINT users_pkey; ALTER TABLE auth.users REPLICA IDENTITY FULL;
         INSERT INTO auth.users (id, org, first_name, updated_at)
         SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, 1000) n;
         INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('u7', 'acme', 'the second', now())",
    )
    .await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    bed.becomes("acme", REJECTED, "u7 21000").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Ann'", "999").await;
    bed.becomes("acme", "SELECT name FROM neon_auth.users_sync WHERE id = 'u7'", "the second").await;

    // A resync finds it again, and the next change of the row that is left ends it.
    bed.auth("INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)").await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    bed.becomes("acme", REJECTED, "u7 21000").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'u7' AND first_name = 'Ann'").await;
    bed.auth("UPDATE auth.users SET first_name = 'Ann', updated_at = now() WHERE id = 'u7'").await;
    bed.becomes("acme", REJECTED, "").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Ann'", "1000").await;
    service.stop().await;
}
