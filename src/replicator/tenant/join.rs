//! Joins a tenant: takes part in a scan of the source, and merges its users into the target in one transaction.

use crate::apply::Checkpoint;
use crate::model::{Deletes, Lsn, ResyncReason, RetryCause};
use crate::replicator::error::ServiceError;
use crate::replicator::snapshotter::coordinator::{JoinRefusal, JoinRequest, SnapshotShare};
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::{ApplyState, Phase};
use crate::replicator::tenant::target::{Connection, Connector, TargetAccess};
use crate::replicator::tenant::worker::Worker;
use crate::snapshot::{Adoption, Loading};
use crate::state::{StateAccess, TenantState};
use crate::telemetry::{counted, snapshot_span};
use tokio::sync::oneshot;
use tokio::time::timeout;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Requests the tenant's users and merges them. The mailbox gathers the stream meanwhile. `replaces` is the checkpoint of
    /// an installation whose rows are taken over.
    ///
    /// # Errors
    /// Why there is no snapshot in the target. The phase is `Joining` then.
    pub(super) async fn join<'p>(
        &mut self,
        phase: &'p mut Phase,
        connection: &mut Connection<C::Target>,
        reason: ResyncReason,
        replaces: Option<Checkpoint>,
    ) -> Result<&'p mut ApplyState, StopReason> {
        let context = self.context.clone();
        self.trace = snapshot_span(&context.trace(), self.id(), reason.code());
        tracing::info!(%reason, reason_code = reason.code(), "snapshot requested");
        let target_id = connection.who.target_id.clone();
        self.put(TenantState::Joining, Some(reason.into()), Some(target_id.clone()), Lsn::ZERO).await?;
        let since_creation = phase.join();
        if !since_creation {
            // Under one lock, so that a change is either dropped and in the snapshot, or gathered.
            let mut fingerprints = context.fingerprints();
            fingerprints.reset_tenant(self.index);
            self.handle.mailbox.open_to_join();
            drop(fingerprints);
            context.progress().join(self.id());
        }
        // Read before the snapshot is taken: rows that are newer than their mapping are only read again.
        let mapping = context.mapping_of(self.index);
        let row_requests = self.handle.row_requests.open();
        let resync_request = self.handle.open_resync_request();
        self.attempted_request = resync_request.as_ref().map(|request| request.id);
        let isolates_rejected_rows = self.isolates_rejected_rows || !self.rejected.is_empty() || self.size.is_limited();
        let (reply, answer) = oneshot::channel();
        let request = JoinRequest { tenant: self.index, since_creation, reply };
        let handle = self.handle.clone();
        let expected_join = phase.take_expected_join();
        let Connection { target, who } = connection;
        let work = async {
            let failed = |why: &str| StopReason::from(JoinRefusal::Failed(why.to_owned()));
            let waiting = context.spool.wait_for_scan();
            self.joins.send(request).await.map_err(|_| failed("the session ends"))?;
            drop(expected_join);
            let answer = answer.await;
            drop(waiting);
            let SnapshotShare { position, mapping: published, mut rows } = match answer {
                Ok(answer) => answer?,
                // The slot's own snapshot was released before this request.
                Err(_) => return Err(failed("it was given up")),
            };
            context.snapshot_taken(self.index, position);
            // The position of a snapshot that was taken after another process took over would look as if the source had lost
            // transactions.
            if !context.state.is_newest().await.map_err(ServiceError::from)? {
                return Err(ServiceError::LeaseLapsed.into());
            }
            who.mapping = published.unwrap_or(mapping);
            let any_deletes = resync_request.as_ref().is_some_and(|request| request.allow_deletes);
            let deletes = context.config.deletes;
            let adoption = resync_request.as_ref().and_then(|request| request.adopt).map(|extra| Adoption {
                extra,
                replaces,
                deletes_later: deletes == Deletes::Hard,
            });
            let loading = Loading {
                who,
                position,
                deletes: if adoption.is_some() { Deletes::Soft } else { deletes },
                adoption,
                isolates_rejected_rows,
                size: &self.size,
                park_after: context.config.limits.park_after,
                max_deletes: (!any_deletes).then_some(context.config.limits.max_deletes),
            };
            let limit = context.config.limits.snapshot_age;
            let loaded = timeout(limit, target.load(&loading, &mut rows)).await;
            Ok((position, loaded.map_err(|_| failed("it took longer than limits.snapshot_age"))??))
        };
        let (position, loaded) = tokio::select! {
            biased;
            signal = handle.mailbox.interrupted() => return Err(signal.into()),
            () = context.drain.cancelled() => return Err(StopReason::Drained),
            done = work => match done {
                Err(StopReason::Refused(refusal)) if !self.isolates_rejected_rows => {
                    self.isolates_rejected_rows = true;
                    return Err(StopReason::retry(
                        RetryCause::RowRefused,
                        format!("its target refuses a row (SQLSTATE {})", refusal.sqlstate),
                    ));
                }
                Err(stop) => return Err(self.note_failed_load(stop, isolates_rejected_rows)),
                Ok(done) => {
                    self.size.answered();
                    done
                }
            },
        };
        self.isolates_rejected_rows = false;
        self.log_rejected(&loaded.rejected);
        {
            // The scan has learned them as written.
            let mut fingerprints = context.fingerprints();
            loaded.rejected.iter().for_each(|user| fingerprints.forget(self.index, &user.id));
        }
        self.rejected.replace(&loaded.rejected);
        self.signed = connection.target.no_mac().is_none();
        self.opened_as = Some(self.opens_as(&connection.who.mapping));
        self.put(TenantState::Following, None, Some(target_id), position).await?;
        let apply = phase.joined(position);
        self.discard_applied(position);
        context.joined(self.index, position);
        self.handle.counts.resynced();
        counted(&self.trace, "rows", loaded.read);
        context.status.user_watch.notify_all(self.id());
        tracing::info!(
            %position, users = loaded.read, inserted = loaded.inserted,
            updated = loaded.updated, deleted = loaded.deleted, "up to date, streaming"
        );
        self.finish_request().await?;
        self.finish_row_requests(&row_requests).await?;
        Ok(apply)
    }
}
