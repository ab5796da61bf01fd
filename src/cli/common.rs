//! What several commands share: the argument that names the configuration, and the exit code of a failure.

use crate::config::{Config, load};
use crate::diagnostic::Diagnostic;
use clap::Args;
use std::path::PathBuf;

/// Exit code of a failure or a finding. clap exits with 2 on invalid usage.
pub(super) const FAILED: u8 = 1;

#[derive(Args, Debug)]
pub(super) struct ConfigFile {
    /// Configuration file (YAML).
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

impl ConfigFile {
    pub(super) fn load(&self) -> Result<Config, Diagnostic> {
        Ok(load(&self.config)?)
    }
}
