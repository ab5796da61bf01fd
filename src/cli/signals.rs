//! SIGTERM and SIGINT: the first asks to stop, the second ends the process.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process that a signal ended: 128 and the signal's number.
const ENDED_BY: i32 = 128;

/// A token that is cancelled by the first SIGTERM or SIGINT. The second one ends the process at once, which is safe at
/// any moment: whatever is not committed is done again by the next start.
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
                std::process::exit(ENDED_BY + number);
            }
            tracing::info!("stopping; a second signal exits immediately");
            stop.cancel();
        }
    });
    Ok(token)
}
