//! A store's tables on a throwaway server, a users-sync process with its preset, and the comparison with SQL of the
//! test's own.

use crate::support::{DEADLINE, pause};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Instant;
use tempfile::{NamedTempFile, TempDir};
use tokio_postgres::SimpleQueryMessage;
use users_sync::throwaway::{Options, PostgresServer};

/// Marks in every column that must not leave, and in every column that may. As hexadecimal digits they also fit into a
/// bytea.
pub const SECRET: &str = "5ec2e75ec2e7";
pub const OPEN: &str = "09e209e209e2";

/// A store, its preset, and the changes to its users.
pub struct Case {
    pub preset: &'static str,
    /// What the log has to contain at the start.
    pub says: &'static str,
    /// Where the tables come from.
    pub tables: Tables,
    /// Keys below `users` beside the preset, as the inside of a YAML map: `table: a.b, tenant: c`.
    pub users: &'static str,
    /// Tenants and their keys in the store. An empty key means that there is one tenant only.
    pub tenants: &'static [(&'static str, &'static str)],
    /// The columns of the users' tables without a mark: ids, times, flags.
    pub unmarked: &'static [&'static str],
    /// The tables that are searched for columns without a mark, with the condition for the marked row.
    pub marked: &'static [(&'static str, &'static str)],
    /// Users from before the first start.
    pub seed: &'static str,
    /// The users that should be live, or soft-deleted by the source, in the tenant with key `$1`: id, document, name,
    /// email, created_at, updated_at (`*` if derived), deleted_at.
    pub expected: &'static str,
    /// The changes, one after the other.
    pub steps: &'static [&'static str],
}

/// The origin of the tables.
pub enum Tables {
    /// The store's own software, run by the script of this name.
    Own(&'static str),
    /// Written by us after the store's documentation: the file of this name.
    Alike(&'static str),
}

/// Runs a case from its seed to its end.
pub async fn run(case: &Case) {
    let bed = Bed::start(case).await;
    bed.source(case.seed).await;
    bed.is_recognised();
    let service = bed.service(&[("RUST_LOG", "trace,users_sync=trace")]);
    bed.equal("the seed").await;
    for step in case.steps {
        bed.source(step).await;
        bed.equal(step).await;
    }
    bed.look_for_marks().await;
    drop(service);
    // A new start with a new snapshot gives the same result.
    let service = bed.service(&[]);
    bed.equal("a restart").await;
    drop(service);
    for (tenant, _) in case.tenants {
        let stale = "UPDATE users_sync.checkpoint SET target_id = '00000000-0000-0000-0000-000000000000', epoch = 0;
                     UPDATE neon_auth.users_sync SET raw_json = raw_json || '{\"stale\": true}'";
        bed.server.sql(tenant, stale).await.unwrap();
        // A sleeping target is opened for a request.
        let request = format!(
            "INSERT INTO users_sync.request (slot, tenant, allow_deletes) SELECT slot, '{tenant}', false FROM users_sync.source"
        );
        bed.source(&request).await;
    }
    let service = bed.service(&[]);
    bed.equal("a resync").await;
    drop(service);
}

pub struct Bed<'a> {
    case: &'a Case,
    server: PostgresServer,
    config: NamedTempFile,
    directory: TempDir,
}

impl<'a> Bed<'a> {
    pub async fn start(case: &'a Case) -> Bed<'a> {
        let server = PostgresServer::start(Options::new()).await.unwrap();
        server.create_database("auth").await.unwrap();
        server.sql("auth", &tables(&case.tables).await).await.unwrap();
        let mut yaml = format!(
            "source: {{url: '{}'}}\nusers: {{preset: {}{}{}}}\ntenants:\n",
            server.url("auth"),
            case.preset,
            if case.users.is_empty() { "" } else { ", " },
            case.users
        );
        for (id, key) in case.tenants {
            server.create_database(id).await.unwrap();
            let key = if key.is_empty() { String::new() } else { format!("key: '{key}', ") };
            yaml.push_str(&format!("- {{id: {id}, {key}target: '{}'}}\n", server.url(id)));
        }
        let mut config = NamedTempFile::new().unwrap();
        config.write_all(yaml.as_bytes()).unwrap();
        Bed { case, server, config, directory: TempDir::new().unwrap() }
    }

    /// Runs SQL at the source; `{SECRET}` and `{OPEN}` stand for the marks.
    pub async fn source(&self, sql: &str) {
        let sql = sql.replace("{SECRET}", SECRET).replace("{OPEN}", OPEN);
        let client = self.server.connect("auth").await.unwrap();
        if let Err(error) = client.batch_execute(&sql).await {
            panic!("{error:?}\n{sql}");
        }
    }

    /// `users-sync run` with its log in a file.
    pub fn service(&self, environment: &[(&str, &str)]) -> Service {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        command.args(["run", "-c"]).arg(self.config.path()).envs(environment.iter().copied());
        Service(command.stdin(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// A command of users-sync with this configuration.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        command.args(arguments).arg("-c").arg(self.config.path()).output().unwrap()
    }

    /// Asserts that `init` recognises the store, and that its file needs no more than a target.
    fn is_recognised(&self) {
        if self.case.users.contains("table:") {
            return;
        }
        let (path, source) = (self.directory.path().join("init.yaml"), self.server.url("auth"));
        let tenants = self.case.tenants.iter().map(|(id, key)| if key.is_empty() { *id } else { *key });
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        command.args(["init", "--source", &source, "-c"]).arg(&path).env_remove("USERS_SYNC_SOURCE_URL");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", self.case.preset);
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(written.contains(&format!("\n  preset: {}\n", self.case.preset)), "{written}");
        for key in tenants.filter(|_| !self.case.tenants[0].1.is_empty()) {
            assert!(written.contains(key), "{key} is not proposed: {written}");
        }
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Waits until every target equals the source.
    async fn equal(&self, after: &str) {
        for (tenant, key) in self.case.tenants {
            let deadline = Instant::now() + DEADLINE;
            loop {
                let expected = self.expected(key).await;
                let held = self.held(tenant).await;
                let differences = differences(&expected, &held);
                if differences.is_empty() {
                    break;
                }
                if Instant::now() > deadline {
                    let log = std::fs::read_to_string(self.log()).unwrap();
                    let ours: Vec<_> =
                        log.lines().filter(|line| line.contains("users_sync") || !line.contains("TRACE")).collect();
                    let last = ours[ours.len().saturating_sub(15)..].join("\n");
                    let shown = &differences[..differences.len().min(3)];
                    panic!("{} in {tenant} after {after}:\n{}\n{last}", self.case.preset, shown.join("\n"));
                }
                pause().await;
            }
        }
    }

    async fn expected(&self, key: &str) -> Vec<Row> {
        let client = self.server.connect("auth").await.unwrap();
        let sql = self.case.expected.replace("$1", &format!("'{key}'"));
        rows(&client, &format!("SELECT e.* FROM ({sql}) e(id, document, name, email, created, updated, deleted)")).await
    }

    async fn held(&self, tenant: &str) -> Vec<Row> {
        let client = self.server.connect(tenant).await.unwrap();
        let there = client.query_one("SELECT to_regclass('neon_auth.users_sync') IS NOT NULL", &[]).await.unwrap();
        if !there.get::<_, bool>(0) {
            return Vec::new();
        }
        rows(&client, "SELECT id, raw_json, name, email, created_at, updated_at, deleted_at FROM neon_auth.users_sync")
            .await
    }

    /// `explain` says of each marked column of the users' table what arrived.
    async fn explained(&self) {
        let Output { stdout, stderr, .. } = self.command(&["explain", "--json"]);
        let said = String::from_utf8(stdout).unwrap();
        let sections: serde_json::Value =
            serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{}", String::from_utf8_lossy(&stderr)));
        let sections = sections.as_array().unwrap();
        // What a query makes of a table's columns is not known.
        if sections.iter().any(|section| section["of"] == "users.query") {
            assert!(
                sections[0]["columns"].as_array().unwrap().iter().any(|column| column["leaves_as"][0] == "id"),
                "{said}"
            );
            return;
        }
        let client = self.server.connect("auth").await.unwrap();
        for (table, condition) in
            self.case.marked.iter().filter(|(table, _)| sections[0]["of"] == table.replace('"', ""))
        {
            let row =
                client.query_one(&format!("SELECT to_jsonb(t)::text FROM {table} t WHERE {condition}"), &[]).await;
            let row: serde_json::Value = serde_json::from_str(row.unwrap().get(0)).unwrap();
            for account in sections[0]["columns"].as_array().unwrap() {
                let value = row[account["column"].as_str().unwrap()].to_string();
                let leaves = !account["leaves_as"].as_array().unwrap().is_empty();
                let (open, secret) = (value.contains(OPEN), value.contains(SECRET));
                assert!(open == secret || open == leaves, "{table}: {account} has {value}");
            }
        }
    }

    /// Every column has a mark. Marks that may leave are in a target; marks that must not are nowhere.
    async fn look_for_marks(&self) {
        let client = self.server.connect("auth").await.unwrap();
        for (table, condition) in self.case.marked {
            let row =
                client.query_one(&format!("SELECT to_jsonb(t)::text FROM {table} t WHERE {condition}"), &[]).await;
            let row: serde_json::Value = serde_json::from_str(row.unwrap().get(0)).unwrap();
            for (column, value) in row.as_object().unwrap() {
                let value = value.to_string();
                let marks = value.contains(SECRET) || value.contains(OPEN);
                let named = self.case.unmarked.contains(&column.as_str());
                assert!(marks != named, "{table}.{column} {value}: mark it, or name it as unmarked");
            }
        }
        self.explained().await;
        let mut held = String::new();
        for (tenant, _) in self.case.tenants {
            held.push_str(&format!("{:?}", self.held(tenant).await));
            for (schema, table) in [("users_sync", "checkpoint")] {
                let client = self.server.connect(tenant).await.unwrap();
                held.push_str(&format!("{:?}", rows(&client, &format!("SELECT * FROM {schema}.{table}")).await));
            }
        }
        held.push_str(&format!("{:?}", rows(&client, "SELECT * FROM users_sync.tenant").await));
        assert!(held.contains(OPEN), "what may leave has not arrived");
        assert!(!held.contains(SECRET), "a secret is in a target or in the state");
        let log = std::fs::read_to_string(self.log()).unwrap();
        assert!(log.contains(self.case.says), "the log does not say {:?}", self.case.says);
        let told = log.lines().find(|line| line.contains(SECRET));
        assert_eq!(told, None, "a secret is in the log");
        let more = ["TRACE", "DEBUG"].iter().any(|level| log.contains(level));
        assert!(log.contains("streaming") && more, "no more is logged than usual");
        for arguments in [&["status"][..], &["status", "--json"], &["check"]] {
            let Output { stdout, stderr, .. } = self.command(arguments);
            let said = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
            assert!(said.len() > 10 && !said.contains(SECRET), "{arguments:?} said {said}");
        }
    }
}

/// A `users-sync run` that is killed on drop.
pub struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub type Row = Vec<Option<String>>;

async fn rows(client: &tokio_postgres::Client, sql: &str) -> Vec<Row> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{error:?}\n{sql}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    });
    rows.collect()
}

/// Every expected user is present as expected, and every live user is expected.
fn differences(expected: &[Row], held: &[Row]) -> Vec<String> {
    let find = |rows: &[Row], id: &Option<String>| rows.iter().find(|row| row[0] == *id).cloned();
    let mut found = Vec::new();
    for row in expected {
        let mut there = find(held, &row[0]);
        if let Some(there) = there.as_mut().filter(|_| row[5].as_deref() == Some("*")) {
            there[5] = row[5].clone();
        }
        if there.as_ref() != Some(row) {
            found.push(format!("expected {row:?}\n    held {there:?}"));
        }
    }
    for row in held.iter().filter(|row| row[6].is_none() && find(expected, &row[0]).is_none()) {
        found.push(format!("not expected: {row:?}"));
    }
    found
}

/// The SQL that creates a store's tables. Its own software creates them once, in a separate database. The dump is kept
/// below the target directory until the script changes.
async fn tables(tables: &Tables) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/providers");
    let name = match tables {
        Tables::Alike(name) => return std::fs::read_to_string(here.join(format!("{name}.sql"))).unwrap(),
        Tables::Own(name) => name,
    };
    // Tests of one process run in parallel and share downloads.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    let script = here.join(format!("{name}.sh"));
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("providers");
    std::fs::create_dir_all(&work).unwrap();
    let (dump, kept) = (work.join(format!("{name}.sql")), work.join(format!("{name}.sh")));
    // The dump belongs to the script and to the versions that it installs.
    let locks = ["package-lock.json", "requirements.txt"].map(|lock| here.join(name).join(lock));
    let locks = locks.iter().filter_map(|lock| std::fs::read_to_string(lock).ok());
    let text = std::fs::read_to_string(&script).unwrap() + &locks.collect::<String>();
    if std::fs::read_to_string(&kept).ok().as_deref() != Some(&text) || !dump.exists() {
        let server = PostgresServer::start(Options::new()).await.unwrap();
        server.create_database("store").await.unwrap();
        let url = server.url("store").replace("sslmode=prefer", "sslmode=disable");
        let run = Command::new("bash").arg(&script).env("DATABASE_URL", &url).env("WORK", &work).output().unwrap();
        assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
        // pg_dump is beside the server's programs if the client's are in no common place.
        let initdb = users_sync::throwaway::Binaries::find().unwrap().program("initdb").canonicalize().unwrap();
        let beside = initdb.with_file_name("pg_dump");
        let program = if beside.exists() { beside } else { "pg_dump".into() };
        let made =
            Command::new(program).args(["--schema-only", "--no-owner", "--no-privileges", &url]).output().unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        // Leave out psql's own commands (newer pg_dumps write some) and settings that would hide the tables.
        let lines = String::from_utf8(made.stdout).unwrap();
        let lines: Vec<_> =
            lines.lines().filter(|line| !line.starts_with('\\') && !line.contains("'search_path', ''")).collect();
        std::fs::write(&dump, lines.join("\n")).unwrap();
        std::fs::write(&kept, text).unwrap();
    }
    std::fs::read_to_string(&dump).unwrap()
}
