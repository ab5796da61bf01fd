//! Runs the command that prints a password.

use super::super::password_source::PasswordCommand;
use super::super::{PgUrl, Secret};
use super::output;
use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex as SyncMutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{Instant, timeout};

/// Time limit of one run.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longer outputs are refused.
const MAX_BYTES: u64 = 64 << 10;
/// Commands that run at the same time: a start with a thousand tenants must not start a thousand processes.
const CONCURRENT: usize = 4;

/// A password that is used until a time.
struct Kept {
    password: Secret,
    until: Instant,
}

/// A password of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Password {
    pub(super) password: Secret,
    /// The command has just printed it.
    pub(super) is_new: bool,
}

/// One entry for each command line. Its lock is held while the command runs: others wait for the result.
type Cache = SyncMutex<HashMap<Vec<String>, Arc<Mutex<Option<Kept>>>>>;

static CACHE: LazyLock<Cache> = LazyLock::new(Cache::default);
static RUNNING: Semaphore = Semaphore::const_new(CONCURRENT);

impl PasswordCommand {
    /// # Errors
    /// A message with the program's name, and without any part of its arguments and output.
    pub(super) async fn password(&self, url: &PgUrl) -> Result<Password, String> {
        let arguments = self.arguments_for(url);
        let entry = self.entry(&arguments);
        let mut kept = entry.lock().await;
        if let Some(Kept { password, until }) = &*kept
            && Instant::now() < *until
        {
            return Ok(Password { password: password.clone(), is_new: false });
        }
        *kept = None;
        let output = self.run(&arguments).await.map_err(|why| format!("password_command {}: {why}", self.program))?;
        let until = Instant::now().checked_add(output.lifetime);
        *kept = until.map(|until| Kept { password: output.password.clone(), until });
        Ok(Password { password: output.password, is_new: true })
    }

    /// The next attempt runs the command again.
    pub(super) fn forget(&self, url: &PgUrl) {
        // A command that runs now gives a new password anyway.
        if let Ok(mut kept) = self.entry(&self.arguments_for(url)).try_lock() {
            *kept = None;
        }
    }

    fn arguments_for(&self, url: &PgUrl) -> Vec<String> {
        let PgUrl { host, port, user, database, .. } = url;
        let places = [("{host}", host), ("{port}", &port.to_string()), ("{user}", user), ("{database}", database)];
        let fill = |argument: &String| fill(argument, &places);
        self.arguments.iter().map(fill).collect()
    }

    fn entry(&self, arguments: &[String]) -> Arc<Mutex<Option<Kept>>> {
        let key = std::iter::once(&self.program).chain(arguments).cloned().collect();
        crate::sync::lock(&CACHE).entry(key).or_default().clone()
    }

    async fn run(&self, arguments: &[String]) -> Result<output::Output, String> {
        // It is never closed.
        let _running = RUNNING.acquire().await.map_err(|closed| closed.to_string())?;
        let mut command = Command::new(&self.program);
        // What it prints to stderr may repeat a secret.
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("cannot start it: {error}"))?;
        let stdout = child.stdout.take().ok_or("it has no output")?;
        let ended = async {
            let mut bytes = Vec::new();
            let read = stdout.take(MAX_BYTES + 1).read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
            if u64::try_from(read).is_ok_and(|read| read > MAX_BYTES) {
                return Err("its output is too long".to_owned());
            }
            let status = child.wait().await.map_err(|error| error.to_string())?;
            if status.success() { Ok(bytes) } else { Err(format!("it failed: {status}; run it by hand to see why")) }
        };
        let limit = TIMEOUT.as_secs();
        let bytes =
            timeout(TIMEOUT, ended).await.unwrap_or_else(|_| Err(format!("it did not end within {limit} s")))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        output::parse(&bytes, now).map_err(str::to_owned)
    }
}

/// Replaces the places once: a value that looks like a place stays.
fn fill(argument: &str, places: &[(&str, &String)]) -> String {
    let mut out = String::new();
    let mut rest = argument;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        match places.iter().find_map(|(place, value)| Some((value, from.strip_prefix(place)?))) {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> PasswordCommand {
        PasswordCommand::new(["sh", "-c", script].map(str::to_owned).to_vec()).unwrap()
    }

    #[test]
    fn arguments_contain_the_parts_of_the_url_once() {
        let url = PgUrl::parse("postgres://%7Bhost%7D@db.example:6543/app").unwrap();
        let command = PasswordCommand::new(
            ["aws", "{host}:{port}", "--u={user}", "{x{database}}", "{"].map(str::to_owned).to_vec(),
        );
        assert_eq!(command.unwrap().arguments_for(&url), ["db.example:6543", "--u={host}", "{xapp}", "{"]);
        assert_eq!(PasswordCommand::new(Vec::new()), None);
        assert!(!format!("{:?}", shell("hunter2")).contains("hunter2"));
    }

    #[tokio::test]
    async fn the_password_is_kept_until_the_server_refuses_it() {
        let directory = tempfile::tempdir().unwrap();
        let count = directory.path().join("count");
        let command = shell(&format!("echo x >> {0}; wc -l < {0}", count.display()));
        let url = PgUrl::parse("postgres://u@h/d").unwrap();
        let password = || async {
            let Password { password, is_new } = command.password(&url).await.unwrap();
            (password.0.trim().to_owned(), is_new)
        };
        let (one, two) = tokio::join!(password(), password());
        assert_eq!((one, two), (("1".to_owned(), true), ("1".to_owned(), false)));
        command.forget(&url);
        assert_eq!(password().await, ("2".to_owned(), true));
    }

    #[tokio::test]
    async fn a_failure_names_the_program_and_no_output() {
        let url = PgUrl::parse("postgres://u@h/d").unwrap();
        for (command, words) in [
            (shell("echo hunter2; echo hunter2 >&2; exit 3"), "it failed: exit status: 3"),
            (shell("true"), "it prints no password"),
            (shell("yes hunter2"), "its output is too long"),
            (
                PasswordCommand::new(vec!["/nowhere/get-password".to_owned()]).unwrap(),
                "/nowhere/get-password: cannot start it",
            ),
        ] {
            let error = command.password(&url).await.unwrap_err();
            assert!(error.contains(words) && !error.contains("hunter2"), "{error}");
        }
    }
}
