//! A resync of some tenants while no process follows: a session in which nobody else takes part.

use crate::config::Config;
use crate::model::TenantId;
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::prepare;
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::tasks::SessionTasks;
use crate::state::{Request, TenantState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether everybody is done.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Resyncs these tenants; ends once each of them follows, or is parked. The state says which.
pub async fn resync(
    config: Config,
    tenants: &[TenantId],
    allow_deletes: bool,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let live = Arc::default();
    let prepared = tokio::select! {
        prepared = prepare(&config, &live) => prepared?,
        () = stop.cancelled() => return Ok(()),
    };
    let context = prepared.context.clone();
    let lanes: Vec<Arc<TenantHandle>> =
        context.lanes.all().iter().filter(|lane| tenants.contains(&lane.tenant.id)).cloned().collect();
    for lane in &lanes {
        // Below every request that is written down.
        let request = Request { id: 0, tenant: lane.tenant.id.clone(), allow_deletes };
        // It is one of this session's tenants: it is found.
        let _ = context.ask(request);
        // Whatever it was before: parked then means that it could not be done.
        lane.restart();
    }
    let running = SessionTasks::start(prepared, Some(tenants));
    let (_keep, mut configs) = watch::channel(config.clone());
    let is_over = CancellationToken::new();
    let watching = async {
        while !lanes.iter().all(|lane| is_done(lane)) {
            sleep(LOOK_EVERY).await;
        }
        is_over.cancel();
        std::future::pending::<()>().await
    };
    tokio::select! {
        done = running.run(config, &mut configs, &is_over) => done.map(drop),
        () = watching => Ok(()),
        () = stop.cancelled() => Ok(()),
    }
}

fn is_done(lane: &TenantHandle) -> bool {
    match lane.state() {
        TenantState::Following => lane.asked().is_none(),
        TenantState::Parked => true,
        TenantState::Joining => false,
    }
}
