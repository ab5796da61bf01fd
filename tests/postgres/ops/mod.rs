//! What people run beside the process, held against the process: the files in docker/, the alert rules, the board, the
//! runbook, and what the binary says of itself.

mod files;
mod health;
mod metrics;
mod runbook;

use std::path::Path;

/// A file of the repository.
#[track_caller]
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A YAML document as it is.
#[track_caller]
fn yaml(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
