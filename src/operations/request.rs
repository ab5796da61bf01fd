//! Requests to the process that holds the slot, through the state.

use crate::state::{RequestKind, StateError, StateStore};
use std::time::Duration;
use tokio::time::sleep;
use tokio_postgres::Client;

/// How often the requests are checked for completion.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    /// The process has served each request, or parked the tenant instead. The state says which.
    Served,
    /// The process has ended. The requests are withdrawn.
    Abandoned,
}

/// Makes a request for each of these tenants, and waits until the process has removed it, which it does once the request is
/// served or the tenant is parked. A caller that stops waiting leaves the requests in place.
pub(crate) async fn request(
    client: &Client,
    slot: &str,
    tenants: &[&str],
    kind: &RequestKind,
) -> Result<RequestEnd, StateError> {
    let ids = StateStore::request(client, slot, tenants, kind).await?;
    loop {
        sleep(POLL_INTERVAL).await;
        if StateStore::open_requests(client, &ids).await? == 0 {
            return Ok(RequestEnd::Served);
        }
        let state = StateStore::read(client, slot).await?;
        if !state.source.is_some_and(|source| source.is_held()) {
            // A stale request would permit mass deletes at the next resync.
            StateStore::withdraw_requests(client, &ids).await?;
            return Ok(RequestEnd::Abandoned);
        }
    }
}
