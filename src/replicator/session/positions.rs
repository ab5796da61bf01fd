//! Records the safe position in the state, then confirms it to the source. Sends status updates in a task of their own,
//! so that they continue while other tasks wait.

use crate::capture::{ReplicationWriter, StatusUpdate};
use crate::clock::now;
use crate::model::{Lsn, ReceivedHistory, TenantId};
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::state::{LEASE, Reached, Recorded, RequestId, StateAccess};
use crate::status::report::IDLE_STEP;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Longest pause between status updates: a tenth of the smallest sensible `wal_sender_timeout`.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest pause between two records of the positions.
const RECORD_INTERVAL: Duration = Duration::from_millis(500);
/// The lease is renewed at least this often: several times before it expires.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);

/// The positions of a status update.
#[derive(Clone, Copy)]
pub(crate) struct ReportedPositions {
    pub(crate) received: Lsn,
    /// The slot moves to this position.
    pub(crate) confirmed: Lsn,
}

/// Sends status updates until `stop`, then terminates the stream.
pub(crate) async fn report(
    positions: impl Fn() -> ReportedPositions + Send,
    news: &Notify,
    mut writer: ReplicationWriter,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let mut timer = interval(STATUS_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            _ = timer.tick() => false,
            () = news.notified() => false,
            () = stop.cancelled() => true,
        };
        let ReportedPositions { received, confirmed } = positions();
        let update = StatusUpdate { written: received, flushed: confirmed, applied: confirmed };
        writer.status(update, now(), true).await?;
        if stopping {
            return Ok(writer.terminate().await?);
        }
    }
}

/// Records and confirms positions until `stop`, then once more.
pub(crate) async fn record(context: &SessionContext, stop: CancellationToken) -> Result<(), ServiceError> {
    let mut timer = interval(STATUS_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut recorded = Instant::now();
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = context.advanced.notified() => {
                tokio::select! {
                    () = sleep_until(recorded + RECORD_INTERVAL) => {}
                    () = stop.cancelled() => {}
                }
            }
            () = stop.cancelled() => {}
        }
        let stopping = stop.is_cancelled();
        context.interrupt_log_holders();
        let (safe, confirmed) = {
            let progress = context.progress();
            (progress.safe(), progress.confirmed())
        };
        let is_due = context.has_unrecorded() || safe.0 - confirmed.0 >= IDLE_STEP;
        if is_due || recorded.elapsed() >= RENEW_INTERVAL || stopping && safe > confirmed {
            record_once(context).await?;
            recorded = Instant::now();
        }
        if stopping {
            return Ok(context.state.release().await?);
        }
    }
}

/// Records in the state before the source learns of it: a slot that is ahead of the state was moved by another client.
pub(crate) async fn record_once<S: StateAccess>(context: &SessionContext<S>) -> Result<(), ServiceError> {
    let begun = Instant::now();
    let reached = {
        let progress = context.progress();
        let behind: Vec<TenantId> = progress.behind().cloned().collect();
        Reached {
            confirmed: progress.safe(),
            received: progress.received(),
            behind_since: Vec::new(),
            behind,
            anchor: progress.anchor(),
            findings: context.all_findings(),
        }
    };
    // Each has a lock of its own.
    let oldest = |tenant| context.tenants.get(context.index_of(tenant)?).mailbox.waiting().oldest;
    let reached = Reached { behind_since: reached.behind.iter().map(oldest).collect(), ..reached };
    let recorded = timeout(LEASE, context.state.record(&reached, &context.take_unrecorded())).await;
    let Recorded { requests, pauses } = recorded.map_err(|_| ServiceError::LeaseLapsed)??;
    context.renewed(begun);
    let Reached { received, anchor, .. } = reached;
    context.status.remember_history(ReceivedHistory { generation: context.generation, received, anchor });
    context.progress().confirm(reached.confirmed);
    context.report.notify_one();
    if context.config.publishes_only() {
        // `users-sync apply` serves the requests.
        return Ok(());
    }
    context.set_pauses(&pauses);
    let done: Vec<RequestId> =
        requests.iter().filter(|request| context.take_request(request)).map(|request| request.id).collect();
    if !done.is_empty() {
        context.state.finish_requests(&done).await?;
    }
    Ok(())
}
