//! Backpressure: when reading waits for a tenant over its memory budget, and when the tenant is interrupted instead.

use crate::model::{RestartSignal, TenantIdx};
use crate::replicator::session::context::SessionContext;
use crate::state::TenantState;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// A tenant stalls reading if its waits are more than this share of the time since reading had caught up.
const STALL_RATIO: f64 = 0.8;
/// Wait for a tenant that is alone. Other tenants may have become up to date by then.
const LONE_TENANT_WAIT: Duration = Duration::from_secs(1);

/// How long reading has waited for each tenant since it had caught up with the source. Many short waits delay the other
/// tenants as much as one long wait does.
#[derive(Default)]
pub(crate) struct Stalls {
    since: Option<Instant>,
    waited: HashMap<TenantIdx, Duration>,
}

impl Stalls {
    /// Reading has caught up.
    pub(crate) fn clear(&mut self) {
        self.since = None;
        self.waited.clear();
    }

    /// Adds a wait. Returns whether the tenant has caused waits longer than `stall` and for most of the time. A healthy
    /// tenant with many changes takes them about as fast as the stream brings them, so its waits are a small share.
    fn add(&mut self, index: TenantIdx, begun: Instant, stall: Duration) -> bool {
        let since = *self.since.get_or_insert(begun);
        let waited = self.waited.entry(index).or_default();
        *waited += begun.elapsed();
        *waited > stall && *waited > since.elapsed().mul_f64(STALL_RATIO)
    }
}

/// Waits while the tenant is over its budget, or all tenants together are over theirs.
pub(crate) async fn wait_for_room(context: &SessionContext, index: TenantIdx, stalls: &mut Stalls) {
    let stall = context.config.limits.stall;
    let deadline = Instant::now() + stall;
    while let Some(index) = over_budget(context, index) {
        let begun = Instant::now();
        wait_until_drained(context, index, deadline).await;
        let tenant = context.tenants.get(index);
        let is_following = tenant.state() == TenantState::Following && !tenant.mailbox.is_interrupted();
        if stalls.add(index, begun, stall) && is_following && delays_others(context, index) {
            context.interrupt(index, RestartSignal::OverBudget);
        }
    }
}

/// Whether another tenant follows the stream.
fn delays_others(context: &SessionContext, index: TenantIdx) -> bool {
    let tenants = context.tenants.all();
    let mut others = tenants.iter().filter(|(other, _)| *other != index);
    others.any(|(_, tenant)| tenant.state() == TenantState::Following)
}

/// The tenant that has to shrink: the given one, or the largest if all together are over budget.
fn over_budget(context: &SessionContext, index: TenantIdx) -> Option<TenantIdx> {
    let tenants = context.tenants.all();
    if tenants[index].mailbox.over_budget() {
        return Some(index);
    }
    if context.memory.is_over() {
        return tenants.indexes().max_by_key(|index| tenants[*index].mailbox.bytes());
    }
    None
}

/// Waits while the target takes rows, until the deadline if that delays other tenants. A target that is away takes none,
/// so nothing waits for it.
async fn wait_until_drained(context: &SessionContext, index: TenantIdx, deadline: Instant) {
    let tenants = context.tenants.all();
    let tenant = &tenants[index];
    if !tenant.is_paused() && !delays_others(context, index) {
        // The tenant's own task parks it if its target is away for too long.
        let _ = timeout(LONE_TENANT_WAIT, tenant.mailbox.drained()).await;
        return;
    }
    let is_late = tenant.is_unavailable() || timeout_at(deadline, tenant.mailbox.drained()).await.is_err();
    if is_late && over_budget(context, index) == Some(index) {
        context.interrupt(index, RestartSignal::OverBudget);
    }
}
