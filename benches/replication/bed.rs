//! Two servers, with PostgreSQL's subscription and users-sync between them.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use users_sync::throwaway::{Options, PostgresServer};

pub struct Bed {
    pub source: PostgresServer,
    pub target: PostgresServer,
}

const USERS: &str = "CREATE TABLE users (id text PRIMARY KEY, name text, email text, created_at timestamptz, \
    updated_at timestamptz, deleted_at timestamptz, profile jsonb)";

impl Bed {
    pub async fn start() -> Bed {
        Bed::for_connections("200").await
    }

    pub async fn for_connections(max_connections: &str) -> Bed {
        // Durable like a production server. A large max_wal_size keeps checkpoints out of the measured times.
        let options = || {
            let large = Options::new().set("max_wal_size", "8GB").set("shared_buffers", "512MB");
            large.set("autovacuum", "off").set("max_connections", max_connections)
        };
        Bed {
            source: PostgresServer::start(options()).await.unwrap(),
            target: PostgresServer::start(options()).await.unwrap(),
        }
    }

    /// Creates a database with `users` rows at the source, and one for each of the two at the target.
    pub async fn database(&self, name: &str, users: u32) {
        self.source.create_database(name).await.unwrap();
        self.source.sql(name, USERS).await.unwrap();
        self.source.sql(name, &format!("INSERT INTO users {}", people(1, users))).await.unwrap();
        self.source.sql(name, "VACUUM ANALYZE users").await.unwrap();
        self.target.create_database(&format!("{name}_native")).await.unwrap();
        self.target.sql(&format!("{name}_native"), USERS).await.unwrap();
        self.target.create_database(&format!("{name}_ours")).await.unwrap();
    }

    /// Changes each of these users in its own transaction, without waiting for each commit to be durable.
    pub async fn renames(&self, name: &str, from: u32, to: u32) {
        let asynchronous = format!("ALTER DATABASE {name} SET synchronous_commit = off");
        self.source.sql("postgres", &asynchronous).await.unwrap();
        let renames = format!(
            "CREATE PROCEDURE renames() LANGUAGE plpgsql AS $$ BEGIN
               FOR n IN {from}..{to} LOOP
                 UPDATE users SET name = 'Changed', updated_at = now() WHERE id = 'user-' || n;
                 COMMIT;
               END LOOP; END $$"
        );
        self.source.sql(name, &renames).await.unwrap();
        self.source.sql(name, "CALL renames()").await.unwrap();
        self.source.sql("postgres", &format!("ALTER DATABASE {name} RESET synchronous_commit")).await.unwrap();
    }

    /// Creates PostgreSQL's subscription, waits for its initial copy, then disables it.
    pub async fn subscribe(&self, name: &str) {
        self.source.sql(name, "CREATE PUBLICATION native FOR TABLE users").await.unwrap();
        let target = format!("{name}_native");
        self.target
            .sql(
                &target,
                &format!("CREATE SUBSCRIPTION native_{name} CONNECTION '{}' PUBLICATION native", self.source.url(name)),
            )
            .await
            .unwrap();
        self.wait(&self.target, &target, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel").await;
        self.native(name, false).await;
    }

    pub async fn native(&self, name: &str, on: bool) {
        let verb = if on { "ENABLE" } else { "DISABLE" };
        self.target.sql(&format!("{name}_native"), &format!("ALTER SUBSCRIPTION native_{name} {verb}")).await.unwrap();
        if !on {
            let sql = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE active AND slot_name LIKE 'native%')";
            self.wait(&self.source, "postgres", sql).await;
        }
    }

    /// Waits until a query returns true; returns the time. The interval is long enough for the query's cost not to matter.
    pub async fn wait(&self, server: &PostgresServer, database: &str, sql: &str) -> Duration {
        let started = Instant::now();
        let client = server.connect(database).await.unwrap();
        let statement = client.prepare(sql).await.unwrap();
        loop {
            let row = client.query_opt(&statement, &[]).await.unwrap();
            if row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true)) {
                return started.elapsed();
            }
            assert!(started.elapsed() < Duration::from_secs(300), "still not true: {sql}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts users-sync for tenants with these ids and target URLs.
    pub fn ours(&self, name: &str, tenants: &[(String, String)], tenant_column: bool) -> Process {
        Process::start(&self.configuration(name, tenants, tenant_column))
    }

    pub fn configuration(&self, name: &str, tenants: &[(String, String)], tenant_column: bool) -> String {
        let mut yaml = format!(
            "source: {{url: '{}', slot: ours_{name}, publication: ours_{name}}}\n\
             users: {{table: public.users, id: id, name: name, email: email, created_at: created_at, \
             updated_at: updated_at, deleted_at: deleted_at{}}}\nadmin: {{listen: '127.0.0.1:0'}}\ntenants:\n",
            self.source.url(name),
            if tenant_column { ", tenant: name" } else { "" }
        );
        for (id, url) in tenants {
            yaml.push_str(&format!("- {{id: '{id}', target: '{url}'}}\n"));
        }
        yaml
    }

    pub fn one_tenant(&self, name: &str) -> Vec<(String, String)> {
        vec![("only".to_owned(), self.target.url(&format!("{name}_ours")))]
    }

    /// Waits until every tenant is up to date.
    pub async fn following(&self, name: &str, tenants: usize) {
        self.wait(&self.source, name, "SELECT to_regclass('users_sync.tenant') IS NOT NULL").await;
        let sql = format!("SELECT count(*) = {tenants} FROM users_sync.tenant WHERE state = 'following'");
        self.wait(&self.source, name, &sql).await;
    }
}

/// Rows of `users` with a profile of some 300 bytes.
pub fn people(from: u32, to: u32) -> String {
    format!(
        "SELECT 'user-' || n, 'Name ' || n, n || '@example.com', now(), now(), NULL, \
         jsonb_build_object('picture', 'https://example.com/' || md5(n::text), 'locale', 'en-GB', 'verified', true, \
           'about', repeat('words ', 30), 'logins', n) FROM generate_series({from}, {to}) n"
    )
}

/// A running users-sync. It is killed when dropped; `stop` sends SIGTERM.
pub struct Process {
    child: Child,
    file: NamedTempFile,
}

impl Process {
    pub fn start(configuration: &str) -> Process {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), configuration).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_users-sync"))
            .args(["run", "-c"])
            .arg(file.path())
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Process { child, file }
    }

    /// Its configuration file.
    pub fn file(&self) -> &std::path::Path {
        self.file.path()
    }

    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub fn resident(&self) -> Resident {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
        };
        Resident { now: value("VmRSS:"), peak: value("VmHWM:") }
    }
}

/// Resident memory in MB.
pub struct Resident {
    pub now: f64,
    pub peak: f64,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
