//! Whether a process of this installation is alive, also one without a session on the source.

use crate::pg::PgClient;
use crate::state::{StateError, StateStore};
use std::time::Duration;
use tokio::time::sleep;

/// Interval at which the state is read.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// The name of a process that is alive. One that has been killed leaves its last sign of life behind: this waits until
/// there is a newer one, or until that one is as old as a lease.
///
/// # Errors
/// The state cannot be read.
pub(crate) async fn living_process(state: &PgClient, slot: &str) -> Result<Option<String>, StateError> {
    let first = StateStore::seen_processes(state, slot).await?;
    let mut seen = first.clone();
    while !seen.is_empty() {
        sleep(POLL_INTERVAL).await;
        seen = StateStore::seen_processes(state, slot).await?;
        if let Some(alive) = seen.iter().find(|process| !first.contains(process)) {
            return Ok(Some(alive.name.clone()));
        }
    }
    Ok(None)
}
