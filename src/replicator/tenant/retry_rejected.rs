//! Tries rejected users again, and reads single users on request: each in a transaction of its own at the tenant's position.

use crate::model::{ResyncReason, RetryCause, SourceTrouble};
use crate::replicator::error::ServiceError;
use crate::replicator::tenant::follow::Written;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::ApplyState;
use crate::replicator::tenant::target::{Connection, Connector};
use crate::replicator::tenant::worker::Worker;
use crate::route::Batch;
use crate::state::{Request, RequestId, RequestKind, StateAccess};
use tokio::time::Instant;

/// Users of one attempt while changes wait.
const BUSY: usize = 100;
/// Users of one attempt while nothing waits.
const IDLE: usize = 1000;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Tries rejected users, if that is due. Their rows are read from the source, with what the stream brings up to there.
    pub(super) async fn retry_rejected(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
    ) -> Result<(), StopReason> {
        if apply.pending.is_some() || !self.rejected.is_due() || self.context.drain.is_cancelled() {
            return Ok(());
        }
        if !self.context.rereader.has_source() {
            // A change of the user, a request or a snapshot tries it again.
            self.rejected.tried(Instant::now(), 0);
            return Ok(());
        }
        let is_idle = self.handle.mailbox.waiting().users == 0;
        let ids = self.rejected.take(if is_idle { IDLE } else { BUSY });
        match self.try_again(connection, apply, &ids).await? {
            Ok(()) => {}
            // The stream goes on.
            Err(error) => tracing::info!(%error, "could not read rejected users from the source"),
        }
        Ok(())
    }

    /// Tries these rejected users. The inner error is that of reading them.
    async fn try_again(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        ids: &[String],
    ) -> Result<Result<(), ServiceError>, StopReason> {
        if ids.is_empty() {
            return Ok(Ok(()));
        }
        let (started, before) = (Instant::now(), self.rejected.accepted());
        // The purge tries those again that it could not remove.
        let is_deleted = |id: &str| self.context.config.purge_after.is_none() || self.rejected.is_conflict(id);
        let batch = match self.read_again(apply, ids, is_deleted).await {
            Ok(batch) => batch,
            Err(error) => return Ok(Err(error)),
        };
        self.write_again(connection, apply, batch, started).await?;
        let accepted = self.rejected.accepted() - before;
        if accepted > 0 {
            tracing::info!(accepted, rejected = self.rejected.len(), "rejected users were tried again");
        }
        self.rejected.tried(started, accepted);
        Ok(Ok(()))
    }

    /// Serves the requests for single users.
    pub(super) async fn serve_requests(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
    ) -> Result<(), StopReason> {
        if apply.pending.is_some() || self.context.drain.is_cancelled() {
            return Ok(());
        }
        let requests = self.handle.row_requests.open();
        if !requests.is_empty() && !self.context.rereader.has_source() {
            // A snapshot tries all users, and finishes the requests.
            return Err(StopReason::Rejoin(ResyncReason::Requested));
        }
        for request in requests {
            let read = match &request.kind {
                RequestKind::User(id) => {
                    let started = Instant::now();
                    match self.read_again(apply, std::slice::from_ref(id), |_| true).await {
                        Ok(batch) => Ok(self.write_again(connection, apply, batch, started).await?),
                        Err(error) => Err(error),
                    }
                }
                RequestKind::RetryRejected => self.try_all_again(connection, apply).await?,
                RequestKind::Resync { .. } | RequestKind::Resume => Ok(()),
            };
            match read {
                Ok(()) => {}
                // Such as an id that is not of the column's type: another attempt would fail, too.
                Err(error) if error.trouble() == SourceTrouble::QueryFailed => {
                    tracing::info!(%error, "could not read the requested users from the source");
                }
                Err(error) => {
                    return Err(StopReason::retry(RetryCause::SourceReadFailed, error.to_string()));
                }
            }
            self.note_rejected(apply.position).await?;
            self.finish_row_requests(&[request]).await?;
        }
        Ok(())
    }

    async fn try_all_again(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
    ) -> Result<Result<(), ServiceError>, StopReason> {
        let mut left = self.rejected.len();
        while left > 0 {
            let ids = self.rejected.take(IDLE);
            if ids.is_empty() {
                break;
            }
            left = left.saturating_sub(ids.len());
            if let Err(error) = self.try_again(connection, apply, &ids).await? {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Requests for single users are done: served, or by a snapshot that tried all users, or the tenant was parked.
    pub(super) async fn finish_row_requests(&self, requests: &[Request]) -> Result<(), ServiceError> {
        let ids: Vec<RequestId> = requests.iter().map(|request| request.id).collect();
        if !ids.is_empty() {
            self.context.state.finish_requests(&ids).await?;
            self.handle.row_requests.finish(&ids);
        }
        Ok(())
    }

    /// Writes a batch of users who were read again.
    async fn write_again(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
        mut batch: Batch,
        started: Instant,
    ) -> Result<(), StopReason> {
        let resolved = self.resolve(apply, &mut batch).await;
        let written = match resolved {
            Ok(()) => self.write_isolated(connection, apply, &mut batch).await,
            Err(stop) => Err(stop),
        };
        match written {
            Ok(end) => {
                self.handle.mailbox.finish(batch.bytes);
                self.acknowledge(apply, end);
                self.count(Written::of(&batch), &batch, started);
                self.context.status.user_watch.notify(self.id(), batch.entries.keys());
                Ok(())
            }
            Err(stop) => {
                apply.pending = Some(batch);
                Err(stop)
            }
        }
    }
}
