//! Two servers, with PostgreSQL's subscription and users-sync between them.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use tokio::sync::OnceCell;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};
use users_sync::throwaway::{Options, PostgresServer};

pub struct Bed {
    pub source: PostgresServer,
    pub target: PostgresServer,
    numbers: AtomicU32,
}

/// The table at the source, and native's at the target.
pub const USERS: &str = "CREATE TABLE users (id text PRIMARY KEY, name text, email text, created_at timestamptz, \
    updated_at timestamptz, deleted_at timestamptz, profile jsonb)";

/// Of a wait for a condition: the slowest reference takes minutes.
const DEADLINE: Duration = Duration::from_secs(1800);
/// Between two looks at a condition.
pub const INTERVAL: Duration = Duration::from_millis(20);

impl Bed {
    pub async fn start() -> Bed {
        Bed::with(|options| options).await
    }

    /// Both servers get the settings that `more` adds.
    pub async fn with(more: impl Fn(Options) -> Options) -> Bed {
        // Durable like a production server. A large max_wal_size keeps checkpoints out of the measured times.
        let options = || {
            let large = Options::new().measured().set("max_wal_size", "8GB").set("shared_buffers", "512MB");
            let large = large.set("max_replication_slots", "250").set("max_wal_senders", "250");
            // Until PostgreSQL 15, native's workers start at most once in this time, which is 5 s by default.
            let large = large.set("wal_retrieve_retry_interval", "100ms");
            more(large.set("autovacuum", "off").set("max_connections", "200"))
        };
        Bed {
            source: PostgresServer::start(options()).await.unwrap(),
            target: PostgresServer::start(options()).await.unwrap(),
            numbers: AtomicU32::new(0),
        }
    }

    /// A number that was not returned before.
    pub fn next(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Creates a database with `users` rows at the source, and an empty one for users-sync at the target.
    pub async fn database(&self, name: &str, users: u32) {
        self.source.create_database(name).await.unwrap();
        self.source.sql(name, USERS).await.unwrap();
        self.source.sql(name, &format!("INSERT INTO users {}", people(1, users))).await.unwrap();
        self.source.sql(name, "VACUUM ANALYZE users").await.unwrap();
        self.target.create_database(&format!("{name}_ours")).await.unwrap();
    }

    /// Removes subscriptions and slots of a part that is over: a slot that is not read holds back WAL.
    pub async fn end(&self, name: &str) {
        let client = self.target.connect("postgres").await.unwrap();
        let subscriptions = format!(
            "SELECT datname, subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname ^@ '{name}_'"
        );
        for row in client.query(&subscriptions, &[]).await.unwrap() {
            let drop = format!("DROP SUBSCRIPTION {}", row.get::<_, String>(1));
            self.target.sql(&row.get::<_, String>(0), &drop).await.unwrap();
        }
        let inactive =
            format!("SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE active AND database = '{name}')");
        self.wait(&self.source, "postgres", &inactive).await;
        let slots = format!(
            "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE database = '{name}'"
        );
        self.source.sql("postgres", &slots).await.unwrap();
    }

    /// The same, and removes the databases: not where there are many, because each causes a checkpoint.
    pub async fn clear(&self, name: &str) {
        self.end(name).await;
        let client = self.target.connect("postgres").await.unwrap();
        let databases = format!("SELECT datname FROM pg_database WHERE datname ^@ '{name}_'");
        for row in client.query(&databases, &[]).await.unwrap() {
            let drop = format!("DROP DATABASE {} WITH (FORCE)", row.get::<_, String>(0));
            client.batch_execute(&drop).await.unwrap();
        }
        self.source.sql("postgres", &format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    }

    /// Changes each of these users in its own transaction, without waiting for each commit to be durable.
    pub async fn renames(&self, name: &str, from: u32, to: u32) {
        self.changes(name, "name = 'Changed'", from, to).await;
    }

    /// The same with another assignment.
    pub async fn changes(&self, name: &str, assignment: &str, from: u32, to: u32) {
        self.writer(name).await.change(assignment, from, to).await;
    }

    /// Connects a session that makes such changes later.
    pub async fn writer(&self, name: &str) -> Writer {
        let client = self.source.connect(name).await.unwrap();
        client.batch_execute("SET synchronous_commit = off").await.unwrap();
        Writer { client }
    }

    /// Creates the publication of native's subscriptions, once.
    pub async fn publish(&self, name: &str) {
        let client = self.source.connect(name).await.unwrap();
        let exists = client.query_opt("SELECT FROM pg_publication WHERE pubname = 'native'", &[]).await.unwrap();
        if exists.is_none() {
            client.batch_execute("CREATE PUBLICATION native FOR TABLE users").await.unwrap();
        }
    }

    /// Writes all dirty pages, so that no measured time includes it.
    pub async fn checkpoint(&self) {
        self.source.sql("postgres", "CHECKPOINT").await.unwrap();
        self.target.sql("postgres", "CHECKPOINT").await.unwrap();
    }

    /// Waits until a query returns true.
    pub async fn wait(&self, server: &PostgresServer, database: &str, sql: &str) {
        self.watch(server, database, sql).await.until_true().await;
    }

    /// Connects a session that waits later: its start is then in no measured time.
    pub async fn watch(&self, server: &PostgresServer, database: &str, sql: &str) -> Watch {
        let client = server.connect(database).await.unwrap();
        Watch { client, sql: sql.to_owned(), statement: OnceCell::new() }
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
    rows(&format!("{from}, {to}"), "'Name ' || n")
}

/// The same for the numbers `n` of a series, with another name.
pub fn rows(series: &str, name: &str) -> String {
    format!(
        "SELECT 'user-' || n, {name}, n || '@example.com', now(), now(), NULL, \
         jsonb_build_object('picture', 'https://example.com/' || md5(n::text), 'locale', 'en-GB', 'verified', true, \
           'about', repeat('words ', 30), 'logins', n) FROM generate_series({series}) n"
    )
}

/// A session of the source that changes users.
pub struct Writer {
    client: Client,
}

impl Writer {
    /// Changes each of these users in its own transaction.
    pub async fn change(&self, assignment: &str, from: u32, to: u32) {
        let procedure = format!(
            "CREATE OR REPLACE PROCEDURE changes() LANGUAGE plpgsql AS $$ BEGIN
               FOR n IN {from}..{to} LOOP
                 UPDATE users SET {assignment}, updated_at = now() WHERE id = 'user-' || n;
                 COMMIT;
               END LOOP; END $$"
        );
        self.client.batch_execute(&procedure).await.unwrap();
        self.client.batch_execute("CALL changes()").await.unwrap();
    }

    /// Changes all users in one transaction.
    pub async fn change_all(&self, assignment: &str) {
        self.client.batch_execute(&format!("UPDATE users SET {assignment}, updated_at = now()")).await.unwrap();
    }
}

/// A session that waits for a condition.
pub struct Watch {
    client: Client,
    sql: String,
    statement: OnceCell<Statement>,
}

impl Watch {
    /// Waits until the query returns true. The interval is long enough for the query's cost not to matter. The session stays
    /// open, so that its end is in no measured CPU time either.
    pub async fn until_true(&self) {
        let started = Instant::now();
        while !self.is_true().await {
            assert!(started.elapsed() < DEADLINE, "still not true: {}", self.sql);
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Whether the query returns true now.
    pub async fn is_true(&self) -> bool {
        let statement = self.statement.get_or_try_init(|| self.client.prepare(&self.sql)).await;
        let statement = match statement {
            Ok(statement) => statement,
            // users-sync has not created the table yet.
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => return false,
            Err(error) => panic!("{}: {error}", self.sql),
        };
        let row = self.client.query_opt(statement, &[]).await.unwrap();
        row.is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(true))
    }
}

/// A running users-sync. It is killed when dropped; `stop` sends SIGTERM.
pub struct Process {
    child: Child,
    file: NamedTempFile,
}

impl Process {
    pub fn start(configuration: &str) -> Process {
        Process::spawn("run", configuration)
    }

    /// One of the processes that write what another one publishes to Kafka.
    #[cfg(feature = "kafka")]
    pub fn apply(configuration: &str) -> Process {
        Process::spawn("apply", configuration)
    }

    fn spawn(command: &str, configuration: &str) -> Process {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), configuration).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_users-sync"))
            .args([command, "-c"])
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

    pub fn id(&self) -> u32 {
        self.child.id()
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
