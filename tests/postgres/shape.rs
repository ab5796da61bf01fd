//! What changes at the source without a message in the stream: partitions, types, rewritten rows, the publication.

use crate::support::majors::at_least;
use crate::support::{Bed, Service, USERS};
use users_sync::model::Deletes;
use users_sync::throwaway::Options;

const SOME: &str = "INSERT INTO auth.users (id, org, first_name, last_name, email, updated_at)
                    SELECT 'u' || n, CASE WHEN n % 2 = 0 THEN 'acme' ELSE 'globex' END, 'Ann', 'Lee', 'A@example.com', now()
                    FROM generate_series(1, 20) n";

/// The users' table, partitioned by region. Partitions are `auth.users_REGION`.
async fn partitioned(tenants: &[&str], options: Options) -> Bed {
    let bed = Bed::start_with(tenants, options).await;
    let table = USERS.replace("CREATE SCHEMA auth;", "DROP TABLE auth.users;").replace(
        "PRIMARY KEY (id, org)\n    )",
        "region text NOT NULL DEFAULT 'eu', PRIMARY KEY (id, region)) PARTITION BY LIST (region)",
    );
    bed.auth(&table).await;
    for region in ["eu", "us"] {
        bed.auth(&format!("CREATE TABLE auth.users_{region} PARTITION OF auth.users FOR VALUES IN ('{region}')")).await;
    }
    // A snapshot may delete at most half of a target's users.
    let stay = SOME
        .replace("'u'", "'stay'")
        .replace("email, updated_at)", "email, updated_at, region)")
        .replace("now()", "now(), 'us'");
    bed.auth(&stay.replace("(1, 20)", "(1, 30)")).await;
    bed
}

async fn with_full_identities(tenants: &[&str], options: Options) -> Bed {
    let bed = partitioned(tenants, options).await;
    bed.auth("ALTER TABLE auth.users_eu REPLICA IDENTITY FULL; ALTER TABLE auth.users_us REPLICA IDENTITY FULL").await;
    bed
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_identities_of_partitions_are_required() {
    let bed = partitioned(&["acme", "globex"], Options::new()).await;
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
    bed.auth(SOME).await;
    let said = Service::start(bed.config()).fails().await.to_string();
    assert!(said.contains("the replica identity of auth.users lacks org"), "{said}");
    // Nothing was published: the store's own changes still work.
    assert!(bed.query("auth", "SELECT FROM pg_publication").await.is_empty());
    for leaf in ["users_eu", "users_us"] {
        let remedy = format!("ALTER TABLE \"auth\".\"{leaf}\" REPLICA IDENTITY FULL;");
        assert!(said.contains(&remedy), "{said}");
        bed.auth(&remedy).await;
    }
    // The root's identity does not matter.
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY DEFAULT").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.auth("UPDATE auth.users SET profile = jsonb_build_object('big', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 500) n))").await;
    bed.equal().await;
    bed.auth("DELETE FROM auth.users WHERE id = 'u1'; UPDATE auth.users SET org = 'acme' WHERE id = 'u3'").await;
    bed.auth("UPDATE auth.users SET id = 'other' WHERE id = 'u2'; UPDATE auth.users SET region = 'us' WHERE id = 'u4'")
        .await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_on_each_partition_identifies_its_users() {
    let bed = partitioned(&["acme", "globex"], Options::new()).await;
    for leaf in ["users_eu", "users_us"] {
        bed.auth(&format!("CREATE UNIQUE INDEX {leaf}_identity ON auth.{leaf} (id, org)")).await;
        bed.auth(&format!("ALTER TABLE auth.{leaf} REPLICA IDENTITY USING INDEX {leaf}_identity")).await;
    }
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    bed.auth("DELETE FROM auth.users WHERE id = 'u1'; UPDATE auth.users SET org = 'acme' WHERE id = 'u3'").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_set_of_partitions_is_followed() {
    let bed = with_full_identities(&["acme", "globex"], Options::new()).await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let filled = "CREATE TABLE auth.users_asia (LIKE auth.users INCLUDING ALL);
        ALTER TABLE auth.users_asia REPLICA IDENTITY FULL;
        INSERT INTO auth.users_asia (id, org, region, updated_at) VALUES ('asia', 'acme', 'asia', now())";
    bed.auth(filled).await;
    for statement in [
        "ALTER TABLE auth.users ATTACH PARTITION auth.users_asia FOR VALUES IN ('asia')",
        "TRUNCATE auth.users_asia",
        "INSERT INTO auth.users (id, org, region, updated_at) VALUES ('again', 'globex', 'asia', now())",
        "ALTER TABLE auth.users DETACH PARTITION auth.users_asia",
        "BEGIN; CREATE TABLE auth.users_africa PARTITION OF auth.users FOR VALUES IN ('africa');
         ALTER TABLE auth.users_africa REPLICA IDENTITY FULL; COMMIT",
        "DROP TABLE auth.users_eu",
    ] {
        bed.auth(statement).await;
        bed.equal().await;
    }
    service.stop().await;
}

/// No index can be made for it, and none is needed.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_partitions_needs_no_replica_identity() {
    let bed = partitioned(&["acme", "globex"], Options::new()).await;
    bed.auth("DROP TABLE auth.users_eu, auth.users_us; CREATE PUBLICATION users_sync FOR TABLE auth.users WITH (publish_via_partition_root = true)").await;
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    bed.auth(
        "BEGIN; CREATE TABLE auth.users_eu PARTITION OF auth.users FOR VALUES IN ('eu');
         ALTER TABLE auth.users_eu REPLICA IDENTITY FULL; COMMIT",
    )
    .await;
    bed.auth(SOME).await;
    bed.equal().await;
    bed.auth("DELETE FROM auth.users WHERE id = 'u1'; UPDATE auth.users SET org = 'acme' WHERE id = 'u3'").await;
    bed.equal().await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_changed_while_nothing_ran_are_followed() {
    let bed = with_full_identities(&["acme", "globex"], Options::new()).await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    bed.auth("ALTER TABLE auth.users DETACH PARTITION auth.users_eu").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
    bed.auth("ALTER TABLE auth.users ATTACH PARTITION auth.users_eu FOR VALUES IN ('eu')").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

/// What the slot still has to send from before must not decide about what comes after. PostgreSQL 14 remembers for each table
/// whether it is published.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_followed_while_they_are_attached_and_only_then() {
    let bed = with_full_identities(&["acme", "globex"], Options::new()).await;
    bed.auth(SOME).await;
    let stopped = async |statement: &str, service: Service| {
        service.stop().await;
        bed.auth(statement).await;
        let service = Service::start(bed.config());
        bed.equal().await;
        bed.auth("UPDATE auth.users SET first_name = coalesce(first_name, '') || '!', updated_at = now()").await;
        bed.equal().await;
        service
    };
    let service = Service::start(bed.config());
    bed.equal().await;
    let filled = "CREATE TABLE auth.users_asia (LIKE auth.users INCLUDING ALL); ALTER TABLE auth.users_asia REPLICA IDENTITY FULL;
        INSERT INTO auth.users_asia (id, org, region, updated_at) VALUES ('asia', 'acme', 'asia', now());
        ALTER TABLE auth.users ATTACH PARTITION auth.users_asia FOR VALUES IN ('asia')";
    let service = stopped(filled, service).await;
    // In one transaction.
    let filled = filled.replace("asia", "pole");
    let service = stopped(&format!("BEGIN; {filled}; COMMIT"), service).await;
    let apart = "UPDATE auth.users SET last_name = 'Poe', updated_at = now() WHERE region = 'asia';
        ALTER TABLE auth.users DETACH PARTITION auth.users_asia";
    let service = stopped(apart, service).await;
    // It is no partition now: nothing of it may arrive.
    bed.auth("UPDATE auth.users_asia SET id = 'apart'; UPDATE auth.users SET last_name = 'Lu', updated_at = now()")
        .await;
    bed.equal().await;
    let again = "ALTER TABLE auth.users ATTACH PARTITION auth.users_asia FOR VALUES IN ('asia')";
    let service = stopped(again, service).await;
    // Between two looks at the partitions, too.
    bed.auth(&format!("{apart}; DELETE FROM auth.users_asia; {again}")).await;
    bed.equal().await;
    bed.auth(&format!(
        "{apart}; INSERT INTO auth.users_asia (id, org, region) VALUES ('b', 'globex', 'asia'); {again}"
    ))
    .await;
    bed.equal().await;
    bed.auth("UPDATE auth.users SET last_name = 'Kim', updated_at = now()").await;
    bed.equal().await;
    service.stop().await;
}

/// A new partition concerns only the tenants that have users in it. PostgreSQL 14 needs a new slot for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_partition_resyncs_the_tenants_that_it_has() {
    let bed = with_full_identities(&["acme", "globex"], at_least(15)).await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let since = "SELECT since FROM users_sync.tenant WHERE tenant = 'globex'";
    let before = bed.query("auth", since).await;
    bed.auth(
        "CREATE TABLE auth.users_asia (LIKE auth.users INCLUDING ALL);
         ALTER TABLE auth.users_asia REPLICA IDENTITY FULL;
         INSERT INTO auth.users_asia (id, org, region, updated_at) VALUES ('asia', 'acme', 'asia', now());
         ALTER TABLE auth.users ATTACH PARTITION auth.users_asia FOR VALUES IN ('asia')",
    )
    .await;
    bed.equal().await;
    bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
    assert_eq!(bed.query("auth", since).await, before);
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inheritance_children_are_refused() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("CREATE TABLE auth.old_users () INHERITS (auth.users)").await;
    let said = Service::start(bed.config()).fails().await.to_string();
    assert!(said.contains("auth.users has inheritance children (auth.old_users)"), "{said}");
    bed.auth("ALTER TABLE auth.old_users NO INHERIT auth.users").await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

/// None of these has a message in the stream before the next change, and most have none at all.
#[tokio::test(flavor = "multi_thread")]
async fn altered_columns_and_types_are_noticed_on_a_quiet_table() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "CREATE TYPE auth.mood AS ENUM ('sad', 'happy'); CREATE TYPE auth.place AS (city text, zip text);
         ALTER TABLE auth.users ADD mood auth.mood DEFAULT 'sad', ADD place auth.place DEFAULT ROW('Oslo', '0150'),
           ADD score numeric(10, 2) DEFAULT 1.55",
    )
    .await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    for statement in [
        "ALTER TYPE auth.mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TYPE auth.place ADD ATTRIBUTE country text CASCADE",
        "ALTER TYPE auth.place DROP ATTRIBUTE zip CASCADE",
        "ALTER TYPE auth.place RENAME ATTRIBUTE city TO town CASCADE",
        "ALTER TABLE auth.users ALTER score TYPE numeric(10, 1)",
        "ALTER TABLE auth.users ALTER email TYPE text USING lower(email)",
        "ALTER TABLE auth.users ADD plan text DEFAULT 'free'",
        "ALTER TABLE auth.users DROP plan, ADD plan text DEFAULT 'paid'",
        "BEGIN; ALTER TABLE auth.users DROP last_name; ALTER TABLE auth.users ADD last_name text; COMMIT",
    ] {
        bed.auth(statement).await;
        bed.equal().await;
    }
    service.stop().await;
    bed.auth("ALTER TABLE auth.users ALTER email TYPE text USING upper(email)").await;
    let service = Service::start(bed.config());
    bed.equal().await;
    service.stop().await;
}

/// No new relation version is sent for them, so the stream would go on with the attributes of before.
#[tokio::test(flavor = "multi_thread")]
async fn changes_after_an_altered_type_are_followed() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth(
        "CREATE TYPE auth.place AS (city text, zip text);
         ALTER TABLE auth.users ADD place auth.place DEFAULT ROW('Oslo', '0150')",
    )
    .await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    for (n, statement) in [
        "ALTER TYPE auth.place ADD ATTRIBUTE country text CASCADE",
        "ALTER TYPE auth.place DROP ATTRIBUTE zip CASCADE",
        "ALTER TYPE auth.place RENAME ATTRIBUTE city TO town CASCADE",
    ]
    .into_iter()
    .enumerate()
    {
        // Makes the stream know the table's version.
        bed.auth(&format!("UPDATE auth.users SET first_name = 'before {n}', updated_at = now()")).await;
        bed.equal().await;
        bed.auth(statement).await;
        bed.equal().await;
        bed.auth(&format!("UPDATE auth.users SET first_name = 'after {n}', updated_at = now()")).await;
        bed.equal().await;
    }
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rewriting_a_table_without_changing_it_resyncs_no_tenant() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("CREATE TYPE auth.mood AS ENUM ('sad'); ALTER TABLE auth.users ADD mood auth.mood").await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let since = "SELECT since FROM users_sync.tenant";
    let before = bed.query("auth", since).await;
    bed.auth("VACUUM FULL auth.users").await;
    bed.auth("ALTER TYPE auth.mood ADD VALUE 'calm'").await;
    bed.becomes("auth", "SELECT shape LIKE '%\"calm\"%' FROM users_sync.source", "t").await;
    bed.auth("UPDATE auth.users SET first_name = 'Bo'").await;
    bed.equal().await;
    assert_eq!(bed.query("auth", since).await, before);
    assert_eq!(bed.query("auth", "SELECT shape_version FROM users_sync.source").await, [[Some("0".to_owned())]]);
    service.stop().await;
}

/// A snapshot that is older than the rewrite shows an empty table. With `deletes: hard` the application's rows would go, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_rewritten_after_the_snapshot_is_read_again() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(SOME).await;
    let mut config = bed.config();
    config.deletes = Deletes::Hard;
    let service = Service::start(config.clone());
    bed.equal().await;
    service.stop().await;
    let acme = bed.server.connect("acme").await.unwrap();
    acme.batch_execute(
        "CREATE TABLE todos (user_id text REFERENCES neon_auth.users_sync (id) ON DELETE CASCADE);
         INSERT INTO todos SELECT id FROM neon_auth.users_sync",
    )
    .await
    .unwrap();
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync')").await;
    // The slot's snapshot is taken at once, and used when the target can be opened. A stronger lock would have a transaction id,
    // for which the slot would wait.
    acme.batch_execute("BEGIN; LOCK TABLE users_sync.checkpoint IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let service = Service::start(config);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'acme' AND wait_event_type = 'Lock'";
    bed.becomes("acme", waiting, "1").await;
    bed.auth("ALTER TABLE auth.users ALTER first_name TYPE text USING upper(first_name)").await;
    acme.batch_execute("COMMIT").await.unwrap();
    bed.equal().await;
    bed.becomes("acme", "SELECT count(*) FROM todos", "10").await;
    service.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_is_narrowed_while_running_is_refused_until_it_is_whole() {
    let bed = Bed::start_with(&["acme", "globex"], Options::new()).await;
    bed.auth(SOME).await;
    let service = Service::start(bed.config());
    bed.equal().await;
    let version = bed.query("auth", "SELECT current_setting('server_version_num')::int >= 150000").await;
    let mut narrowed = vec![(
        "ALTER PUBLICATION users_sync SET (publish = 'insert')",
        "ALTER PUBLICATION users_sync SET (publish = 'insert, update, delete, truncate')",
    )];
    if version[0][0].as_deref() == Some("t") {
        let whole = "ALTER PUBLICATION users_sync SET TABLE auth.users";
        narrowed.push(("ALTER PUBLICATION users_sync SET TABLE auth.users WHERE (org <> 'acme')", whole));
        narrowed.push(("ALTER PUBLICATION users_sync SET TABLE auth.users (id, org)", whole));
    }
    for (narrow, remedy) in narrowed {
        bed.auth(narrow).await;
        bed.becomes("auth", "SELECT count(*) FROM pg_replication_slots WHERE active", "0").await;
        bed.auth("DELETE FROM auth.users WHERE id IN (SELECT id FROM auth.users ORDER BY id LIMIT 2)").await;
        bed.auth(remedy).await;
        bed.equal().await;
    }
    assert!(service.is_running());
    service.stop().await;
}

/// Published without a usable replica identity, the table would refuse every UPDATE and DELETE.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_usable_replica_identity_is_not_published() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(
        "ALTER TABLE auth.users DROP CONSTRAINT users_pkey;
         ALTER TABLE auth.users ADD PRIMARY KEY (id, org) DEFERRABLE INITIALLY DEFERRED",
    )
    .await;
    bed.auth(SOME).await;
    let said = Service::start(bed.config()).fails().await.to_string();
    assert!(said.contains("the replica identity of auth.users lacks id, org"), "{said}");
    bed.auth("UPDATE auth.users SET first_name = 'Bo'; DELETE FROM auth.users WHERE id = 'u1'").await;
}

/// A standby looked at the source when it began to wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_the_source_as_it_is_by_then() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth(SOME).await;
    let first = Service::start(bed.config());
    bed.equal().await;
    let second = Service::start(bed.config());
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'users-sync' AND state = 'idle' \
                   AND query LIKE '%pg_replication_slots%'";
    bed.becomes("auth", waiting, "t").await;
    bed.auth("ALTER TABLE auth.users ALTER email TYPE text USING upper(email)").await;
    bed.equal().await;
    let epoch = "SELECT epoch FROM users_sync.source";
    let before = bed.query("auth", epoch).await;
    first.kill().await;
    bed.becomes("auth", &format!("SELECT epoch > {} FROM users_sync.source", before[0][0].as_deref().unwrap()), "t")
        .await;
    bed.auth("UPDATE auth.users SET first_name = 'Bo', updated_at = now()").await;
    bed.equal().await;
    assert_eq!(bed.query("auth", "SELECT shape_version FROM users_sync.source").await, [[Some("1".to_owned())]]);
    second.stop().await;
}

/// From PostgreSQL 18 on, the store could not change its own rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_generated_column_in_the_replica_identity_is_refused_before_it_is_published() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("ALTER TABLE auth.users ADD twice text GENERATED ALWAYS AS (id || id) STORED").await;
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
    bed.auth(SOME).await;
    let version = bed.query("auth", "SELECT current_setting('server_version_num')::int >= 180000").await;
    if version[0][0].as_deref() == Some("t") {
        let said = Service::start(bed.config()).fails().await.to_string();
        assert!(said.contains("has a generated column that is not published"), "{said}");
        bed.auth("UPDATE auth.users SET first_name = 'Bo', updated_at = now()").await;
        let (_, remedy) = said.split_once("; ").unwrap();
        bed.auth(remedy).await;
    }
    let service = Service::start(bed.config());
    bed.state_is("acme", "following").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync", "10").await;
    bed.auth("UPDATE auth.users SET first_name = 'Cy', updated_at = now()").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync WHERE name = 'Cy Lee'", "10").await;
    service.stop().await;
}
