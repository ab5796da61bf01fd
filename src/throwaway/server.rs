//! One throwaway server: its directory, its process, and the watchdog that ends it should we be killed.

use super::binaries::{Account, Binaries};
use super::error::ThrowawayError;
use rustix::process::{Pid, Signal, kill_process};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio_postgres::NoTls;

/// A start includes recovery after a crash of a loaded server; nothing that works takes this long.
const START_WITHIN: Duration = Duration::from_secs(60);
/// The server itself gives its backends five seconds before it kills them (SIGKILL_CHILDREN_AFTER_SECS).
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How long a poll waits between two looks.
const POLL: Duration = Duration::from_millis(5);
/// Another process can take a free port between our look and the server's bind; so often we look again.
const PORT_ATTEMPTS: usize = 5;

/// Kept on a pipe from us, whose end it sees however we die; then it ends the server and its directory.
/// `$1` is the data directory, `$2` the directory that goes.
const WATCHDOG: &str = r#"read -r _; pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then kill -QUIT "$pid" 2>/dev/null
  i=0; while kill -0 "$pid" 2>/dev/null && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done; fi
rm -rf "$2""#;

/// How a throwaway server differs from the default: logical replication on, trust for everybody on loopback.
#[derive(Clone, Debug)]
pub struct Options {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    auth: String,
    port: Option<u16>,
    binaries: Option<Binaries>,
}

impl Default for Options {
    fn default() -> Self {
        Options { settings: Vec::new(), hba: Vec::new(), auth: "trust".to_owned(), port: None, binaries: None }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Options {
        Options::default()
    }

    /// A setting for `postgresql.conf`; a later one wins over an earlier one and over the defaults.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Options {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A fixed port instead of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Options {
        self.port = Some(port);
        self
    }

    /// Other programs than those that are found.
    #[must_use]
    pub fn binaries(mut self, binaries: Binaries) -> Options {
        self.binaries = Some(binaries);
        self
    }

    /// How roles other than `postgres` prove who they are (`scram-sha-256`, `md5`, `password`, ...).
    #[must_use]
    pub fn auth(mut self, method: &str) -> Options {
        self.auth = method.to_owned();
        self
    }

    /// A line for the top of `pg_hba.conf`.
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

/// A running server that goes, with its directory, when it is dropped, and also when this process is killed.
#[derive(Debug)]
pub struct PostgresServer {
    binaries: Binaries,
    account: Option<Account>,
    port: u16,
    postmaster: Option<Child>,
    watchdog: Option<Child>,
    // Last, so that it is removed once the processes are gone.
    dir: TempDir,
}

impl PostgresServer {
    /// Makes a cluster, starts it, and returns once it accepts connections.
    pub async fn start(options: Options) -> Result<PostgresServer, ThrowawayError> {
        let mut server = PostgresServer::prepare(&options)?;
        server.initdb().await?;
        server.begin(&options).await?;
        Ok(server)
    }

    /// Starts a standby on a copy of this server's data. It stops for that, since the copy is whole then without more
    /// ado. `options` hold `primary_conninfo`.
    pub async fn standby(&mut self, options: Options) -> Result<PostgresServer, ThrowawayError> {
        let mut server = PostgresServer::prepare(&options)?;
        self.stop().await?;
        let mut command = Command::new("cp");
        command.arg("-a").arg(self.data_dir()).arg(server.data_dir());
        let copied = tokio::process::Command::from(command).status().await;
        copied.map_err(ThrowawayError::io("copy the primary's data"))?;
        server.write_file("standby.signal", b"")?;
        // First the primary: who finds nobody there tries again only after a minute.
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
            .map_err(ThrowawayError::io("make a temporary directory"))?;
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

    /// A URL of the superuser for a database.
    pub fn url(&self, database: &str) -> String {
        self.url_for("postgres", database)
    }

    /// A URL of another role for a database; `role` may be `name:password`.
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

    /// Writes a file into the data directory as the server's own (a certificate, say); returns its path.
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
        // It ends with the client; what goes wrong on it the client's next call reports.
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements as the superuser, on a connection of their own.
    pub async fn sql(&self, database: &str, text: &str) -> Result<(), ThrowawayError> {
        let client = self.connect(database).await?;
        let first: String = text.trim().chars().take(80).collect();
        client
            .batch_execute(text)
            .await
            .map_err(|source| ThrowawayError::Sql { what: format!("run {first:?}"), source })
    }

    /// Makes a database.
    pub async fn create_database(&self, name: &str) -> Result<(), ThrowawayError> {
        self.sql("postgres", &format!("CREATE DATABASE {}", crate::pg::quote_ident(name))).await
    }

    /// Fast shutdown: transactions are rolled back, connections closed, everything is written out.
    pub async fn stop(&mut self) -> Result<(), ThrowawayError> {
        self.end(Signal::INT).await
    }

    /// Immediate shutdown: as a crash, but no process stays behind.
    pub async fn stop_immediate(&mut self) -> Result<(), ThrowawayError> {
        self.end(Signal::QUIT).await
    }

    /// kill -9 of the postmaster; its children follow as soon as they notice.
    pub async fn kill(&mut self) -> Result<(), ThrowawayError> {
        self.end(Signal::KILL).await
    }

    /// Starts it again on the same port and data, after a fast stop if it still runs.
    pub async fn restart(&mut self) -> Result<(), ThrowawayError> {
        self.stop().await?;
        let deadline = Instant::now() + START_WITHIN;
        loop {
            match self.launch().await {
                // After kill -9 the old children may hold the shared memory, and the port, for a moment.
                Err(ThrowawayError::Server { log, .. })
                    if Instant::now() < deadline
                        && (log.contains("shared memory block") || log.contains("could not bind")) =>
                {
                    tokio::time::sleep(POLL).await;
                }
                other => return other,
            }
        }
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// A command that runs as the server's account, in a process group of its own: ctrl-C is for us alone.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).process_group(0);
        // The caller's libpq settings are not this server's.
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
        let said = [output.stdout, output.stderr].concat();
        Err(ThrowawayError::Initdb(String::from_utf8_lossy(&said).trim_end().to_owned()))
    }

    async fn launch(&mut self) -> Result<(), ThrowawayError> {
        let log = std::fs::File::create(self.log_path()).map_err(ThrowawayError::io("make the server's log"))?;
        let errors = log.try_clone().map_err(ThrowawayError::io("share the server's log"))?;
        let mut command = self.command(&self.binaries.program("postgres"));
        command.arg("-D").arg(self.data_dir()).stdin(Stdio::null()).stdout(log).stderr(errors);
        self.postmaster = Some(command.spawn().map_err(ThrowawayError::io("start postgres"))?);
        let deadline = Instant::now() + START_WITHIN;
        loop {
            if let Some(status) = self.try_wait()? {
                self.postmaster = None;
                return Err(self.failed(format!("ended at once ({status})")));
            }
            // A backend of an earlier postmaster cannot answer: only the one that owns the port accepts.
            match self.connect("postgres").await {
                Ok(_) => return Ok(()),
                Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                Err(error) => {
                    self.end(Signal::QUIT).await?;
                    return Err(self.failed(format!("accepted no connection ({error})")));
                }
            }
        }
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
        let deadline = Instant::now() + STOP_WITHIN;
        while self.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(ThrowawayError::WillNotStop { port: self.port, within: STOP_WITHIN });
            }
            tokio::time::sleep(POLL).await;
        }
        self.postmaster = None;
        Ok(())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            send(&postmaster, Signal::QUIT);
            let deadline = Instant::now() + STOP_WITHIN;
            while matches!(postmaster.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(POLL);
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

/// Not reaped yet, so the id cannot be another process's. A process that is gone already is what we want.
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
