//! Resyncs tenants while no process runs, in a session in which only these take part.

use crate::config::Config;
use crate::model::{ExtraRows, TenantId};
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::prepare;
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::tasks::SessionTasks;
use crate::state::{Request, RequestId, TenantState};
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
    for handle in &handles {
        // Lower than the id of every recorded request.
        let request = Request { id: RequestId(0), tenant: handle.tenant.id.clone(), allow_deletes, adopt };
        // Cannot fail: the tenant is one of the session's.
        let _ = context.request_resync(request);
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
        TenantState::Following => handle.open_resync_request().is_none(),
        TenantState::Parked => true,
        TenantState::Joining => false,
    }
}
