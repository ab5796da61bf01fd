//! SIGTERM and SIGINT: the first signal requests a shutdown, the second ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Base of the exit code after a signal: shells report 128 plus the signal's number.
const SIGNAL_EXIT_BASE: i32 = 128;

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
                std::process::exit(SIGNAL_EXIT_BASE + number);
            }
            tracing::info!("stopping; a second signal exits immediately");
            stop.cancel();
        }
    });
    Ok(token)
}
