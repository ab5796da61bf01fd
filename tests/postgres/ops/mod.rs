//! The operator's files compared with a real process: docker/, alert rules, board and runbook, and what the binary
//! reports about itself.

mod files;
mod findings;
pub mod health;
mod lights;
mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
mod pages;
#[cfg(feature = "kafka")]
mod queries;
mod runbook;

use std::path::Path;

/// The content of a file of the repository.
#[track_caller]
fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The value of a YAML document.
#[track_caller]
fn yaml(text: &str) -> serde_json::Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
