//! SIGTERM and SIGINT: the first signal requests a shutdown, the second ends the process.

use crate::cli::exit::{self, ExitCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Returns a token that the first SIGTERM or SIGINT cancels. A second signal ends the process immediately, which is always
/// safe: the next start repeats uncommitted work.
///
/// # Errors
/// The signal handlers cannot be installed.
pub(super) fn signals() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        loop {
            let number = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate().as_raw_value(),
                _ = interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            };
            if stop.is_cancelled() {
                tracing::warn!("second signal: exiting immediately");
                exit::end(ExitCode::of_signal(number));
            }
            tracing::info!("stopping; a second signal exits immediately");
            stop.cancel();
        }
    });
    Ok(token)
}
