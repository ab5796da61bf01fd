//! A resync that another task, or another process, is asked for: by way of the state, where the process that follows
//! finds it.

use crate::state::{StateError, StateStore};
use std::time::Duration;
use tokio::time::sleep;
use tokio_postgres::Client;

/// How often it is looked whether everybody is done.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All were done, or parked over it; the state says what became of each.
    Over,
    /// The process that was asked is gone, and nothing is asked any more.
    Abandoned,
}

/// Asks the process that holds the slot to resync these tenants, and waits until it has answered for each of them: it takes a
/// request away once that is done, or the tenant is parked over it. Whoever stops waiting leaves what was asked.
pub async fn ask_for_resync(
    client: &Client,
    slot: &str,
    tenants: &[&str],
    allow_deletes: bool,
) -> Result<Asked, StateError> {
    let ids = StateStore::request_resync(client, slot, tenants, allow_deletes).await?;
    loop {
        sleep(LOOK_EVERY).await;
        if StateStore::open_requests(client, &ids).await?.is_empty() {
            return Ok(Asked::Over);
        }
        let state = StateStore::read(client, slot).await?;
        if !state.source.is_some_and(|source| source.is_held()) {
            // Left there, it would admit deletes some day when nobody thinks of it any more.
            StateStore::withdraw_requests(client, &ids).await?;
            return Ok(Asked::Abandoned);
        }
    }
}
