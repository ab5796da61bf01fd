//! A correct source and target, which `check` finds clean until a test breaks something, and the way to follow a remedy.

use super::statements;
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
pub fn users_table(columns: &str) -> String {
    format!(
        "DROP SCHEMA IF EXISTS neon_auth CASCADE; CREATE SCHEMA neon_auth;
         CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL, {columns}
           created_at timestamptz, deleted_at timestamptz, updated_at timestamptz)"
    )
}

/// A correct source and target, with least-privilege roles.
pub struct Scene {
    pub server: PostgresServer,
    /// The content of the configuration file.
    pub yaml: String,
}

/// One finding of `check`.
#[derive(Debug)]
pub struct Finding {
    pub message: String,
    pub remedy: String,
    /// The database that it is about.
    pub database: &'static str,
}

impl Scene {
    pub async fn start(options: Options) -> Scene {
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
    pub async fn clean() -> Scene {
        let scene = Scene::start(Options::new().set("max_slot_wal_keep_size", "8GB")).await;
        assert!(scene.findings().await.is_empty());
        scene
    }

    pub async fn command(&self, name: &str) -> String {
        self.command_with(&[name]).await
    }

    pub async fn command_with(&self, arguments: &[&str]) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.yaml.as_bytes()).unwrap();
        let file = ["-c", file.path().to_str().unwrap()];
        said(&command(&[arguments, &file].concat()).await).0
    }

    /// The errors and warnings of `check`.
    pub async fn findings(&self) -> Vec<Finding> {
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

    pub async fn run(&self, database: &str, sql: &str) {
        self.server.sql(database, sql).await.unwrap();
    }

    /// Runs the printed remedy.
    pub async fn follow(&mut self, findings: &[Finding]) {
        for finding in findings {
            if finding.remedy.starts_with("users-sync adopt -c FILE acme") {
                let text = self.command_with(&["adopt", "acme", "--yes"]).await;
                assert!(text.contains("acme: adopted"), "{text}");
                continue;
            }
            let statements = statements(&finding.remedy);
            assert!(!statements.is_empty(), "no SQL: {finding:?}");
            // One session, as in psql.
            let client = self.server.connect(finding.database).await.unwrap();
            for sql in statements {
                let done = client.batch_execute(&sql).await;
                assert!(done.is_ok(), "{sql}: {done:?}\n{finding:?}");
            }
            if finding.remedy.contains("then restart the server") {
                self.server.restart().await.unwrap();
            }
        }
    }

    /// Waits until nothing is found. A reloaded setting takes effect after a moment.
    pub async fn is_clean(&self) {
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
    pub async fn resolves(&mut self, database: &str, sql: &str, message: &str) {
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
    pub async fn corrects(&mut self, by: impl Fn(&str) -> String, message: &str, remedy: &str) {
        let good = self.yaml.clone();
        self.yaml = by(&good);
        let text = self.command("check").await;
        assert!(text.contains(message) && text.contains(remedy), "{text}\ndoes not say {message} -> {remedy}");
        self.yaml = good;
        self.is_clean().await;
    }
}

/// The state of a process that has begun a history and has no tenants yet.
pub async fn write_state(server: &PostgresServer, slot: &str) {
    use users_sync::model::{Generation, Lsn};
    let url = users_sync::pg::PgUrl::parse(&server.url_for("reader:hunter2", "auth")).unwrap();
    let client = users_sync::pg::connect(&url).await.unwrap();
    let store = users_sync::state::StateStore::acquire(client, slot, "test", Lsn::ZERO).await.unwrap();
    store.begin_generation(Generation(1), "1", 1, Lsn(1)).await.unwrap();
}
