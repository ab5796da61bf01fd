//! A tenant joins: it takes part in a reading of the source, and its target gets all of that in one transaction.

use crate::apply::{Identity, Target};
use crate::config::MaxDeletes;
use crate::model::{Lsn, ResyncReason, RetryCause};
use crate::replicator::failure_policy;
use crate::replicator::snapshotter::coordinator::{JoinRequest, SnapshotShare};
use crate::replicator::tenant::Worker;
use crate::replicator::tenant::outcome::StopReason;
use crate::snapshot::{Loading, load};
use crate::state::TenantState;
use tokio::sync::oneshot;

impl Worker {
    /// Asks for the tenant's users and merges them; what the stream brings meanwhile waits, and comes after them.
    pub(crate) async fn join(
        &mut self,
        target: &mut Target,
        who: &Identity,
        reason: ResyncReason,
    ) -> Result<(), StopReason> {
        let context = self.context.clone();
        tracing::info!(tenant = %self.id(), %reason, reason_code = reason.code(), "joins");
        self.put(TenantState::Joining, Some(reason.into()), Some(who.target_id.clone()), Lsn::ZERO).await?;
        let since_creation = std::mem::take(&mut self.gathered_since_creation);
        if !since_creation {
            self.forget_what_waits();
            // Under one lock: a change is either dropped, and in the snapshot, or news.
            let mut fingerprints = context.fingerprints();
            fingerprints.reset_tenant(self.index);
            self.lane().mailbox.open();
            drop(fingerprints);
            context.progress().join(self.id());
        }
        let asked = self.lane.asked();
        self.attempted = asked.as_ref().map(|request| request.id);
        let isolates_rejected_rows = self.isolates_rejected_rows;
        let (reply, answer) = oneshot::channel();
        let request = JoinRequest { tenant: self.index, since_creation, reply };
        let lane = self.lane.clone();
        let on_its_way = self.on_its_way.take();
        let work = async {
            let broken = |why: &str| StopReason::Retry {
                cause: RetryCause::SnapshotFailed,
                reason: format!("its snapshot could not be taken: {why}"),
            };
            self.joins.send(request).await.map_err(|_| broken("the session ends"))?;
            drop(on_its_way);
            let SnapshotShare { position, mut rows } = match answer.await {
                Ok(answer) => answer.map_err(|why| broken(&why))?,
                // Whoever relied on the slot's own snapshot comes too late for it.
                Err(_) => return Err(broken("it was given up")),
            };
            let mapping = context.mapping_of(self.index);
            let loading = Loading {
                who,
                mapping: &mapping,
                position,
                deletes: context.config.deletes,
                isolates_rejected_rows,
                max_deletes: match asked.as_ref().is_some_and(|request| request.allow_deletes) {
                    true => MaxDeletes::ALL,
                    false => context.config.limits.max_deletes,
                },
            };
            let loaded = load(target, &loading, &mut rows).await;
            loaded
                .map(|loaded| (position, loaded))
                .map_err(|error| StopReason::from(failure_policy::of_load(&error, &lane.tenant.id)))
        };
        let (position, loaded) = tokio::select! {
            done = work => match done {
                Err(StopReason::Refused(refusal)) if !self.isolates_rejected_rows => {
                    self.isolates_rejected_rows = true;
                    return Err(StopReason::Retry {
                        cause: RetryCause::RowRefused,
                        reason: format!("its target refuses a row (SQLSTATE {})", refusal.sqlstate),
                    });
                }
                done => done?,
            },
            why = lane.mailbox.interrupted() => return Err(why.into()),
            () = context.drain.cancelled() => return Err(StopReason::Drained),
        };
        self.isolates_rejected_rows = false;
        self.say_who_is_refused(&loaded.rejected);
        {
            // The snapshot's pass has taken them for known.
            let mut fingerprints = context.fingerprints();
            loaded.rejected.iter().for_each(|(id, _)| fingerprints.forget(self.index, id));
        }
        self.rejected = loaded.rejected.into_iter().map(|(id, _)| id).collect();
        self.put(TenantState::Following, None, Some(who.target_id.clone()), position).await?;
        self.has_to_join = None;
        self.position = position;
        self.hold(position);
        context.joined(self.index, position);
        self.lane.counts.resynced();
        context.live.user_watch.notify_all(self.id());
        tracing::info!(
            tenant = %self.id(), %position, users = loaded.read, inserted = loaded.inserted,
            updated = loaded.updated, deleted = loaded.deleted, "follows"
        );
        Ok(self.answer_request().await?)
    }
}
