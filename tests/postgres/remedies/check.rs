//! The remedies of `check`: one thing is broken at a time, its remedy is followed, and `check` finds nothing more.

use super::scene::{Finding, Scene, users_table, write_state};
use super::{no_postgres, statements};
use crate::support::majors::at_least;
use crate::support::{DEADLINE, pause};
use std::time::Instant;
use users_sync::throwaway::Options;

#[tokio::test(flavor = "multi_thread")]
async fn missing_privileges_have_working_remedies() {
    let mut scene = Scene::clean().await;
    for (sql, message) in [
        ("ALTER ROLE reader NOREPLICATION", "no REPLICATION privilege"),
        ("REVOKE USAGE ON SCHEMA store FROM reader", "cannot use schema store"),
        ("REVOKE SELECT ON store.users FROM reader", "cannot read store.users"),
        ("ALTER TABLE store.users ENABLE ROW LEVEL SECURITY", "row security would hide rows of store.users"),
        (
            "ALTER TABLE store.users DISABLE ROW LEVEL SECURITY; ALTER TABLE store.users REPLICA IDENTITY NOTHING",
            "lacks id, org",
        ),
        (
            "ALTER TABLE store.users DROP CONSTRAINT users_pkey; ALTER TABLE store.users ALTER org DROP NOT NULL;
             ALTER TABLE store.users ADD PRIMARY KEY (id); ALTER TABLE store.users REPLICA IDENTITY DEFAULT",
            "lacks org",
        ),
        ("ALTER PUBLICATION users_sync DROP TABLE store.users", "does not include store.users"),
        (
            "ALTER PUBLICATION users_sync DROP TABLE store.users; ALTER TABLE store.users SET UNLOGGED",
            "is an unlogged table",
        ),
        ("ALTER PUBLICATION users_sync SET (publish = 'insert')", "does not publish update, delete, truncate"),
        ("DROP PUBLICATION users_sync", "cannot create it"),
        ("SELECT pg_create_physical_replication_slot('users_sync')", "is a physical slot, but pgoutput is required"),
        ("REVOKE CREATE ON DATABASE auth FROM reader", "cannot create the schema users_sync for the state"),
        ("CREATE SCHEMA users_sync", "cannot create tables in schema users_sync"),
        (
            "CREATE TABLE users_sync.source (slot text); CREATE TABLE users_sync.tenant (slot text)",
            "cannot write the tables of schema users_sync",
        ),
    ] {
        // The last remedy leaves tables of another owner, which nothing reads here.
        scene.resolves("auth", sql, message).await;
    }
    let elsewhere = "SELECT pg_create_logical_replication_slot('users_sync', 'pgoutput')";
    scene.resolves("acme", elsewhere, "belongs to database acme, not auth").await;
}

/// Row filters and column lists exist since PostgreSQL 15.
#[tokio::test(flavor = "multi_thread")]
async fn omissions_of_a_publication_have_working_remedies() {
    let mut scene = Scene::clean().await;
    let version = scene.server.connect("auth").await.unwrap();
    let version = version.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap();
    if version.get::<_, i32>(0) >= 150_000 {
        let set = "ALTER PUBLICATION users_sync SET TABLE store.users";
        scene.resolves("auth", &format!("{set} WHERE (id > 5)"), "publishes only some rows of store.users").await;
        scene.resolves("auth", &format!("{set} (id, org)"), "omits columns of store.users: name, email").await;
    }
    let partitioned = "DROP TABLE store.users;
        CREATE TABLE store.users (id bigint NOT NULL, org text NOT NULL, name text, email text, PRIMARY KEY (id, org))
          PARTITION BY HASH (id);
        CREATE TABLE store.users_0 PARTITION OF store.users FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        GRANT SELECT ON store.users TO reader";
    scene
        .resolves(
            "auth",
            &format!("{partitioned}; ALTER PUBLICATION users_sync ADD TABLE store.users"),
            "is partitioned, and publication",
        )
        .await;
    scene.resolves("auth", "DROP PUBLICATION users_sync", "its publication must be created manually").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_settings_have_working_remedies() {
    let mut scene = Scene::start(Options::new().set("max_wal_senders", "1").set("max_replication_slots", "1")).await;
    scene.resolves("auth", "SELECT 1", "max_slot_wal_keep_size is not set").await;
    let less = "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB';;SELECT pg_reload_conf()";
    scene.resolves("auth", less, "is not above limits.source_wal").await;
    scene.run("auth", "ALTER SYSTEM SET wal_level = replica").await;
    scene.server.restart().await.unwrap();
    scene.resolves("auth", "SELECT 1", "wal_level is replica").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_with_on_slot_loss_stop_has_a_working_remedy() {
    let mut scene = Scene::start(Options::new().set("max_slot_wal_keep_size", "1MB").set("min_wal_size", "32MB")).await;
    scene.yaml.push_str("on_slot_loss: stop\nlimits: {source_wal: 1kB}\n");
    scene.run("auth", "SELECT pg_create_logical_replication_slot('users_sync', 'pgoutput')").await;
    for _ in 0..4 {
        scene.run("auth", "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))").await;
        scene.run("auth", "SELECT pg_switch_wal()").await;
        scene.run("auth", "CHECKPOINT").await;
    }
    scene.resolves("auth", "SELECT 1", "is lost, and on_slot_loss is stop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_about_a_target_have_working_remedies() {
    let mut scene = Scene::clean().await;
    let (right, rows) =
        (users_table("name text, email text,"), "INSERT INTO neon_auth.users_sync (id, raw_json) VALUES ('1', '{}')");
    for (sql, message) in [
        ("ALTER ROLE writer SET default_transaction_read_only = on".to_owned(), "is read-only for role writer"),
        ("REVOKE TEMPORARY ON DATABASE acme FROM PUBLIC".to_owned(), "cannot create temporary tables"),
        ("REVOKE CREATE ON DATABASE acme FROM writer".to_owned(), "cannot create neon_auth.users_sync"),
        ("CREATE SCHEMA neon_auth".to_owned(), "cannot create neon_auth.users_sync"),
        (right.clone(), "lacks USAGE on schema neon_auth for neon_auth.users_sync"),
        (right.clone() + "; GRANT USAGE ON SCHEMA neon_auth TO writer", "lacks SELECT, INSERT, UPDATE"),
        ("ALTER TABLE neon_auth.users_sync ENABLE ROW LEVEL SECURITY".to_owned(), "row security would hide rows"),
    ] {
        scene.resolves("acme", &sql, message).await;
    }
    // Foreign rows are merged only by the printed command.
    write_state(&scene.server, "users_sync").await;
    scene.resolves("acme", rows, "has rows that users-sync did not write").await;
    let stranger = "UPDATE users_sync.checkpoint SET target_id = gen_random_uuid()";
    scene.resolves("acme", stranger, "was written by another installation").await;
}

/// What `neon_auth.users_sync` can be instead of the documented table. The server quotes all identifiers.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_shape_or_kind_has_a_working_remedy() {
    let mut scene = Scene::clean().await;
    let granted = "GRANT ALL ON SCHEMA neon_auth TO writer; GRANT ALL ON neon_auth.users_sync TO writer";
    let all = "name text, email text,";
    let with = |columns: &str, more: &str| format!("{}; {granted}; {more}", users_table(columns));
    let alter = |more: &str| with(all, &format!("ALTER TABLE neon_auth.users_sync {more}"));
    let moved = "CREATE SCHEMA IF NOT EXISTS neon_auth; GRANT ALL ON SCHEMA neon_auth TO writer; \
                 DROP TABLE IF EXISTS neon_auth.users_sync; CREATE TABLE IF NOT EXISTS neon_auth.theirs (id text)";
    let instead = |sql: &str| format!("{moved}; {sql}");
    scene.run("postgres", "ALTER SYSTEM SET quote_all_identifiers = on").await;
    scene.run("postgres", "SELECT pg_reload_conf()").await;
    for (sql, message) in [
            (with("name text,", ""), "neon_auth.users_sync has no column email [altered]"),
            (alter("RENAME email TO mail"), "neon_auth.users_sync has no column email [altered]"),
            (alter("ALTER email TYPE char(3)"), "column email of neon_auth.users_sync has the type"),
            (alter("ALTER raw_json TYPE text"), "column raw_json of neon_auth.users_sync has the type"),
            (alter("ALTER created_at TYPE text"), "column created_at of neon_auth.users_sync has the type"),
            (alter("RENAME id TO uid"), "neon_auth.users_sync has no column id [altered]"),
            (alter("ADD team text NOT NULL"), "column team of neon_auth.users_sync must have a value"),
            (
                with("name text, email text, d timestamptz GENERATED ALWAYS AS (NULL::timestamptz) STORED,", "
                    ALTER TABLE neon_auth.users_sync DROP deleted_at; ALTER TABLE neon_auth.users_sync RENAME d TO deleted_at"),
                "column deleted_at of neon_auth.users_sync is generated",
            ),
            (instead("CREATE VIEW neon_auth.users_sync AS SELECT 1 AS id"), "users_sync is a view, and"),
            (instead("CREATE MATERIALIZED VIEW neon_auth.users_sync AS SELECT 1 AS id"), "users_sync is a materialized view"),
            (
                instead("CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
                    CREATE FOREIGN TABLE neon_auth.users_sync (id text) SERVER s"),
                "users_sync is a foreign table",
            ),
            (instead("CREATE TABLE neon_auth.users_sync (id text) PARTITION BY HASH (id)"), "users_sync is a partitioned table"),
            (instead("CREATE SEQUENCE neon_auth.users_sync"), "users_sync is a sequence"),
            (instead("CREATE TYPE neon_auth.users_sync AS (id text)"), "users_sync is a type"),
            (instead("CREATE DOMAIN neon_auth.users_sync AS text"), "users_sync is a domain"),
            (instead("CREATE INDEX users_sync ON neon_auth.theirs (id)"), "users_sync is an index"),
        ] {
            scene.resolves("acme", &sql, message).await;
            scene.run("acme", "DROP SCHEMA IF EXISTS neon_auth CASCADE; DROP FOREIGN DATA WRAPPER IF EXISTS w CASCADE").await;
        }
    let view = "CREATE SCHEMA users_sync; GRANT ALL ON SCHEMA users_sync TO writer;
        CREATE VIEW users_sync.checkpoint AS SELECT 1 AS epoch; CREATE VIEW users_sync.rejected AS SELECT 1 AS id";
    scene.resolves("acme", view, "users_sync.rejected is a view").await;
    scene.run("acme", "ALTER DATABASE acme SET default_transaction_read_only = on").await;
    scene
        .resolves(
            "postgres",
            "SELECT 1",
            "is read-only for role writer: default_transaction_read_only is on, set by: database",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_login_has_a_working_remedy() {
    let mut scene = Scene::clean().await;
    for (sql, message) in [
        ("ALTER ROLE writer PASSWORD 'other'", "password authentication failed"),
        ("REVOKE CONNECT ON DATABASE acme FROM PUBLIC", "permission denied for database"),
    ] {
        scene.resolves("acme", sql, message).await;
    }
    // Some remedies are not for the target itself.
    for (sql, message) in [
        ("DROP DATABASE acme", "database \"acme\" does not exist"),
        ("DROP OWNED BY writer;;DROP ROLE writer", "authentication failed"),
    ] {
        for sql in sql.split(";;") {
            scene.run("postgres", sql).await;
        }
        let mut findings = scene.findings().await;
        assert!(findings.iter().any(|finding| finding.message.contains(message)), "{findings:?}");
        findings.iter_mut().for_each(|finding| finding.database = "postgres");
        if findings[0].remedy.starts_with("correct the password") {
            // The server does not reveal that the role does not exist.
            scene.run("postgres", "CREATE ROLE writer LOGIN").await;
        }
        scene.follow(&findings).await;
        // What the database or the role brought along is missing now, and is reported next.
        let findings = scene.findings().await;
        scene.follow(&findings).await;
        scene.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_mistakes_have_working_remedies() {
    let mut scene = Scene::clean().await;
    let table = |yaml: &str| yaml.replace("store.users", "store.user");
    scene.corrects(table, "there is no table store.user in database auth", "table: store.users").await;
    let name = |yaml: &str| yaml.replace("name: name", "name: nmae");
    scene.corrects(name, "there is no column \"nmae\"; did you mean \"name\"?", "correct this key").await;
    scene.run("auth", "CREATE VIEW store.people AS SELECT * FROM store.users").await;
    let view = |yaml: &str| yaml.replace("store.users", "store.people");
    scene.corrects(view, "is not a table", "set users.table to the table").await;
    let port = format!(":{}/", scene.server.port());
    let unreachable = |yaml: &str| yaml.replace(&port, ":1/");
    scene.corrects(unreachable, "cannot reach", "check the host and port of the URL").await;
    let tls = |yaml: &str| yaml.replace("sslmode=prefer", "sslmode=require");
    scene.corrects(tls, "TLS", "correct sslmode, sslrootcert, sslcert or sslkey in the URL").await;
    let preset =
        |yaml: &str| yaml.replace("table: store.users, id: id, name: name, email: email", "preset: better-auth");
    scene.corrects(preset, "none of the preset's tables exists", "set users.table to schema.name").await;

    scene.run("auth", "CREATE TABLE store.emails (user_id bigint NOT NULL PRIMARY KEY, address text)").await;
    scene.run("auth", "ALTER PUBLICATION users_sync ADD TABLE store.emails").await;
    let good = scene.yaml.clone();
    scene.yaml = good.replace(
        "tenant: org}",
        "tenant: org, watch: [{table: store.emails, key: user_id}], query: 'SELECT u.id, u.org, u.name, e.address AS \
         email FROM store.users u LEFT JOIN store.emails e ON e.user_id = u.id'}",
    );
    let findings = scene.findings().await;
    let query = findings.iter().find(|finding| finding.message.contains("users.query cannot be run")).unwrap();
    assert!(query.remedy.contains("GRANT SELECT on its tables"), "{query:?}");
    scene.run("auth", "GRANT SELECT ON store.emails TO reader").await;
    scene.is_clean().await;
}

/// No SQL to run: the message says who has to release what, or which other server to use.
#[tokio::test(flavor = "multi_thread")]
async fn used_up_connections_slots_and_locks_have_working_remedies() {
    let scene = Scene::clean().await;
    let server = &scene.server;
    let says = async |message: &str, remedy: &str| {
        let findings = scene.findings().await;
        let said = |finding: &Finding| finding.message.contains(message) && finding.remedy.contains(remedy);
        assert!(findings.iter().any(said), "{findings:?}\ndoes not say {message} -> {remedy}");
    };
    // Connections: one is closed.
    scene.run("acme", "ALTER ROLE writer CONNECTION LIMIT 1").await;
    let url = users_sync::pg::PgUrl::parse(&server.url_for("writer:hunter2", "acme")).unwrap();
    let other = users_sync::pg::connect(&url).await.unwrap();
    says("too many connections for role", "the CONNECTION LIMIT of the role").await;
    other.close().await;
    scene.is_clean().await;

    scene.run("postgres", "ALTER DATABASE acme ALLOW_CONNECTIONS false").await;
    says("is not currently accepting connections", "wait until the server accepts connections").await;
    scene.run("postgres", "ALTER DATABASE acme ALLOW_CONNECTIONS true").await;
    scene.is_clean().await;

    let slot = "SELECT pg_create_logical_replication_slot('users_sync', 'pgoutput', true)";
    let holder = server.connect("auth").await.unwrap();
    holder.batch_execute(slot).await.unwrap();
    says("is a temporary slot of another session", "another source.slot in the configuration").await;
    drop(holder);
    scene.is_clean().await;

    // Locks: the query shows the waiting session, and the one it waits for.
    scene.run("acme", &format!("SET ROLE writer; {}", users_table("name text, email text,"))).await;
    for (database, table) in [("auth", "pg_catalog.pg_publication"), ("acme", "neon_auth.users_sync")] {
        let holder = server.connect(database).await.unwrap();
        holder.batch_execute(&format!("BEGIN; LOCK TABLE {table}")).await.unwrap();
        let checking = async {
            let findings = scene.findings().await;
            let slow = findings.iter().find(|finding| finding.message.contains("no answer within 15 s"));
            slow.unwrap_or_else(|| panic!("{findings:?}")).remedy.clone()
        };
        let waiting = async {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0";
            let looking = server.connect("postgres").await.unwrap();
            let deadline = Instant::now() + DEADLINE;
            while looking.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                assert!(Instant::now() < deadline, "no session waits");
                pause().await;
            }
            looking
        };
        let (remedy, looking) = tokio::join!(checking, waiting);
        let sql = statements(&remedy);
        assert_eq!(sql.len(), 1, "{remedy}");
        looking.batch_execute(&sql[0]).await.unwrap();
        holder.batch_execute("ROLLBACK").await.unwrap();
        scene.is_clean().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_source_and_a_read_only_state_have_working_remedies() {
    let mut scene = Scene::clean().await;
    let primary = scene.server.port();
    let settings = Options::new()
        .auth("scram-sha-256")
        .set("primary_conninfo", &format!("host=127.0.0.1 port={primary} user=postgres dbname=postgres"))
        .set("max_slot_wal_keep_size", "8GB");
    let standby = scene.server.standby(settings).await.unwrap();
    let ports = [primary, standby.port()].map(|port| format!(":{port}/"));
    let to_standby = |yaml: &str| yaml.replacen(&ports[0], &ports[1], 1);
    scene.corrects(to_standby, "the server is a standby", "point source.url at the primary").await;

    scene.run("postgres", "CREATE DATABASE elsewhere; ").await;
    scene.run("elsewhere", "GRANT CREATE ON DATABASE elsewhere TO reader").await;
    scene.run("postgres", "ALTER DATABASE auth SET default_transaction_read_only = on").await;
    let findings = scene.findings().await;
    let state =
        findings.iter().find(|finding| finding.message.contains("but the state must be written to it")).unwrap();
    assert!(state.remedy.contains("set state.url to a writable database"), "{findings:?}");
    scene.yaml.push_str(&format!("state: {{url: '{}'}}\n", scene.server.url_for("reader:hunter2", "elsewhere")));
    scene.is_clean().await;
}

/// On Amazon RDS, membership in a role grants replication.
#[tokio::test(flavor = "multi_thread")]
async fn replication_on_amazon_rds_has_a_working_remedy() {
    let mut scene = Scene::clean().await;
    let sql = "CREATE ROLE rds_replication; ALTER ROLE reader NOREPLICATION";
    scene.resolves("auth", sql, "has no REPLICATION privilege").await;
    let member = "SELECT pg_has_role('reader', 'rds_replication', 'MEMBER') AND NOT (SELECT rolreplication FROM pg_roles WHERE rolname = 'reader')";
    let client = scene.server.connect("auth").await.unwrap();
    assert!(client.query_one(member, &[]).await.unwrap().get::<_, bool>(0), "it was given another right");
}

/// A publication of columns that sends whole rows is dropped and recreated as `setup` prints it.
#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_sends_whole_rows_has_a_working_remedy() {
    let mut scene = Scene::start(at_least(15).set("max_slot_wal_keep_size", "8GB")).await;
    scene.run("auth", "ALTER TABLE store.users ADD secret text").await;
    scene.yaml = scene.yaml.replace("source: {", "source: {publish: columns, ");
    scene.yaml = scene.yaml.replace("users: {", "users: {allow: [id], ");
    let findings = scene.findings().await;
    let whole = findings.iter().find(|finding| finding.message.contains("publishes whole rows")).unwrap();
    assert!(whole.remedy.contains("create it as `users-sync setup` prints it"), "{findings:?}");
    scene.run("auth", "DROP PUBLICATION users_sync").await;
    let printed = scene.command("setup").await;
    let create = printed.lines().find(|line| line.trim_start().starts_with("CREATE PUBLICATION")).unwrap();
    scene.run("auth", create).await;
    scene.is_clean().await;
    scene.run("auth", "ALTER TABLE store.users REPLICA IDENTITY FULL").await;
    let findings = scene.findings().await;
    let full =
        findings.iter().find(|finding| finding.message.contains("REPLICA IDENTITY FULL and a column list")).unwrap();
    assert!(full.remedy.contains("use an index as replica identity"), "{findings:?}");
    let index =
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'store.users'::regclass AND indisprimary";
    let client = scene.server.connect("auth").await.unwrap();
    let index: String = client.query_one(index, &[]).await.unwrap().get(0);
    let index = index.rsplit('.').next().unwrap();
    scene.run("auth", &format!("ALTER TABLE store.users REPLICA IDENTITY USING INDEX {index}")).await;
    scene.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_postgresql_has_a_working_remedy() {
    let mut scene = Scene::clean().await;
    let (port, answering) = no_postgres().await;
    let port = format!(":{port}/");
    let own = format!(":{}/", scene.server.port());
    let elsewhere = |yaml: &str| yaml.replace(&own, &port).replace("sslmode=prefer", "sslmode=disable");
    scene.corrects(elsewhere, "127.0.0.1", "check that the host and port of the URL are those of PostgreSQL").await;
    answering.abort();
}
