//! Pauses and resumes tenants through the state, whether a process runs or not.

use super::request::request;
use crate::model::TenantId;
use crate::state::{Pause, RequestKind, StateError, StateStore, TenantRow};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

/// How often the state is checked for what the process has done.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Time for the process to finish its current batches, and to notice that a tenant is resumed.
const SERVED_WITHIN: Duration = Duration::from_secs(20);
/// Longest reason, in characters.
const MAX_REASON: usize = 500;

/// The tenants after an attempt to pause or resume them.
pub(crate) struct PauseOutcome {
    /// Whether a process replicates.
    pub(crate) is_held: bool,
    pub(crate) tenants: Vec<TenantOutcome>,
}

/// One tenant.
pub(crate) struct TenantOutcome {
    pub(crate) tenant: TenantId,
    /// Whether this changed it: otherwise it was paused already, or not paused.
    pub(crate) is_changed: bool,
    /// Its row; `None` if no process has started the tenant yet.
    pub(crate) row: Option<TenantRow>,
    /// Its pause, if it is paused.
    pub(crate) pause: Option<Pause>,
}

/// Why a reason for a pause cannot be used; `None` if it can.
pub(crate) fn refuse_reason(reason: &str) -> Option<String> {
    if reason.trim().is_empty() {
        return Some("the reason of a pause must not be empty".to_owned());
    }
    let length = reason.chars().count();
    (length > MAX_REASON || reason.contains('\0'))
        .then(|| format!("the reason of a pause has {length} characters; allowed are {MAX_REASON}, without U+0000"))
}

/// Pauses these tenants. If a process replicates, waits until it writes nothing to their targets any more.
pub(crate) async fn pause(
    client: &Client,
    slot: &str,
    tenants: &[TenantId],
    reason: &str,
    by: &str,
) -> Result<PauseOutcome, StateError> {
    let before = StateStore::read(client, slot).await?;
    let changed = if before.source.is_some() {
        StateStore::pause(client, slot, &names(tenants), reason.trim(), by).await?
    } else {
        Vec::new()
    };
    let deadline = Instant::now() + SERVED_WITHIN;
    loop {
        let outcome = outcome(client, slot, tenants, &changed).await?;
        let is_effective = |tenant: &TenantOutcome| tenant.pause.as_ref().is_none_or(|pause| pause.is_effective);
        if !outcome.is_held || Instant::now() > deadline || outcome.tenants.iter().all(is_effective) {
            return Ok(outcome);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Resumes these tenants. The process that replicates tries them again at once, also those that were not paused.
pub(crate) async fn resume(client: &Client, slot: &str, tenants: &[TenantId]) -> Result<PauseOutcome, StateError> {
    let before = StateStore::read(client, slot).await?;
    let Some(source) = &before.source else { return outcome(client, slot, tenants, &[]).await };
    let changed = StateStore::end_pause(client, slot, &names(tenants)).await?;
    if source.is_held() {
        // One that is not served in time stays in the state.
        if let Ok(served) = timeout(SERVED_WITHIN, request(client, slot, &names(tenants), &RequestKind::Resume)).await {
            served?;
        }
    }
    outcome(client, slot, tenants, &changed).await
}

async fn outcome(
    client: &Client,
    slot: &str,
    tenants: &[TenantId],
    changed: &[TenantId],
) -> Result<PauseOutcome, StateError> {
    let mut known = StateStore::read(client, slot).await?;
    let tenants = tenants.iter().map(|tenant| TenantOutcome {
        tenant: tenant.clone(),
        is_changed: changed.contains(tenant),
        row: known.tenants.remove(tenant),
        pause: known.pauses.remove(tenant),
    });
    let tenants = tenants.collect();
    Ok(PauseOutcome { is_held: known.source.is_some_and(|source| source.is_held()), tenants })
}

fn names(tenants: &[TenantId]) -> Vec<&str> {
    tenants.iter().map(TenantId::as_str).collect()
}
