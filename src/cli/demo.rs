//! `users-sync demo`.

use super::failure;
use super::signals::stop_on_signals;
use std::process::ExitCode;
use std::time::Duration;

pub(super) async fn demo(seconds: u64) -> miette::Result<ExitCode> {
    let stop = stop_on_signals().map_err(failure)?;
    crate::demo::run(Duration::from_secs(seconds), stop, &mut std::io::stdout()).await.map_err(failure)?;
    Ok(ExitCode::SUCCESS)
}
