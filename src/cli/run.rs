//! `run`: the service, until a signal comes.

use crate::config::Config;
use std::process::ExitCode;

#[expect(clippy::unused_async, reason = "the service is awaited here")]
pub(super) async fn execute(_config: Config) -> miette::Result<ExitCode> {
    Err(miette::miette!("`run` is not built yet"))
}
