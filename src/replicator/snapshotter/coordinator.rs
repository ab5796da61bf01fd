//! Gathers the tenants that need a snapshot, so that tenants that come together share one scan of the table.

use crate::capture::{ReplicationConnection, join_slot_prefix};
use crate::config::Config;
use crate::model::{Lsn, TenantIdx};
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::scan_aborts::ScanPause;
use crate::replicator::snapshotter::partition::ScanMember;
use crate::replicator::snapshotter::scan;
use crate::replicator::source::lock_watch::LockWatch;
use crate::replicator::source::own_slot::create_own_slot;
use crate::snapshot::{Export, RowReceiver};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// If no other tenant is expected: a resync of many tenants brings their requests almost together.
const GATHER_REQUESTED: GatherWindow =
    GatherWindow { quiet: Duration::from_millis(200), total: Duration::from_secs(2) };
/// While targets are being opened. Longer than the second in which a sleeping target wakes up; a target that does not
/// answer delays the others by no more.
const GATHER_EXPECTED: GatherWindow = GatherWindow { quiet: Duration::from_secs(1), total: Duration::from_secs(30) };
/// How long the snapshot of a new slot is kept without a request: until then the source cannot vacuum its updates.
const UNUSED_EXPORT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a scan waits for further requests.
struct GatherWindow {
    /// After the last request.
    quiet: Duration,
    /// After the first request.
    total: Duration,
}

/// A tenant's request for a snapshot.
pub(crate) struct JoinRequest {
    pub(crate) tenant: TenantIdx,
    /// The tenant has gathered the stream since the slot was created, so the slot's own snapshot will do.
    pub(crate) since_creation: bool,
    pub(crate) reply: oneshot::Sender<Result<SnapshotShare, JoinRefusal>>,
}

/// The tenant's share of a snapshot.
pub(crate) struct SnapshotShare {
    pub(crate) position: Lsn,
    /// Fingerprint of the mapping that made its users, if the topic names it.
    pub(crate) mapping: Option<String>,
    /// Its users.
    pub(crate) rows: RowReceiver,
}

/// Why there is no snapshot for now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinRefusal {
    /// The source refused, or was unreachable.
    #[error("its snapshot could not be taken: {0}")]
    Failed(String),
    /// Scans were aborted again and again.
    #[error("{0}")]
    Paused(ScanPause),
}

/// Serves requests until every sender is dropped. `created` is the snapshot of a slot that this session created.
///
/// A failed scan makes its tenants retry. It is not an error of the session: tenants that follow the stream go on.
pub(crate) async fn serve(
    context: Arc<SessionContext>,
    mut requests: mpsc::Receiver<JoinRequest>,
    created: Option<Export>,
) -> Result<(), ServiceError> {
    let mut gathered = match created {
        Some(export) => use_created(&context, export, &mut requests).await,
        None => Vec::new(),
    };
    loop {
        if gathered.is_empty() {
            let Some(first) = requests.recv().await else { return Ok(()) };
            if let Some(pause) = context.scan_aborts.pause() {
                // The tenant may have ended.
                let _ = first.reply.send(Err(JoinRefusal::Paused(pause)));
                continue;
            }
            gathered = gather(&context, first, &mut requests).await;
        }
        // The slot's snapshot has been used or released: tenants that rely on it start over, because their request is dropped.
        gathered.retain(|request| !request.since_creation);
        if gathered.is_empty() {
            continue;
        }
        let gathered = std::mem::take(&mut gathered);
        match make_export(&context.config).await {
            Ok(export) => run_scan(&context, export, gathered).await,
            Err(error) => {
                if error.is_final() {
                    tracing::error!(%error, "cannot take a snapshot until this is fixed; its tenants will retry");
                } else {
                    tracing::warn!(%error, "taking a snapshot failed; its tenants will retry");
                }
                for request in gathered {
                    // The tenant may have ended.
                    let _ = request.reply.send(Err(JoinRefusal::Failed(error.to_string())));
                }
            }
        }
    }
}

/// Serves tenants with the snapshot of a new slot. Returns the requests that need another one. The snapshot is released if
/// there is no request, or if another session waits for its transaction: CREATE INDEX CONCURRENTLY does.
async fn use_created(
    context: &SessionContext,
    export: Export,
    requests: &mut mpsc::Receiver<JoinRequest>,
) -> Vec<JoinRequest> {
    let gathering = async {
        let Ok(Some(first)) = timeout(UNUSED_EXPORT_TIMEOUT, requests.recv()).await else { return Ok(Vec::new()) };
        Ok::<_, ServiceError>(gather(context, first, requests).await)
    };
    let gathered = match LockWatch::begin(&context.config.source.url, &[export.holder()]).await {
        Ok(watch) => watch.run(gathering).await,
        Err(error) => Err(error),
    };
    let gathered = match gathered {
        Ok(gathered) => gathered,
        Err(error) => {
            if matches!(error, ServiceError::LockAwaited) {
                context.status.metrics.aborted_scans.inc();
                context.scan_aborts.add();
            }
            tracing::warn!(%error, "the snapshot of the new slot was released before it was used; its tenants will retry");
            return Vec::new();
        }
    };
    let (served, later): (Vec<_>, Vec<_>) = gathered.into_iter().partition(|request| request.since_creation);
    if !served.is_empty() {
        run_scan(context, export, served).await;
    }
    later
}

/// Waits for requests that follow the first one, unless every tenant has asked. A thousand targets take a while to open, but the
/// table is scanned once.
async fn gather(
    context: &SessionContext,
    first: JoinRequest,
    requests: &mut mpsc::Receiver<JoinRequest>,
) -> Vec<JoinRequest> {
    let mut gathered = vec![first];
    let first_came = Instant::now();
    let mut last_came = first_came;
    loop {
        // Changes that wait for these tenants would stop the stream, and then park them.
        let tenants = context.tenants.all();
        let is_over_budget = |request: &JoinRequest| tenants[request.tenant].mailbox.over_budget();
        if context.memory.is_over() || gathered.iter().any(is_over_budget) {
            return gathered;
        }
        let can_still_ask = tenants.values().filter(|handle| !handle.is_retired()).count();
        if gathered.len() >= can_still_ask {
            return gathered;
        }
        let window = if context.expected_joins.is_any() { GATHER_EXPECTED } else { GATHER_REQUESTED };
        let until = (last_came + window.quiet).min(first_came + window.total);
        // An expected tenant may need no snapshot, or fail: checked again after each short wait.
        match timeout_at(until.min(Instant::now() + GATHER_REQUESTED.quiet), requests.recv()).await {
            Ok(Some(next)) => {
                gathered.push(next);
                last_came = Instant::now();
            }
            Err(_) if Instant::now() < until => {}
            Ok(None) | Err(_) => return gathered,
        }
    }
}

async fn run_scan(context: &SessionContext, export: Export, requests: Vec<JoinRequest>) {
    let spool = context.spool.begin(context.config.limits.stall, true);
    let mut members = Vec::with_capacity(requests.len());
    for request in requests {
        let (rows, receiver) = spool.queue();
        if request.reply.send(Ok(SnapshotShare { position: export.position, mapping: None, rows: receiver })).is_ok() {
            members.push(ScanMember { tenant: request.tenant, rows });
        }
    }
    if members.is_empty() {
        return;
    }
    let scanned = scan::run(context, export, members, spool).await;
    if !matches!(scanned, Err(ServiceError::LockAwaited)) {
        context.scan_aborts.clear();
    }
    match scanned {
        Ok(()) => {}
        Err(ServiceError::LockAwaited) => {
            context.status.metrics.aborted_scans.inc();
            let pause = context.scan_aborts.pause().map(|pause| pause.left);
            tracing::warn!(
                ?pause,
                "snapshot aborted, another session waits for a lock that it blocks; its tenants will retry"
            );
        }
        Err(error) if error.is_final() => {
            tracing::error!(%error, "cannot read the source until this is fixed; its tenants will retry");
        }
        Err(error) => tracing::warn!(%error, "snapshot failed; its tenants will retry"),
    }
}

/// Exports a snapshot at an exact position, made by a temporary slot. The slot is dropped once the snapshot is held.
pub(crate) async fn make_export(config: &Config) -> Result<Export, ServiceError> {
    let source = &config.source.url;
    let mut connection = ReplicationConnection::connect(source).await?;
    let name = format!("{}{}", join_slot_prefix(&config.source.slot), connection.backend_pid());
    tracing::debug!(slot = name, "creating a temporary slot (waits for open transactions)");
    create_own_slot(&mut connection, source, &name, true, |_| ()).await
}
