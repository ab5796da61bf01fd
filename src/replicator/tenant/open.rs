//! An open target: connected to, looked at, and judged; from there the tenant follows, joins, or waits for a person.

use crate::apply::{
    Identity, ObservedTarget, ParkReason, RecordedTarget, Session, Target, TargetAssessment, assess_target,
};
use crate::clock::now;
use crate::model::{Epoch, HistoryBreak, Lsn, ParkCause, ResyncReason, RetryCause, TargetId};
use crate::pg::connect;
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::session::context::SessionContext;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::{Worker, recorded_target};
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// Looking at a target is a few reads of its catalog and checkpoint.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// Machines' clocks are not further apart: an epoch is the time at which its process began, in milliseconds.
const CLOCKS_APART: i64 = 3_600_000;
/// So long at most one target keeps another from being connected to.
const TURN: Duration = Duration::from_secs(1);

/// No process has a later one by now. Whoever may write to one target must not be able to upset them all.
fn latest_epoch() -> Epoch {
    Epoch(now().unix_millis_floor().unwrap_or(i64::MAX).saturating_add(CLOCKS_APART))
}

impl Worker {
    /// Connects, looks, decides; a tenant that has to join has joined when this returns.
    pub(crate) async fn open(&mut self) -> Result<(Target, Identity), StopReason> {
        let context = self.context.clone();
        self.attempted = self.lane.asked().map(|request| request.id);
        let opening = async {
            let mut connecting = pin!(connect(&self.lane.tenant.target));
            // Later on they come one by one.
            let turn = match context.has_looked_at(self.id()) {
                true => None,
                false => context.opening.acquire().await.ok(),
            };
            // Many that do not answer must not keep the others waiting.
            let connected = timeout(TURN, &mut connecting).await;
            drop(turn);
            let connected = match connected {
                Ok(connected) => connected,
                Err(_) => connecting.await,
            };
            let client = connected.map_err(|error| StopReason::from(failure_policy::of_connect(&error)))?;
            let opened =
                timeout(OPEN_WITHIN, Target::open(client, context.config.deletes, context.config.notify)).await;
            Ok::<_, StopReason>(opened.map_err(|_| StopReason::from(RetryCause::TablesLocked))??)
        };
        let (mut target, mut observed) = tokio::select! {
            opened = opening => opened?,
            why = self.lane().mailbox.interrupted() => return Err(why.into()),
        };
        let recorded = self.row.as_ref().map(recorded_target);
        let recorded =
            recorded.map(|recorded| RecordedTarget { position: recorded.position.max(self.position), ..recorded });
        let mapping = context.mapping_of(self.index);
        let decide = |observed: &ObservedTarget, epochs| {
            let SessionContext { generation, epoch, .. } = *context;
            let session = Session { generation, epoch, mapping: &mapping, epochs };
            assess_target(&self.lane.tenant.id, recorded.as_ref(), observed, &session)
        };
        let is_first = !context.has_looked_at(self.id());
        if let Some(reason) = target.no_wait_for().filter(|_| is_first) {
            let remedy = "GRANT CREATE ON SCHEMA users_sync to its role there, or `users-sync setup`";
            tracing::warn!(tenant = %self.id(), reason, remedy, "users_sync.wait_for could not be made in its target");
        }
        let mut assessment = decide(&observed, is_first.then_some(&context.epochs));
        let is_fenced = observed.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.epoch == context.epoch);
        if !is_fenced && matches!(assessment, TargetAssessment::Resume(_) | TargetAssessment::Snapshot(_)) {
            target.fence(self.id(), context.epoch).await?;
            // An older process may have committed until just now.
            observed.checkpoint = target.checkpoint().await?;
            assessment = decide(&observed, None);
        }
        self.relation = target.relation();
        if matches!(assessment, TargetAssessment::Resume(_) | TargetAssessment::Snapshot(_)) {
            context.looked_at(self.id());
        }
        if let TargetAssessment::Superseded(epoch) | TargetAssessment::SourceRewound(epoch) = assessment
            && epoch > latest_epoch()
        {
            assessment = TargetAssessment::Park(ParkReason::FutureEpoch(epoch));
        }
        match assessment {
            TargetAssessment::Resume(position) => {
                self.rejected = target.read_rejected().await?.into_iter().collect();
                let target_id = recorded.and_then(|recorded| recorded.target_id);
                let identity = self.identity(target_id.ok_or(StopReason::Rejoin(ResyncReason::NoTargetId))?);
                self.settle_pending(position)?;
                self.position = position;
                self.hold(position);
                context.acknowledge(self.id(), position);
                Ok((target, identity))
            }
            TargetAssessment::Snapshot(reason) => {
                let reason = self.has_to_join.unwrap_or(reason);
                let identity = self.identity(self.own_target_id(&observed));
                self.join(&mut target, &identity, reason).await?;
                Ok((target, identity))
            }
            TargetAssessment::Park(reason) => Err(StopReason::Park {
                cause: ParkCause::Foreign,
                remedy: reason.remedy(self.id()),
                reason: reason.to_string(),
            }),
            TargetAssessment::Superseded(epoch) if context.state.is_newest().await.map_err(ServiceError::from)? => {
                Err(self.gone_back(HistoryBreak::UnknownWriter, epoch).await)
            }
            TargetAssessment::Superseded(epoch) => Err(StopReason::Session(ServiceError::Superseded(epoch))),
            TargetAssessment::SourceRewound(epoch) => Err(self.gone_back(HistoryBreak::LogLost, epoch).await),
        }
    }

    /// Source or state were restored to an older point: positions do not mean any more what they meant.
    async fn gone_back(&self, what: HistoryBreak, epoch: Epoch) -> StopReason {
        let tenant = self.id();
        tracing::error!(%tenant, "{what}: the source went back to an older point, and everybody is resynced");
        match self.context.state.break_own_history(epoch).await {
            Ok(()) => StopReason::Session(ServiceError::WentBack(what)),
            Err(error) => StopReason::Session(error.into()),
        }
    }

    fn identity(&self, target_id: TargetId) -> Identity {
        let SessionContext { generation, epoch, .. } = *self.context;
        Identity { tenant: self.id().clone(), target_id, generation, epoch }
    }

    /// The target's id if it is ours, and a new one otherwise. One that was given to a target which has none yet stays: the
    /// merge that carries it may still be on its way.
    fn own_target_id(&self, observed: &ObservedTarget) -> TargetId {
        let known = self.row.as_ref().and_then(|row| row.target_id.as_ref());
        let found = observed.checkpoint.as_ref().map(|checkpoint| &checkpoint.target_id);
        match known.filter(|known| found.is_none_or(|found| found == *known)) {
            Some(ours) => ours.clone(),
            None => TargetId::new(&uuid::Uuid::new_v4().to_string()),
        }
    }

    /// After a reconnect: what the target holds already is not applied again.
    fn settle_pending(&mut self, position: Lsn) -> Result<(), StopReason> {
        match self.unanswered.take() {
            Some(end) if position < end => {
                return Err(StopReason::Rejoin(ResyncReason::TransactionLost));
            }
            _ => {}
        }
        let Some(mut batch) = self.pending.take() else { return Ok(()) };
        batch.entries.retain(|_, entry| entry.commit_lsn >= position);
        match batch.end {
            Some(end) if end <= position => {
                // It was committed, and the answer was lost.
                self.lane().mailbox.finish(batch.bytes);
                self.context.live.user_watch.notify_all(self.id());
            }
            _ => self.pending = Some(batch),
        }
        Ok(())
    }
}
