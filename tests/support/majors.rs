//! Servers of a given PostgreSQL major, whatever the machine has.

use std::process::Command;
use users_sync::throwaway::{Binaries, Options};

/// The programs of this major, fetched if necessary.
pub fn binaries(major: u32) -> Binaries {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/.ci/postgres")).arg(major.to_string()).output().unwrap();
    let dir = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Binaries::at(dir.trim()).unwrap()
}

/// The machine's own programs, or those of a later major if a test needs its features.
pub fn at_least(major: u32) -> Options {
    let found = Command::new(Binaries::find().unwrap().program("postgres")).arg("--version").output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    let number = found.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    if number.unwrap() >= major { Options::new() } else { Options::new().binaries(binaries(major)) }
}
