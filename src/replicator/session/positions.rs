//! What is safe is written to the state, then confirmed to the source; and the source hears from us, whatever else
//! is going on.

use crate::capture::ReplicationWriter;
use crate::clock::now;
use crate::model::Lsn;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::state::{LEASE, Reached, StateAccess};
use crate::status::report::IDLE_STEP;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// The source hears from us at least this often: a tenth of what `wal_sender_timeout` is at its smallest sensible.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// While targets move, their positions are written down this often.
const RECORD_EVERY: Duration = Duration::from_millis(500);
/// The lease is renewed at least this often: a few times before it would lapse.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// Sends status updates until `stop`, then says goodbye. `positions`: what was received and what is confirmed.
pub(crate) async fn report(
    positions: impl Fn() -> (Lsn, Lsn) + Send,
    news: &Notify,
    mut writer: ReplicationWriter,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let mut timer = interval(STATUS_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            _ = timer.tick() => false,
            () = news.notified() => false,
            () = stop.cancelled() => true,
        };
        let (received, confirmed) = positions();
        writer.status(received, confirmed, confirmed, now(), true).await?;
        if stopping {
            return Ok(writer.terminate().await?);
        }
    }
}

/// Writes positions down and confirms them, until `stop`; then once more.
pub(crate) async fn record(context: &SessionContext, stop: CancellationToken) -> Result<(), ServiceError> {
    let mut timer = interval(STATUS_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut recorded = Instant::now();
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = context.advanced.notified() => {
                tokio::select! {
                    () = sleep_until(recorded + RECORD_EVERY) => {}
                    () = stop.cancelled() => {}
                }
            }
            () = stop.cancelled() => {}
        }
        let stopping = stop.is_cancelled();
        context.interrupt_who_holds_log();
        let (safe, confirmed) = {
            let progress = context.progress();
            (progress.safe(), progress.confirmed())
        };
        let worth_it = context.any_held() || safe.0 - confirmed.0 >= IDLE_STEP;
        if worth_it || recorded.elapsed() >= RENEW_EVERY || stopping && safe > confirmed {
            write_down(context).await?;
            recorded = Instant::now();
        }
        if stopping {
            return Ok(context.state.release().await?);
        }
    }
}

/// The state first, then the source: what is confirmed can be told apart from what somebody else moved on.
pub(crate) async fn write_down<S: StateAccess>(context: &SessionContext<S>) -> Result<(), ServiceError> {
    let begun = Instant::now();
    let reached = {
        let progress = context.progress();
        let behind = progress.behind().cloned().collect();
        Reached { confirmed: progress.safe(), received: progress.received(), behind }
    };
    let asked = timeout(LEASE, context.state.record(&reached, &context.take_held())).await;
    let asked = asked.map_err(|_| ServiceError::LeaseLapsed)??;
    context.renewed(begun);
    context.progress().confirm(reached.confirmed);
    context.report.notify_one();
    for request in asked {
        if let Err(request) = context.ask(request) {
            tracing::warn!(tenant = %request.tenant, "a resync was asked for, but the configuration has no such tenant");
            context.state.finish_requests(&request.tenant, request.id).await?;
        }
    }
    Ok(())
}
