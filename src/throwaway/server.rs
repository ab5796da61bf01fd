//! A throwaway server: its directory, its process, and a watchdog that stops it if this process is killed.

use super::binaries::{Account, Binaries};
use super::error::ThrowawayError;
use super::identity;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

/// Includes crash recovery of a server under load.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The server kills its remaining backends after five seconds (SIGKILL_CHILDREN_AFTER_SECS).
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// A start takes tens of milliseconds, so tests wait little longer than that.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Another process can bind the free port before the server does. Each attempt chooses a new port.
const PORT_ATTEMPTS: usize = 5;

/// Reads from a pipe, which closes however this process ends. Then it stops the server of the data directory `$1` and removes
/// the directory `$2`.
const WATCHDOG: &str = r#"read -r _; pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then kill -QUIT "$pid" 2>/dev/null
  i=0; while kill -0 "$pid" 2>/dev/null && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; fi
rm -rf "$2""#;

type Template = Arc<OnceCell<PostgresServer>>;

/// For each directory of programs a cluster that servers start on copies of, because initdb needs ten times a copy's processor
/// time. Nothing drops them: their watchdogs remove their directories when this process ends.
static TEMPLATES: LazyLock<Mutex<HashMap<PathBuf, Template>>> = LazyLock::new(Mutex::default);

/// Settings of a throwaway server. By default logical replication is on, and every role is trusted on loopback.
#[derive(Clone, Debug)]
pub struct Options {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    auth: String,
    port: Option<u16>,
    binaries: Option<Binaries>,
    measured: bool,
}

impl Default for Options {
    fn default() -> Self {
        let auth = "trust".to_owned();
        Options { settings: Vec::new(), hba: Vec::new(), auth, port: None, binaries: None, measured: false }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Options {
        Options::default()
    }

    /// Adds a setting to `postgresql.conf`. It overrides earlier ones and the defaults.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Options {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uses this port instead of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Options {
        self.port = Some(port);
        self
    }

    /// Uses these programs instead of searching for them.
    #[must_use]
    pub fn binaries(mut self, binaries: Binaries) -> Options {
        self.binaries = Some(binaries);
        self
    }

    /// Makes this server like a real one, for a demo or a measurement: initdb creates its cluster.
    /// Others start on a copy of one cluster.
    #[must_use]
    pub fn measured(mut self) -> Options {
        self.measured = true;
        self
    }

    /// Sets the authentication method (`scram-sha-256`, `md5`, `password`, ...) of all roles except `postgres`.
    #[must_use]
    pub fn auth(mut self, method: &str) -> Options {
        self.auth = method.to_owned();
        self
    }

    /// Adds a line at the top of `pg_hba.conf`.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Options {
        self.hba.push(line.to_owned());
        self
    }

    fn postgresql_conf(&self, port: u16, sockets: &Path) -> String {
        let fixed = [
            ("port", port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("unix_socket_directories", sockets.display().to_string()),
            ("wal_level", "logical".to_owned()),
            ("max_replication_slots", "20".to_owned()),
            ("max_wal_senders", "20".to_owned()),
            ("max_connections", "300".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("lc_messages", "C".to_owned()),
        ];
        let fixed = fixed.iter().map(|(name, value)| (*name, value.as_str()));
        let wanted = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        fixed.chain(wanted).map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''"))).collect()
    }

    fn pg_hba_conf(&self) -> String {
        let method = &self.auth;
        let mut lines = self.hba.clone();
        lines
            .extend(["local all postgres trust", "host all,replication postgres 127.0.0.1/32 trust"].map(String::from));
        lines.push(format!("local all,replication all {method}"));
        lines.push(format!("host all,replication all 127.0.0.1/32 {method}"));
        lines.join("\n") + "\n"
    }
}

/// A running server. It is stopped, and its directory removed, when it is dropped or this process is killed.
#[derive(Debug)]
pub struct PostgresServer {
    binaries: Binaries,
    account: Option<Account>,
    port: u16,
    postmaster: Option<Child>,
    watchdog: Option<Child>,
    // Fields are dropped in order: the processes end before their directory is removed.
    dir: TempDir,
}

impl PostgresServer {
    /// Creates a cluster, starts it, and returns when it accepts connections.
    pub async fn start(options: Options) -> Result<PostgresServer, ThrowawayError> {
        let mut server = PostgresServer::prepare(&options)?;
        if options.measured {
            server.initdb().await?;
        } else {
            server.copy_template().await?;
        }
        server.begin(&options).await?;
        Ok(server)
    }

    /// Starts a standby on a copy of this server's data; `options` must set `primary_conninfo`. This server restarts, because
    /// a copy of a stopped server is consistent.
    pub async fn standby(&mut self, options: Options) -> Result<PostgresServer, ThrowawayError> {
        let mut server = PostgresServer::prepare(&options)?;
        self.stop().await?;
        server.copy(&self.data_dir()).await?;
        server.write_file("standby.signal", b"")?;
        // The primary starts first: a standby that cannot connect retries only after a minute.
        self.restart().await?;
        server.begin(&options).await?;
        Ok(server)
    }

    fn prepare(options: &Options) -> Result<PostgresServer, ThrowawayError> {
        let binaries = options.binaries.clone().map_or_else(Binaries::find, Ok)?;
        let account = Account::for_server()?;
        let dir = tempfile::Builder::new()
            .prefix("users-sync-pg-")
            .tempdir()
            .map_err(ThrowawayError::io("create a temporary directory"))?;
        give(dir.path(), account)?;
        let mut server = PostgresServer { binaries, account, port: 0, postmaster: None, watchdog: None, dir };
        server.watchdog = Some(server.spawn_watchdog()?);
        Ok(server)
    }

    async fn begin(&mut self, options: &Options) -> Result<(), ThrowawayError> {
        self.write_file("pg_hba.conf", options.pg_hba_conf().as_bytes())?;
        for attempt in 1.. {
            self.port = options.port.map_or_else(free_port, Ok)?;
            let conf = options.postgresql_conf(self.port, self.socket_dir());
            self.write_file("postgresql.conf", conf.as_bytes())?;
            match self.launch().await {
                Err(ThrowawayError::Server { log, .. })
                    if options.port.is_none() && attempt < PORT_ATTEMPTS && log.contains("could not bind") => {}
                other => return other,
            }
        }
        Ok(())
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A connection URL of the superuser.
    pub fn url(&self, database: &str) -> String {
        self.url_for("postgres", database)
    }

    /// A connection URL of another role; `role` may be `name:password`.
    pub fn url_for(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}@127.0.0.1:{}/{database}?sslmode=prefer", self.port)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The process id of the postmaster, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id)
    }

    /// Writes a file that the server owns, such as a certificate, to the data directory. Returns its path.
    pub fn write_file(&self, name: &str, content: &[u8]) -> Result<PathBuf, ThrowawayError> {
        let path = self.data_dir().join(name);
        let what = || format!("write {}", path.display());
        std::fs::write(&path, content).map_err(ThrowawayError::io(what()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(ThrowawayError::io(what()))?;
        give(&path, self.account)?;
        Ok(path)
    }

    /// Connects as the superuser.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, ThrowawayError> {
        let error = |source| ThrowawayError::Sql { what: format!("connect to database {database:?}"), source };
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await.map_err(error)?;
        // The task ends with the client, whose next call reports an error of the connection.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements as the superuser on a new connection.
    pub async fn sql(&self, database: &str, text: &str) -> Result<(), ThrowawayError> {
        let client = self.connect(database).await?;
        let first: String = text.trim().chars().take(80).collect();
        client
            .batch_execute(text)
            .await
            .map_err(|source| ThrowawayError::Sql { what: format!("run {first:?}"), source })
    }

    /// Creates a database.
    pub async fn create_database(&self, name: &str) -> Result<(), ThrowawayError> {
        self.sql("postgres", &format!("CREATE DATABASE {}", crate::pg::quote_ident(name))).await
    }

    /// Fast shutdown: open transactions are rolled back, and a checkpoint is written.
    pub async fn stop(&mut self) -> Result<(), ThrowawayError> {
        self.end(Signal::INT).await
    }

    /// Immediate shutdown: like a crash, but no process is left running.
    pub async fn stop_immediate(&mut self) -> Result<(), ThrowawayError> {
        self.end(Signal::QUIT).await
    }

    /// SIGKILL of the postmaster. Its children exit when they notice.
    pub async fn kill(&mut self) -> Result<(), ThrowawayError> {
        self.end(Signal::KILL).await
    }

    /// Starts the server again with the same port and data, after a fast shutdown if it is running.
    pub async fn restart(&mut self) -> Result<(), ThrowawayError> {
        self.stop().await?;
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match self.launch().await {
                // After SIGKILL the old children may hold the shared memory and the port for a moment.
                Err(ThrowawayError::Server { log, .. })
                    if Instant::now() < deadline
                        && (log.contains("shared memory block") || log.contains("could not bind")) =>
                {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                other => return other,
            }
        }
    }

    /// The last 20 lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// A command that runs as the server's account, in its own process group so that Ctrl-C does not reach it.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).process_group(0);
        // The caller's libpq settings must not apply to this server.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        if let Some(account) = self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    fn spawn_watchdog(&self) -> Result<Child, ThrowawayError> {
        let mut command = self.command(Path::new("/bin/sh"));
        command.current_dir("/").arg("-c").arg(WATCHDOG).arg("sh").arg(self.data_dir()).arg(self.dir.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(ThrowawayError::io("start the watchdog of the server"))
    }

    async fn initdb(&self) -> Result<(), ThrowawayError> {
        let mut command = self.command(&self.binaries.program("initdb"));
        command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        command.arg("-D").arg(self.data_dir()).stdin(Stdio::null());
        let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
        let output = output.map_err(ThrowawayError::io("run initdb"))?;
        if output.status.success() {
            return Ok(());
        }
        let output = [output.stdout, output.stderr].concat();
        Err(ThrowawayError::Initdb(String::from_utf8_lossy(&output).trim_end().to_owned()))
    }

    /// Instead of [`PostgresServer::initdb`].
    async fn copy_template(&self) -> Result<(), ThrowawayError> {
        let template = {
            let mut templates = TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner);
            Template::clone(templates.entry(self.binaries.dir().to_owned()).or_default())
        };
        let make = async || {
            let server = PostgresServer::prepare(&Options::new().binaries(self.binaries.clone()))?;
            server.initdb().await?;
            Ok(server)
        };
        self.copy(&template.get_or_try_init(make).await?.data_dir()).await?;
        identity::renew(&self.data_dir())
    }

    /// Copies a stopped server's data, with its owner.
    async fn copy(&self, data: &Path) -> Result<(), ThrowawayError> {
        let what = || format!("copy {} to {}", data.display(), self.data_dir().display());
        let mut command = Command::new("cp");
        command.arg("-a").arg(data).arg(self.data_dir());
        let copied = tokio::process::Command::from(command).status().await.map_err(ThrowawayError::io(what()))?;
        if copied.success() {
            Ok(())
        } else {
            Err(ThrowawayError::io(what())(std::io::Error::other(copied.to_string())))
        }
    }

    async fn launch(&mut self) -> Result<(), ThrowawayError> {
        let log = std::fs::File::create(self.log_path()).map_err(ThrowawayError::io("create the server's log"))?;
        let errors = log.try_clone().map_err(ThrowawayError::io("share the server's log"))?;
        let mut command = self.command(&self.binaries.program("postgres"));
        command.arg("-D").arg(self.data_dir()).stdin(Stdio::null()).stdout(log).stderr(errors);
        self.postmaster = Some(command.spawn().map_err(ThrowawayError::io("start postgres"))?);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.try_wait()? {
                self.postmaster = None;
                return Err(self.failed(format!("exited during its start ({status})")));
            }
            // Another server may have taken the port since it was found free. Then this one exits soon.
            let error = match self.is_ready().await {
                Ok(true) => return Ok(()),
                Ok(false) => "another server has the port".to_owned(),
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline {
                self.end(Signal::QUIT).await?;
                return Err(self.failed(format!("did not accept a connection ({error})")));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether it is this server that answers at its port.
    async fn is_ready(&self) -> Result<bool, ThrowawayError> {
        let client = self.connect("postgres").await?;
        let sql = "SELECT current_setting('data_directory')";
        let error = |source| ThrowawayError::Sql { what: format!("run {sql:?}"), source };
        let row = client.query_one(sql, &[]).await.map_err(error)?;
        let directory: &str = row.try_get(0).map_err(error)?;
        let real = |path: &Path| std::fs::canonicalize(path).ok();
        Ok(real(Path::new(directory)) == real(&self.data_dir()))
    }

    fn failed(&self, how: String) -> ThrowawayError {
        ThrowawayError::Server { port: self.port, how, log: self.log_tail() }
    }

    fn try_wait(&mut self) -> Result<Option<std::process::ExitStatus>, ThrowawayError> {
        let postmaster = self.postmaster.as_mut();
        postmaster.map_or(Ok(None), Child::try_wait).map_err(ThrowawayError::io("wait for postgres"))
    }

    async fn end(&mut self, signal: Signal) -> Result<(), ThrowawayError> {
        let Some(postmaster) = &self.postmaster else { return Ok(()) };
        send(postmaster, signal);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while self.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(ThrowawayError::WillNotStop { port: self.port, within: STOP_TIMEOUT });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.postmaster = None;
        Ok(())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            send(&postmaster, Signal::QUIT);
            let deadline = Instant::now() + STOP_TIMEOUT;
            while matches!(postmaster.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL_INTERVAL);
            }
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
        if let Some(mut watchdog) = self.watchdog.take() {
            let _ = watchdog.kill();
            let _ = watchdog.wait();
        }
    }
}

/// The child is not reaped yet, so its id cannot belong to another process. A child that has exited is no error.
fn send(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn give(path: &Path, account: Option<Account>) -> Result<(), ThrowawayError> {
    let Some(account) = account else { return Ok(()) };
    chown(path, Some(account.uid), Some(account.gid))
        .map_err(ThrowawayError::io(format!("give {} to the server's account", path.display())))
}

fn free_port() -> Result<u16, ThrowawayError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(listener.map_err(ThrowawayError::io("find a free port"))?.port())
}
