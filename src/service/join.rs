//! Tenants that want a snapshot are gathered, so that those who come together share one pass over the table.

use super::ServiceError;
use super::pass;
use super::shared::Shared;
use super::sorter::Member;
use crate::capture::{ReplicationConnection, slot};
use crate::model::{Lsn, User};
use crate::pg::{PgUrl, connect};
use crate::snapshot::{Export, hold_export};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

/// A pass begins once nobody has come for this long.
const QUIET: Duration = Duration::from_millis(200);
/// It begins at the latest so long after the first has come.
const AT_LATEST: Duration = Duration::from_secs(2);
/// A snapshot that nobody asks for is given up: as long as it is held the source cannot clean up after its updates.
const UNUSED: Duration = Duration::from_secs(60);
/// Chunks of users that may wait for one target: reading goes on while it writes.
const CHUNKS_WAITING: usize = 8;

/// A tenant asks for its users.
pub(super) struct JoinRequest {
    /// Which, by its place among the session's tenants.
    pub(super) tenant: usize,
    /// It has gathered the stream since the slot was made: the slot's own snapshot will do.
    pub(super) since_creation: bool,
    pub(super) reply: oneshot::Sender<Joining>,
}

/// The tenant's share of a pass.
pub(super) struct Joining {
    /// The snapshot's position.
    pub(super) position: Lsn,
    /// Its users in chunks, and `None` behind the last one.
    pub(super) rows: mpsc::Receiver<Option<Vec<User>>>,
}

/// Serves requests until nobody can make one any more. A request whose pass fails is dropped, and so tells its
/// tenant to try again. `created` is the snapshot of a slot that was made for this session.
pub(super) async fn serve(
    shared: Arc<Shared>,
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
        let mut together = vec![first];
        let latest = Instant::now() + AT_LATEST;
        while let Ok(Some(next)) = timeout_at(latest.min(Instant::now() + QUIET), requests.recv()).await {
            together.push(next);
        }
        if let Some(export) = created.take() {
            let (served, later): (Vec<_>, Vec<_>) = together.into_iter().partition(|request| request.since_creation);
            run_pass(&shared, &export, served).await?;
            together = later;
        }
        // Whoever relied on the slot's snapshot and comes after it was used begins to gather anew.
        together.retain(|request| !request.since_creation);
        if together.is_empty() {
            continue;
        }
        match make_export(&shared.config.source.url).await {
            Ok(export) => run_pass(&shared, &export, together).await?,
            Err(error) if error.is_final() => return Err(error),
            Err(error) => tracing::warn!(%error, "no snapshot could be taken, the tenants try again"),
        }
    }
}

/// An error is one that trying again would not mend.
async fn run_pass(shared: &Shared, export: &Export, requests: Vec<JoinRequest>) -> Result<(), ServiceError> {
    let mut members = Vec::with_capacity(requests.len());
    for request in requests {
        let (rows, receiver) = mpsc::channel(CHUNKS_WAITING);
        if request.reply.send(Joining { position: export.position, rows: receiver }).is_ok() {
            members.push(Member { tenant: request.tenant, rows });
        }
    }
    if members.is_empty() {
        return Ok(());
    }
    match pass::run(shared, export, members).await {
        Err(error) if !error.is_final() => {
            tracing::warn!(%error, "the snapshot was broken off, its tenants try again");
            Ok(())
        }
        done => done,
    }
}

/// A temporary slot makes a snapshot at an exact position; it goes as soon as the snapshot is held elsewhere.
pub(super) async fn make_export(source: &PgUrl) -> Result<Export, ServiceError> {
    let mut connection = ReplicationConnection::connect(source).await?;
    let name = format!("users_sync_join_{}", connection.backend_pid());
    tracing::debug!(slot = name, "taking a snapshot; it waits for the transactions that are running now");
    let created = slot::create_slot(&mut connection, &name, true).await?;
    let holder = connect(source).await?;
    Ok(hold_export(holder, &created.snapshot_name, created.consistent_point).await?)
}
