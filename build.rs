//! Sets USERS_SYNC_COMMIT, the commit shown by `users-sync --version` and the metrics: from the environment, else from git,
//! else `unknown` (a tarball has no git).

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=USERS_SYNC_COMMIT");
    let given = std::env::var("USERS_SYNC_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(from_git).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=USERS_SYNC_COMMIT={commit}");
}

fn from_git() -> Option<String> {
    // A tarball unpacked inside another repository must not report that repository's commit.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    // The log grows with every commit and checkout. Cargo would rerun this script at every build for a missing file.
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
