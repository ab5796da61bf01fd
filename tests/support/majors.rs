//! Servers of a certain PostgreSQL major, whatever the machine has.

use std::process::Command;
use users_sync::throwaway::Binaries;

/// Its programs, fetched where that has not been done yet.
pub fn binaries(major: u32) -> Binaries {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(format!("{root}/.ci/postgres")).arg(major.to_string()).output().unwrap();
    let dir = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Binaries::at(dir.trim()).unwrap()
}
