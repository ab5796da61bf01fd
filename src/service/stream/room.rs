//! Backpressure: what becomes of a tenant for which more waits than may.

use crate::route::Interrupt;
use crate::service::shared::Shared;
use crate::state::TenantState;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// While one tenant alone is waited for: others may have begun to follow.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Waits while the tenant is over its budget, or all of them together are over theirs.
pub(super) async fn wait_for_room(shared: &Shared, index: usize) {
    let deadline = Instant::now() + shared.config.limits.stall;
    while let Some(crowded) = crowded(shared, index) {
        make_room(shared, crowded, deadline).await;
    }
}

/// Who has to give: the tenant itself, or the one with the most where all together have too much.
fn crowded(shared: &Shared, index: usize) -> Option<usize> {
    let lanes = shared.lanes.all();
    match (lanes[index].mailbox.over_budget(), shared.memory.is_over()) {
        (true, _) => Some(index),
        (false, true) => (0..lanes.len()).max_by_key(|index| lanes[*index].mailbox.bytes()),
        (false, false) => None,
    }
}

/// The reading waits as long as the target takes rows and nobody else has waited for it past the deadline. A target that
/// is away takes none: nobody waits for it.
async fn make_room(shared: &Shared, index: usize, deadline: Instant) {
    let lanes = shared.lanes.all();
    let lane = &lanes[index];
    let mut others = lanes.iter().enumerate().filter(|(other, _)| *other != index);
    if !others.any(|(_, lane)| lane.state() == TenantState::Following) {
        // It holds up nobody; its own task parks it once its target has been away for too long.
        let _ = timeout(LOOK_AGAIN, lane.mailbox.drained()).await;
        return;
    }
    let is_late = lane.is_away() || timeout_at(deadline, lane.mailbox.drained()).await.is_err();
    if is_late && crowded(shared, index) == Some(index) {
        shared.interrupt(index, Interrupt::OverBudget);
    }
}
