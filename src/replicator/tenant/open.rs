//! Opens a target: connects, fences older processes, assesses the checkpoint, and joins if the target needs a snapshot.

use crate::apply::{
    Authenticity, Checkpoint, Fencing, Identity, ObservedTarget, ParkReason, RecordedTarget, Session, TargetAssessment,
    assess_target,
};
use crate::clock::now;
use crate::model::{Epoch, HistoryBreak, ParkCause, ResyncReason, RetryCause, TargetId};
use crate::pg::PgUrl;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::old_sessions::session_name;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::{ApplyState, Phase};
use crate::replicator::tenant::target::{Connection, Connector, TargetAccess, recorded_target};
use crate::replicator::tenant::worker::Worker;
use crate::state::StateAccess;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// Opening takes a few reads of the catalog and the checkpoint. It waits longer only for locks.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum tolerated clock skew. Epochs are the start times of processes, in milliseconds.
const MAX_CLOCK_SKEW_MS: i64 = 3_600_000;
/// Maximum time that a connection attempt may hold its permit, so that dead targets do not delay the others.
const CONNECT_TURN: Duration = Duration::from_secs(1);
const UNSIGNED_REMEDY: &str = "run in the target, as the owner of users_sync.checkpoint: \
                               ALTER TABLE users_sync.checkpoint ADD COLUMN mac bytea";

/// Upper bound on a plausible epoch. Guards the other tenants against a target with a forged checkpoint.
fn latest_epoch() -> Epoch {
    Epoch(now().unix_millis_floor().unwrap_or(i64::MAX).saturating_add(MAX_CLOCK_SKEW_MS))
}

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Opens the target, and takes a snapshot if it needs one. The phase is `Following` afterwards.
    ///
    /// # Errors
    /// Why the target does not follow. The phase is the one before, or `Joining` if the snapshot failed.
    pub(super) async fn open<'p>(
        &mut self,
        phase: &'p mut Phase,
    ) -> Result<(Connection<C::Target>, &'p mut ApplyState), StopReason> {
        let context = self.context.clone();
        self.attempted_request = self.handle.open_resync_request().map(|request| request.id);
        let handle = self.handle.clone();
        let (mut target, mut observed) = tokio::select! {
            biased;
            signal = handle.mailbox.interrupted() => return Err(signal.into()),
            opened = self.connect() => opened?,
        };
        handle.set_contacted();
        let position = phase.position();
        let recorded = self.row.as_ref().map(recorded_target);
        let recorded =
            recorded.map(|recorded| RecordedTarget { position: recorded.position.max(position), ..recorded });
        let mapping = context.mapping_of(self.index);
        let key = Some(context.state.checkpoint_key());
        let assess = |observed: &ObservedTarget, may_have_fenced| {
            let SessionContext { generation, epoch, ref epochs, .. } = *context;
            let received = context.progress().received();
            let session = Session { generation, epoch, mapping: &mapping, epochs, may_have_fenced, received, key };
            match assess_target(&handle.tenant.id, recorded.as_ref(), observed, &session) {
                TargetAssessment::Superseded(epoch) | TargetAssessment::SourceRewound(epoch)
                    if epoch > latest_epoch() =>
                {
                    TargetAssessment::Park(ParkReason::FutureEpoch(epoch))
                }
                assessment => assessment,
            }
        };
        let is_first = !context.was_opened(self.id());
        if let Some(reason) = target.no_wait_for().filter(|_| is_first) {
            let remedy = "GRANT CREATE ON SCHEMA users_sync to its role there, or `users-sync setup`";
            tracing::warn!(reason, remedy, "could not create users_sync.wait_for in the target");
        }
        if let Some(reason) = target.no_mac().filter(|_| is_first) {
            tracing::warn!(reason, remedy = UNSIGNED_REMEDY, "could not add users_sync.checkpoint.mac in the target");
        }
        let signs = target.no_mac().is_none();
        let may_have_fenced = context.may_have_fenced(self.id());
        let mut assessment = assess(&observed, may_have_fenced);
        let is_fenced = observed.checkpoint.as_ref().is_some_and(|checkpoint| {
            let is_signed = checkpoint.authenticity(key) == Authenticity::Verified;
            checkpoint.epoch == context.epoch && (is_signed || !signs)
        });
        if !is_fenced && is_usable(&assessment) {
            // An older process may have committed since the target was observed.
            let seen = |checkpoint: Option<&Checkpoint>| ObservedTarget { checkpoint: checkpoint.cloned(), ..observed };
            context.mark_fencing(self.id());
            let decide = |found: Option<&Checkpoint>| {
                let is_verified = found.map(|found| found.authenticity(key)) == Some(Authenticity::Verified);
                match assess(&seen(found), may_have_fenced) {
                    TargetAssessment::Resume(_) => Fencing::RaiseAndSign,
                    TargetAssessment::Snapshot(_) if is_verified => Fencing::RaiseAndSign,
                    TargetAssessment::Snapshot(_) => Fencing::Raise,
                    TargetAssessment::Park(_)
                    | TargetAssessment::Superseded(_)
                    | TargetAssessment::SourceRewound(_) => Fencing::Leave,
                }
            };
            let found = target.fence(self.id(), context.epoch, &decide).await?;
            observed = seen(found.as_ref());
            assessment = assess(&observed, may_have_fenced);
        }
        self.relation = target.relation();
        if is_usable(&assessment) {
            context.mark_opened(self.id());
        }
        let adopts = handle.open_resync_request().is_some_and(|request| request.adopt.is_some());
        let tenants = context.tenants.all();
        let configured = tenants.values().filter(|handle| !handle.is_retired());
        let mut replaces = None;
        if let TargetAssessment::Park(reason) = &assessment
            && adopts
            && reason.may_be_adopted(configured.map(|handle| &handle.tenant.id))
        {
            // The transaction that replaces its checkpoint fences its writer, and writes this epoch.
            context.mark_fencing(self.id());
            replaces = observed.checkpoint.take();
            assessment = TargetAssessment::Snapshot(ResyncReason::HandedOver);
            context.mark_opened(self.id());
        }
        match assessment {
            TargetAssessment::Resume(position) => {
                self.rejected.load(target.read_rejected().await?);
                let target_id = recorded.and_then(|recorded| recorded.target_id);
                let who = self.identity(target_id.ok_or(StopReason::Rejoin(ResyncReason::NoTargetId))?, mapping);
                self.note_checkpoint(position, signs, self.opens_as(&who.mapping)).await?;
                let (apply, finished) = phase.resume(position).map_err(StopReason::Rejoin)?;
                if let Some(finished) = finished {
                    self.handle.mailbox.finish(finished.bytes);
                    context.status.user_watch.notify_all(self.id());
                }
                self.discard_applied(position);
                context.acknowledge(self.id(), position);
                Ok((Connection { target, who }, apply))
            }
            TargetAssessment::Snapshot(reason) => {
                let reason = phase.reason().unwrap_or(reason);
                let who = self.identity(self.own_target_id(&observed), mapping);
                let mut connection = Connection { target, who };
                self.try_stuck_row(&mut connection.target).await?;
                let joined = self.join(phase, &mut connection, reason, replaces).await;
                self.end_trace(&joined);
                let apply = joined?;
                Ok((connection, apply))
            }
            TargetAssessment::Park(reason) => Err(StopReason::Park {
                cause: ParkCause::Foreign,
                remedy: reason.remedy(self.id()),
                reason: reason.to_string(),
            }),
            TargetAssessment::Superseded(epoch) if context.state.is_newest().await.map_err(ServiceError::from)? => {
                Err(self.break_history(HistoryBreak::UnknownWriter, epoch).await)
            }
            TargetAssessment::Superseded(epoch) => Err(StopReason::Session(ServiceError::Superseded(epoch))),
            TargetAssessment::SourceRewound(epoch) => Err(self.break_history(HistoryBreak::LogLost, epoch).await),
        }
    }

    async fn connect(&mut self) -> Result<(C::Target, ObservedTarget), StopReason> {
        let (configured, version) = self.handle.configured_version();
        self.config_version = version;
        // Another installation's `adopt` sees who writes here.
        let SessionContext { epoch, ref config, .. } = *self.context;
        let mut target = configured.target.clone();
        target.application_name = session_name(&target.application_name, &config.source.slot, epoch);
        tokio::select! {
            biased;
            connected = self.connect_to(&target) => connected,
            () = self.moved() => Err(StopReason::Moved),
        }
    }

    async fn connect_to(&self, url: &PgUrl) -> Result<(C::Target, ObservedTarget), StopReason> {
        let context = &self.context;
        let mut connecting = pin!(self.connector.connect(url));
        // Only first connections come in bursts.
        let permit = if context.was_opened(self.id()) { None } else { context.opening.acquire().await.ok() };
        let connected = timeout(CONNECT_TURN, &mut connecting).await;
        drop(permit);
        let client = match connected {
            Ok(connected) => connected?,
            Err(_) => connecting.await?,
        };
        let opened =
            timeout(OPEN_TIMEOUT, self.connector.open(client, &context.config, context.state.checkpoint_key())).await;
        opened.map_err(|_| StopReason::from(RetryCause::TablesLocked))?
    }

    /// The source or the state was restored to an older point, so positions have lost their meaning.
    async fn break_history(&self, what: HistoryBreak, epoch: Epoch) -> StopReason {
        let tenant = self.id();
        if self.context.topic.is_some() {
            tracing::warn!(%tenant, "another process writes to the target: taking it over; stop that process, or take the tenant from its configuration");
        } else {
            tracing::error!(%tenant, "{what}: the source went back to an older point, so every tenant is resynced");
        }
        match self.context.state.break_own_history(epoch).await {
            Ok(()) => StopReason::Session(ServiceError::WentBack(what)),
            Err(error) => StopReason::Session(error.into()),
        }
    }

    fn identity(&self, target_id: TargetId, mapping: String) -> Identity {
        let SessionContext { generation, epoch, .. } = *self.context;
        Identity { tenant: self.id().clone(), target_id, generation, epoch, mapping }
    }

    /// The target's id if this installation gave it one, and a new id otherwise. The id of a target without a checkpoint
    /// stays, as a merge that carries it may still commit.
    fn own_target_id(&self, observed: &ObservedTarget) -> TargetId {
        let known = self.row.as_ref().and_then(|row| row.target_id.as_ref());
        let found = observed.checkpoint.as_ref().map(|checkpoint| &checkpoint.target_id);
        match known.filter(|known| found.is_none_or(|found| found == *known)) {
            Some(known) => known.clone(),
            None => TargetId::new(&uuid::Uuid::new_v4().to_string()),
        }
    }
}

/// Whether this process may write to the target.
fn is_usable(assessment: &TargetAssessment) -> bool {
    matches!(assessment, TargetAssessment::Resume(_) | TargetAssessment::Snapshot(_))
}
