//! users-sync as a separate process that tests kill, freeze and measure.

use super::{Bed, DEADLINE, pause};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;
use tempfile::NamedTempFile;

pub struct Process {
    child: Child,
}

/// A configuration file for a bed's tenants. `source` and `targets` are URLs, so that a proxy can stand in between.
pub fn config_file(source: &str, targets: &[(String, String)], more: &str) -> NamedTempFile {
    let mut yaml = format!(
        "source: {{url: '{source}'}}\n\
         users: {{table: auth.users, id: id, name: {{join: [first_name, last_name]}}, email: email, \
         created_at: created_at, updated_at: updated_at, deleted_at: deleted_at, tenant: org}}\n{more}\ntenants:\n"
    );
    for (id, url) in targets {
        yaml.push_str(&format!("- {{id: {id}, target: '{url}'}}\n"));
    }
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    file
}

impl Bed {
    pub fn config_file(&self, more: &str) -> NamedTempFile {
        let targets: Vec<_> = self.tenants.iter().map(|tenant| (tenant.clone(), self.server.url(tenant))).collect();
        config_file(&self.server.url("auth"), &targets, more)
    }
}

impl Process {
    /// `users-sync run` with its log in the test's output.
    pub fn start(config: &NamedTempFile) -> Process {
        Process::start_at(config.path())
    }

    pub fn start_at(config: &Path) -> Process {
        Process::start_with(config, Stdio::inherit(), &[], &level())
    }

    /// With its log in a file.
    pub fn start_logged(config: impl AsRef<Path>) -> (Process, Log) {
        Process::start_logged_at(config, &level())
    }

    /// With another log level.
    pub fn start_logged_at(config: impl AsRef<Path>, level: &str) -> (Process, Log) {
        Process::start_logged_with(config, &[], level)
    }

    pub fn start_logged_with(config: impl AsRef<Path>, arguments: &[&str], level: &str) -> (Process, Log) {
        let log = Log { file: NamedTempFile::new().unwrap() };
        let stderr = log.file.reopen().unwrap();
        (Process::start_with(config.as_ref(), Stdio::from(stderr), arguments, level), log)
    }

    /// `users-sync apply`, with its log in a file.
    pub fn apply(config: impl AsRef<Path>) -> (Process, Log) {
        let log = Log { file: NamedTempFile::new().unwrap() };
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        command.args(["apply", "-c"]).arg(config.as_ref()).env("RUST_LOG", level()).stdin(Stdio::null());
        command.stderr(Stdio::from(log.file.reopen().unwrap()));
        (Process::spawn(command), log)
    }

    /// With these variables in its environment.
    pub fn start_logged_in(config: impl AsRef<Path>, variables: &[(&str, &str)], level: &str) -> (Process, Log) {
        let log = Log { file: NamedTempFile::new().unwrap() };
        let mut command = run(config.as_ref(), level);
        command.envs(variables.iter().copied()).stderr(Stdio::from(log.file.reopen().unwrap()));
        (Process::spawn(command), log)
    }

    fn start_with(config: &Path, stderr: Stdio, arguments: &[&str], level: &str) -> Process {
        let mut command = run(config, level);
        command.args(arguments).stderr(stderr);
        Process::spawn(command)
    }

    /// A command that runs until it is stopped.
    pub fn spawn(mut command: Command) -> Process {
        Process { child: command.spawn().unwrap() }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM. Returns the exit status.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not stop");
            pause().await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// The peak resident memory in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// The command `run`.
fn run(config: &Path, level: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
    command.args(["run", "-c"]).arg(config).env("RUST_LOG", level).stdin(Stdio::null());
    command
}

fn level() -> String {
    std::env::var("RUST_LOG").unwrap_or_else(|_| "users_sync=info".to_owned())
}

/// The log of a process.
pub struct Log {
    file: NamedTempFile,
}

impl Log {
    pub fn text(&self) -> String {
        std::fs::read_to_string(self.file.path()).unwrap()
    }

    /// Waits until a line contains this.
    #[track_caller]
    pub fn says<'a>(&'a self, words: &'a str) -> impl Future<Output = ()> + 'a {
        self.says_times(words, 1)
    }

    /// Waits until the log contains this at least `count` times. The process logs what it did after others can see it:
    /// a test that has seen the effect may still be ahead of the line.
    #[track_caller]
    pub fn says_times<'a>(&'a self, words: &'a str, count: usize) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + DEADLINE;
            while self.text().matches(words).count() < count {
                assert!(Instant::now() < deadline, "{caller}: no {count} lines contain {words:?} in\n{}", self.text());
                pause().await;
            }
        }
    }
}

impl Drop for Log {
    /// A test that fails shows what the process said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the process:\n{}", self.text());
        }
    }
}

/// Runs another command of users-sync to its end.
pub async fn command(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_users-sync"));
    let running = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    tokio::time::timeout(DEADLINE, running).await.expect("it goes on").unwrap()
}

/// The output of a command, and its exit code.
pub fn said(output: &Output) -> (String, Option<i32>) {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (text.concat(), output.status.code())
}

/// Runs the remedy `users-sync adopt -c FILE TENANT` as printed, and answers yes to its questions.
pub async fn adopts(remedy: &str, config: &Path) {
    let config = config.to_str().unwrap();
    let words = remedy.strip_prefix("users-sync ").unwrap().split(' ');
    let arguments = words.map(|word| if word == "FILE" { config } else { word }).chain(["--allow-deletes", "--yes"]);
    let arguments: Vec<&str> = arguments.collect();
    let (text, code) = said(&command(&arguments).await);
    assert!(code == Some(0) && text.contains("adopted"), "{text}");
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
