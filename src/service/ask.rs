//! A resync that another task, or another process, is asked for: by way of the state, where the process that follows
//! finds it.

use crate::model::TenantId;
use crate::state::{StateError, StateStore, TenantState};
use std::time::Duration;
use tokio::time::{Instant, sleep};
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

/// Asks the process that holds the slot to resync these tenants, and waits until each of them is done, or parked over it.
/// Whoever stops waiting leaves what was asked.
pub async fn ask_for_resync(
    client: &Client,
    slot: &str,
    tenants: &[&str],
    allow_deletes: bool,
) -> Result<Asked, StateError> {
    let asked = Instant::now();
    let ids = StateStore::request_resync(client, slot, tenants, allow_deletes).await?;
    loop {
        sleep(LOOK_EVERY).await;
        let open = StateStore::open_requests(client, &ids).await?;
        let state = StateStore::read(client, slot).await?;
        let since_asked = asked.elapsed().as_secs_f64();
        let is_parked = |tenant: &TenantId| {
            let row = state.tenants.get(tenant);
            row.is_some_and(|row| row.state == TenantState::Parked && row.since_seconds < since_asked)
        };
        let is_held = state.source.is_some_and(|source| source.is_held());
        if open.iter().all(|request| is_parked(&request.tenant)) || !is_held {
            // Left there, it would admit deletes some day when nobody thinks of it any more.
            StateStore::withdraw_requests(client, &ids).await?;
            return Ok(if is_held { Asked::Over } else { Asked::Abandoned });
        }
    }
}
