//! `demo --stay` as a separate process.

use super::process::Process;
use super::{DEADLINE, pause};
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Instant;
use tempfile::{NamedTempFile, TempDir};

/// A running demo.
pub struct Demo {
    pub process: Process,
    output: NamedTempFile,
    /// The servers' directories are in here.
    pub directory: TempDir,
    /// Where the page and the console are.
    pub at: SocketAddr,
}

impl Demo {
    pub async fn start(arguments: &[&str]) -> Demo {
        let directory = tempfile::tempdir().unwrap();
        // The servers run as another account if this is root.
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let output = NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        command.args(["demo", "--stay"]).args(arguments).env("TMPDIR", directory.path()).stdin(Stdio::null());
        command.stdout(output.reopen().unwrap()).stderr(output.reopen().unwrap());
        let process = Process::spawn(command);
        let at = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut demo = Demo { process, output, directory, at };
        let page = demo.says("/demo").await;
        let line = page.lines().find(|line| line.ends_with("/demo")).unwrap();
        demo.at = line.trim().strip_prefix("http://").unwrap().strip_suffix("/demo").unwrap().parse().unwrap();
        demo
    }

    pub fn text(&self) -> String {
        std::fs::read_to_string(self.output.path()).unwrap()
    }

    /// Waits until the output has whole lines with these words.
    pub async fn says(&mut self, words: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let text = self.text();
            if text.split_inclusive('\n').any(|line| line.contains(words) && line.ends_with('\n')) {
                return text;
            }
            assert!(self.process.is_running() && Instant::now() < deadline, "no {words:?} in\n{text}");
            pause().await;
        }
    }
}
