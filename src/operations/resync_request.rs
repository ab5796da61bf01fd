//! Requests a resync from the process that holds the slot, through the state.

use crate::model::ExtraRows;
use crate::state::{StateError, StateStore};
use std::time::Duration;
use tokio::time::sleep;
use tokio_postgres::Client;

/// How often the requests are checked for completion.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResyncOutcome {
    /// Each tenant was resynced, or parked instead. The state says which.
    Finished,
    /// The process has ended. The requests are withdrawn.
    Abandoned,
}

/// Requests a resync of these tenants and waits until the process has removed each request, which it does once the tenant
/// follows or is parked. A caller that stops waiting leaves the requests in place.
pub(crate) async fn request_resync(
    client: &Client,
    slot: &str,
    tenants: &[&str],
    allow_deletes: bool,
    adopt: Option<ExtraRows>,
) -> Result<ResyncOutcome, StateError> {
    let ids = StateStore::request_resync(client, slot, tenants, allow_deletes, adopt).await?;
    loop {
        sleep(POLL_INTERVAL).await;
        if StateStore::open_requests(client, &ids).await?.is_empty() {
            return Ok(ResyncOutcome::Finished);
        }
        let state = StateStore::read(client, slot).await?;
        if !state.source.is_some_and(|source| source.is_held()) {
            // A stale request would permit mass deletes at the next resync.
            StateStore::withdraw_requests(client, &ids).await?;
            return Ok(ResyncOutcome::Abandoned);
        }
    }
}
