//! Backpressure: what becomes of a tenant for which more waits than may.

use crate::model::RestartSignal;
use crate::replicator::session::context::SessionContext;
use crate::state::TenantState;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Of the time in which the reading has not caught up.
const MOST: f64 = 0.8;
/// While one tenant alone is waited for: others may have begun to follow.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long the reading has stood still for each tenant since it had caught up with the source: many short waits hold up the
/// others as one long one does.
#[derive(Default)]
pub(crate) struct Stalls {
    since: Option<Instant>,
    waited: HashMap<usize, Duration>,
}

impl Stalls {
    /// It has caught up.
    pub(crate) fn clear(&mut self) {
        self.since = None;
        self.waited.clear();
    }

    /// Whether it stood still for this tenant longer than `stall`, and hardly did anything else meanwhile: one that just gets
    /// many changes takes them as fast as they are read, more or less.
    fn add(&mut self, index: usize, begun: Instant, stall: Duration) -> bool {
        let since = *self.since.get_or_insert(begun);
        let waited = self.waited.entry(index).or_default();
        *waited += begun.elapsed();
        *waited > stall && *waited > since.elapsed().mul_f64(MOST)
    }
}

/// Waits while the tenant is over its budget, or all of them together are over theirs.
pub(crate) async fn wait_for_room(context: &SessionContext, index: usize, stalls: &mut Stalls) {
    let stall = context.config.limits.stall;
    let deadline = Instant::now() + stall;
    while let Some(crowded) = crowded(context, index) {
        let begun = Instant::now();
        wait_for_capacity(context, crowded, deadline).await;
        let lane = context.lanes.get(crowded);
        let takes_part = lane.state() == TenantState::Following && !lane.mailbox.is_interrupted();
        if stalls.add(crowded, begun, stall) && takes_part && holds_up_others(context, crowded) {
            context.interrupt(crowded, RestartSignal::OverBudget);
        }
    }
}

/// Whether anybody else follows.
fn holds_up_others(context: &SessionContext, index: usize) -> bool {
    let lanes = context.lanes.all();
    let mut others = lanes.iter().enumerate().filter(|(other, _)| *other != index);
    others.any(|(_, lane)| lane.state() == TenantState::Following)
}

/// Who has to give: the tenant itself, or the one with the most where all together have too much.
fn crowded(context: &SessionContext, index: usize) -> Option<usize> {
    let lanes = context.lanes.all();
    match (lanes[index].mailbox.over_budget(), context.memory.is_over()) {
        (true, _) => Some(index),
        (false, true) => (0..lanes.len()).max_by_key(|index| lanes[*index].mailbox.bytes()),
        (false, false) => None,
    }
}

/// The reading waits as long as the target takes rows and nobody else has waited for it past the deadline. A target that
/// is away takes none: nobody waits for it.
async fn wait_for_capacity(context: &SessionContext, index: usize, deadline: Instant) {
    let lanes = context.lanes.all();
    let lane = &lanes[index];
    if !holds_up_others(context, index) {
        // It holds up nobody; its own task parks it once its target has been away for too long.
        let _ = timeout(LOOK_AGAIN, lane.mailbox.drained()).await;
        return;
    }
    let is_late = lane.is_away() || timeout_at(deadline, lane.mailbox.drained()).await.is_err();
    if is_late && crowded(context, index) == Some(index) {
        context.interrupt(index, RestartSignal::OverBudget);
    }
}
