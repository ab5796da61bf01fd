//! Tenants that want a snapshot are gathered, so that those who come together share one pass over the table.

use crate::capture::{ReplicationConnection, slot};
use crate::model::{Lsn, User};
use crate::pg::{PgUrl, connect};
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::snapshotter::partition::Member;
use crate::replicator::snapshotter::scan;
use crate::snapshot::{Export, hold_export};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// A pass begins once nobody has come for this long, and at the latest so long after the first has come.
const ALL_HERE: Patience = Patience { quiet: Duration::from_millis(200), latest: Duration::from_secs(2) };
/// While tenants are on their way: their targets are looked at for the first time, or again after they lost their place.
/// Longer than the second that a target needs which is asleep: one that does not answer holds the others up by no more.
const SOME_ON_THEIR_WAY: Patience = Patience { quiet: Duration::from_secs(1), latest: Duration::from_secs(30) };
/// A snapshot that nobody asks for is given up: as long as it is held the source cannot clean up after its updates.
const UNUSED: Duration = Duration::from_secs(60);
/// Chunks of users that may wait for one target: reading goes on while it writes.
const CHUNKS_WAITING: usize = 8;

/// How long a pass waits for others to take part.
struct Patience {
    /// After the last one has come.
    quiet: Duration,
    /// After the first one has come.
    latest: Duration,
}

/// A tenant asks for its users.
pub(crate) struct JoinRequest {
    /// Which, by its place among the session's tenants.
    pub(crate) tenant: usize,
    /// It has gathered the stream since the slot was made: the slot's own snapshot will do.
    pub(crate) since_creation: bool,
    pub(crate) reply: oneshot::Sender<Result<Joining, String>>,
}

/// The tenant's share of a pass.
pub(crate) struct Joining {
    /// The snapshot's position.
    pub(crate) position: Lsn,
    /// Its users in chunks, and `None` behind the last one.
    pub(crate) rows: mpsc::Receiver<Option<Vec<User>>>,
}

/// Serves requests until nobody can make one any more. A request whose pass fails tells its tenant to try again: whoever
/// follows is not disturbed by what keeps others from joining. `created` is the snapshot of a slot that was made for this session.
pub(crate) async fn serve(
    context: Arc<SessionContext>,
    mut requests: mpsc::Receiver<JoinRequest>,
    mut created: Option<Export>,
) -> Result<(), ServiceError> {
    loop {
        let first = match &created {
            None => requests.recv().await,
            Some(_) => match timeout(UNUSED, requests.recv()).await {
                Ok(first) => first,
                Err(_) => {
                    created = None;
                    continue;
                }
            },
        };
        let Some(first) = first else { return Ok(()) };
        let mut together = gather(&context, first, &mut requests).await;
        if let Some(export) = created.take() {
            let (served, later): (Vec<_>, Vec<_>) = together.into_iter().partition(|request| request.since_creation);
            run_pass(&context, &export, served).await;
            together = later;
        }
        // Whoever relied on the slot's snapshot and comes after it was used begins to gather anew.
        together.retain(|request| !request.since_creation);
        if together.is_empty() {
            continue;
        }
        match make_export(&context.config.source.url).await {
            Ok(export) => run_pass(&context, &export, together).await,
            Err(error) => {
                match error.is_final() {
                    true => {
                        tracing::error!(%error, "no snapshot can be taken until this is mended, the tenants try again")
                    }
                    false => tracing::warn!(%error, "no snapshot could be taken, the tenants try again"),
                }
                for request in together {
                    // One that is gone need not know.
                    let _ = request.reply.send(Err(error.to_string()));
                }
            }
        }
    }
}

/// The first one and those who come soon after it. A thousand targets are not looked at in a moment, and yet the table is to be
/// read once.
async fn gather(
    context: &SessionContext,
    first: JoinRequest,
    requests: &mut mpsc::Receiver<JoinRequest>,
) -> Vec<JoinRequest> {
    let mut together = vec![first];
    let first_came = Instant::now();
    let mut last_came = first_came;
    loop {
        // What gathers for those who are here would stop the stream, and then park them.
        let lanes = context.lanes.all();
        let is_crowded = |request: &JoinRequest| lanes[request.tenant].mailbox.over_budget();
        if context.memory.is_over() || together.iter().any(is_crowded) {
            return together;
        }
        let patience = if context.on_their_way.is_anybody() { SOME_ON_THEIR_WAY } else { ALL_HERE };
        let until = (last_came + patience.quiet).min(first_came + patience.latest);
        // Whoever was on the way may follow, or fail, and never come: that is looked at now and then.
        match timeout_at(until.min(Instant::now() + ALL_HERE.quiet), requests.recv()).await {
            Ok(Some(next)) => {
                together.push(next);
                last_came = Instant::now();
            }
            Err(_) if Instant::now() < until => {}
            Ok(None) | Err(_) => return together,
        }
    }
}

async fn run_pass(context: &SessionContext, export: &Export, requests: Vec<JoinRequest>) {
    let mut members = Vec::with_capacity(requests.len());
    for request in requests {
        let (rows, receiver) = mpsc::channel(CHUNKS_WAITING);
        if request.reply.send(Ok(Joining { position: export.position, rows: receiver })).is_ok() {
            members.push(Member { tenant: request.tenant, rows });
        }
    }
    if members.is_empty() {
        return;
    }
    match scan::run(context, export, members).await {
        Ok(()) => {}
        Err(error) if error.is_final() => {
            tracing::error!(%error, "the source cannot be read until this is mended, the tenants try again");
        }
        Err(error) => tracing::warn!(%error, "the snapshot was broken off, its tenants try again"),
    }
}

/// A temporary slot makes a snapshot at an exact position; it goes as soon as the snapshot is held elsewhere.
pub(crate) async fn make_export(source: &PgUrl) -> Result<Export, ServiceError> {
    let mut connection = ReplicationConnection::connect(source).await?;
    let name = format!("users_sync_join_{}", connection.backend_pid());
    tracing::debug!(slot = name, "taking a snapshot; it waits for the transactions that are running now");
    let created = slot::create_slot(&mut connection, &name, true).await?;
    let holder = connect(source).await?;
    Ok(hold_export(holder, &created.snapshot_name, created.consistent_point).await?)
}
