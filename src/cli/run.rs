//! `users-sync run`.

use super::failure;
use super::signals::stop_on_signals;
use crate::{config, service};
use std::path::Path;
use std::process::ExitCode;

pub(super) async fn run(file: &Path) -> miette::Result<ExitCode> {
    let config = config::load(file)?;
    let stop = stop_on_signals().map_err(failure)?;
    service::run(config, stop).await.map_err(failure)?;
    Ok(ExitCode::SUCCESS)
}
