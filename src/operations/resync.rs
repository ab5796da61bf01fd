//! Resyncs tenants while no process runs, in a session in which only these take part.

use crate::config::Config;
use crate::model::{ExtraRows, TenantId};
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::prepare;
use crate::replicator::session::tenants::{ResyncRequest, TenantHandle};
use crate::replicator::tasks::SessionTasks;
use crate::state::{RequestId, TenantState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the tenants are checked for completion.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Resyncs these tenants; with `adopt`, targets with rows of others are taken over. Returns once each of them follows or is parked; the state says which.
pub(crate) async fn resync(
    config: Config,
    tenants: &[TenantId],
    allow_deletes: bool,
    adopt: Option<ExtraRows>,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let status = Arc::default();
    let prepared = tokio::select! {
        prepared = prepare(&config, &status) => prepared?,
        () = stop.cancelled() => return Ok(()),
    };
    let context = prepared.context.clone();
    let handles: Vec<Arc<TenantHandle>> =
        context.tenants.all().values().filter(|handle| tenants.contains(&handle.tenant.id)).cloned().collect();
    for (index, handle) in context.tenants.all().iter().filter(|(_, handle)| tenants.contains(&handle.tenant.id)) {
        // Lower than the id of every recorded request.
        context.request_resync(index, ResyncRequest { id: RequestId(0), allow_deletes, adopt });
        // From here on, a parked tenant is one whose resync failed.
        handle.restart();
    }
    let running = SessionTasks::start(prepared, Some(tenants));
    let (_keep, mut configs) = watch::channel(config.clone());
    let is_over = CancellationToken::new();
    let watching = async {
        while !handles.iter().all(|handle| is_done(handle)) {
            sleep(POLL_INTERVAL).await;
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

fn is_done(handle: &TenantHandle) -> bool {
    match handle.state() {
        _ if handle.is_paused() => true,
        TenantState::Following => handle.open_resync_request().is_none(),
        TenantState::Parked => true,
        TenantState::Joining => false,
    }
}
