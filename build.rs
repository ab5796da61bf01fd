//! Which commit this is built from, for `users-sync --version` and the metrics: what USERS_SYNC_COMMIT says, else what git
//! says, else `unknown` (a tarball has no git).

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=USERS_SYNC_COMMIT");
    let said = std::env::var("USERS_SYNC_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = said.or_else(from_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=USERS_SYNC_COMMIT={commit}");
}

fn from_git() -> Option<String> {
    // Unpacked inside of another repository, that one's commit says nothing.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // It grows with every commit and checkout. A file that is not there would mean to look at every build.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
