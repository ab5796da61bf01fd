//! The remedies of `check`: one thing is broken at a time, its remedy is followed, and `check` finds nothing more.

use super::{no_postgres, statements};
use crate::support::majors::at_least;
use crate::support::process::{command, said};
use crate::support::{DEADLINE, pause};
use std::io::Write;
use std::time::Instant;
use users_sync::throwaway::{Options, PostgresServer};

const USERS: &str = "
    CREATE SCHEMA store;
    CREATE TABLE store.users (id bigint NOT NULL, org text NOT NULL, name text, email text, PRIMARY KEY (id, org));
    INSERT INTO store.users VALUES (1, 'acme', 'Ann', 'ann@example.com');
    GRANT USAGE ON SCHEMA store TO reader;
    GRANT SELECT ON store.users TO reader;
    CREATE PUBLICATION users_sync FOR TABLE store.users";

/// Recreates the table in a target, with `columns` between the documents and the times.
fn users_table(columns: &str) -> String {
    format!(
        "DROP SCHEMA IF EXISTS neon_auth CASCADE; CREATE SCHEMA neon_auth;
         CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL, {columns}
           created_at timestamptz, deleted_at timestamptz, updated_at timestamptz)"
    )
}

/// A correct source and target, with least-privilege roles.
struct Scene {
    server: PostgresServer,
    /// The content of the configuration file.
    yaml: String,
}

/// One finding of `check`.
#[derive(Debug)]
struct Finding {
    message: String,
    remedy: String,
    /// The database that it is about.
    database: &'static str,
}

impl Scene {
    async fn start(options: Options) -> Scene {
        let server = PostgresServer::start(options.auth("scram-sha-256")).await.unwrap();
        let roles =
            "CREATE ROLE reader LOGIN REPLICATION PASSWORD 'hunter2'; CREATE ROLE writer LOGIN PASSWORD 'hunter2'";
        server.sql("postgres", roles).await.unwrap();
        for database in ["auth", "acme"] {
            server.create_database(database).await.unwrap();
        }
        server.sql("auth", USERS).await.unwrap();
        server.sql("auth", "GRANT CREATE ON DATABASE auth TO reader").await.unwrap();
        server.sql("acme", "GRANT CREATE ON DATABASE acme TO writer").await.unwrap();
        let yaml = format!(
            "source: {{url: '{}'}}\n\
             users: {{table: store.users, id: id, name: name, email: email, tenant: org}}\n\
             tenants: [{{id: acme, target: '{}'}}]\n",
            server.url_for("reader:hunter2", "auth"),
            server.url_for("writer:hunter2", "acme")
        );
        Scene { server, yaml }
    }

    /// Settings that every server should have, so that no warning is left.
    async fn clean() -> Scene {
        let scene = Scene::start(Options::new().set("max_slot_wal_keep_size", "8GB")).await;
        assert!(scene.findings().await.is_empty());
        scene
    }

    async fn command(&self, name: &str) -> String {
        self.command_with(&[name]).await
    }

    async fn command_with(&self, arguments: &[&str]) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.yaml.as_bytes()).unwrap();
        let file = ["-c", file.path().to_str().unwrap()];
        said(&command(&[arguments, &file].concat()).await).0
    }

    /// The errors and warnings of `check`.
    async fn findings(&self) -> Vec<Finding> {
        let text = self.command("check").await;
        let mut findings: Vec<Finding> = Vec::new();
        let mut is_open = false;
        for line in text.lines() {
            if let Some((message, about)) = ["error: ", "warning: "].iter().find_map(|severity| {
                let rest = line.strip_prefix(severity)?;
                let (about, message) = rest.split_once(": ")?;
                Some((message, about))
            }) {
                let database = if about.starts_with("tenant") { "acme" } else { "auth" };
                findings.push(Finding { message: message.to_owned(), remedy: String::new(), database });
                is_open = true;
            } else if let (true, Some(finding)) = (line.starts_with("    "), findings.last_mut().filter(|_| is_open)) {
                finding.remedy.push_str(line.trim_start().trim_start_matches("-> "));
                finding.remedy.push('\n');
            } else {
                is_open = false;
            }
        }
        assert!(text.contains("checked the source"), "{text}");
        findings
    }

    async fn run(&self, database: &str, sql: &str) {
        self.server.sql(database, sql).await.unwrap();
    }

    /// Runs the printed remedy.
    async fn follow(&mut self, findings: &[Finding]) {
        for finding in findings {
            if finding.remedy.starts_with("users-sync adopt -c FILE acme") {
                let text = self.command_with(&["adopt", "acme", "--yes"]).await;
                assert!(text.contains("acme: adopted"), "{text}");
                continue;
            }
            let statements = statements(&finding.remedy);
            assert!(!statements.is_empty(), "no SQL: {finding:?}");
            for sql in statements {
                let done = self.server.sql(finding.database, &sql).await;
                assert!(done.is_ok(), "{sql}: {done:?}\n{finding:?}");
            }
            if finding.remedy.contains("then restart the server") {
                self.server.restart().await.unwrap();
            }
        }
    }

    /// Waits until nothing is found. A reloaded setting takes effect after a moment.
    async fn is_clean(&self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let findings = self.findings().await;
            if findings.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{findings:?}");
            pause().await;
        }
    }

    /// Asserts that this break is found, and that its remedy resolves it.
    async fn resolves(&mut self, database: &str, sql: &str, message: &str) {
        for sql in sql.split(";;") {
            self.run(database, sql).await;
        }
        let deadline = Instant::now() + DEADLINE;
        let findings = loop {
            let findings = self.findings().await;
            if findings.iter().any(|finding| finding.message.contains(message)) {
                break findings;
            }
            assert!(Instant::now() < deadline, "{message} is not found: {findings:?}");
            pause().await;
        };
        self.follow(&findings).await;
        // Objects created by a superuser do not belong to the role yet; that is the next finding.
        let findings = self.findings().await;
        if findings.iter().all(|finding| !finding.message.contains(message)) {
            self.follow(&findings).await;
        }
        self.is_clean().await;
    }

    /// Changes the file as the remedy says.
    async fn corrects(&mut self, by: impl Fn(&str) -> String, message: &str, remedy: &str) {
        let good = self.yaml.clone();
        self.yaml = by(&good);
        let text = self.command("check").await;
        assert!(text.contains(message) && text.contains(remedy), "{text}\ndoes not say {message} -> {remedy}");
        self.yaml = good;
        self.is_clean().await;
    }
}

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
    write_state(&scene.server).await;
    scene.resolves("acme", rows, "has rows that users-sync did not write").await;
    let stranger = "UPDATE users_sync.checkpoint SET target_id = gen_random_uuid()";
    scene.resolves("acme", stranger, "was written by another installation").await;
    // A table of another shape is renamed out of the way.
    scene
        .run(
            "acme",
            &(users_table("name text,")
                + "; GRANT ALL ON SCHEMA neon_auth TO writer; GRANT ALL ON neon_auth.users_sync TO writer"),
        )
        .await;
    let findings = scene.findings().await;
    assert!(findings.iter().any(|finding| finding.remedy.starts_with("rename that table")), "{findings:?}");
    scene.run("acme", "ALTER TABLE neon_auth.users_sync RENAME TO users_sync_old").await;
    scene.is_clean().await;
}

/// The state of a process that has begun a history and has no tenants yet.
async fn write_state(server: &PostgresServer) {
    use users_sync::model::{Generation, Lsn};
    let url = users_sync::pg::PgUrl::parse(&server.url_for("reader:hunter2", "auth")).unwrap();
    let client = users_sync::pg::connect(&url).await.unwrap();
    let store = users_sync::state::StateStore::acquire(client, "users_sync", "test", Lsn::ZERO).await.unwrap();
    store.begin_generation(Generation(1), "1", 1, Lsn(1)).await.unwrap();
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
