//! A tenant's task: opens its target, decides how it stands, lets it join, follow or park, and begins again.

mod apart;
mod follow;
mod halt;
pub(super) mod purge;
mod record;
mod resolve;

use super::ServiceError;
use super::backoff::Backoff;
use super::fault::{self, Cause};
use super::lanes::Lane;
use super::reading::join::{JoinRequest, Joining, OnTheirWay};
use super::reading::progress::HowFar;
use super::reading::reread::Found;
use super::shared::Shared;
use crate::apply::{Identity, Mirror, Observed, Session, Standing, Target, decide_standing};
use crate::config::MaxDeletes;
use crate::model::{Epoch, Lsn, Oid, TargetId, TenantId, UserId};
use crate::pg::connect;
use crate::route::Batch;
use crate::snapshot::{Loading, load};
use crate::state::{NOT_CONFIGURED, TenantRow, TenantState};
use halt::Halt;
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// A parked tenant is looked at again after this long, and then ever more seldom.
const PARKED_FIRST: Duration = Duration::from_secs(1);
const PARKED_LAST: Duration = Duration::from_secs(300);
/// Looking at a target is a few reads of its catalog and checkpoint.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// So long at most one target keeps another from being connected to.
const TURN: Duration = Duration::from_secs(1);
/// A target that nothing is written to for this long loses its connection, so that it can fall asleep.
const IDLE: Duration = Duration::from_secs(60);

/// What the state remembers of a tenant, as far as its standing depends on it.
pub(super) fn mirror(row: &TenantRow) -> Mirror {
    Mirror {
        following: row.state == TenantState::Following,
        target_id: row.target_id.clone(),
        position: row.position,
        generation: row.generation,
        relation: row.relation,
    }
}

/// One tenant's task.
pub(super) struct Worker {
    shared: Arc<Shared>,
    index: usize,
    lane: Arc<Lane>,
    joins: mpsc::Sender<JoinRequest>,
    /// The state's row, as it was written last.
    row: Option<TenantRow>,
    /// What the target's checkpoint says, while it follows.
    position: Lsn,
    /// Taken from the mailbox and not yet in the target.
    pending: Option<Batch>,
    /// The last statement of a chunked transaction was sent up to here, and no answer came: the checkpoint tells.
    unanswered: Option<Lsn>,
    /// Why it has to join, where that is known better than from state and checkpoint.
    has_to_join: Option<&'static str>,
    /// Until it is known whether it has to join, and then until it has asked for its snapshot.
    on_its_way: Option<OnTheirWay>,
    /// The stream has been gathered since the slot was made, so that the slot's own snapshot will do.
    gathered_since_creation: bool,
    /// What the newest re-read of a user saw: older changes of that user are in it.
    seen: HashMap<UserId, Arc<Found>>,
    /// When deletes of its target become due for good.
    purge_due: Option<Instant>,
    /// The file of `users_sync` in its target.
    relation: Option<Oid>,
    /// The users that its target refuses.
    rejected: HashSet<UserId>,
    /// The last snapshot was refused where rows could not be told apart.
    tells_rows_apart: bool,
    /// The newest request that this attempt takes into account.
    attempted: Option<i64>,
    /// The connection was given up because nothing waited.
    idle: bool,
    retry: Backoff,
    failing_since: Option<Instant>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        index: usize,
        joins: mpsc::Sender<JoinRequest>,
        row: Option<TenantRow>,
        gathered_since_creation: bool,
    ) -> Worker {
        Worker {
            lane: shared.lanes.get(index),
            on_its_way: Some(shared.on_their_way.clone()),
            shared,
            index,
            joins,
            row,
            position: Lsn::ZERO,
            pending: None,
            unanswered: None,
            has_to_join: None,
            gathered_since_creation,
            seen: HashMap::new(),
            purge_due: None,
            relation: None,
            rejected: HashSet::new(),
            tells_rows_apart: false,
            attempted: None,
            idle: false,
            retry: Backoff::new(RETRY_FIRST, RETRY_LAST),
            failing_since: None,
        }
    }

    fn index(&self) -> usize {
        self.index
    }

    fn lane(&self) -> &Lane {
        &self.lane
    }

    fn id(&self) -> &TenantId {
        &self.lane().tenant.id
    }

    /// Works until the session drains, or the configuration does not have the tenant any more. That comes at any point,
    /// as a crash would: the state says so before the log is let go.
    pub(super) async fn run(mut self) -> Result<(), ServiceError> {
        let lane = self.lane.clone();
        let ended = lane.ended.clone().drop_guard();
        let done = tokio::select! {
            done = self.go_on() => return done,
            () = lane.retired.cancelled() => self.retire().await,
        };
        drop(ended);
        done
    }

    async fn retire(mut self) -> Result<(), ServiceError> {
        let target_id = self.row.as_ref().and_then(|row| row.target_id.clone());
        self.put(TenantState::Parked, Some(NOT_CONFIGURED.to_owned()), None, target_id, Lsn::ZERO).await?;
        tracing::info!(tenant = %self.id(), reason = NOT_CONFIGURED, "parked");
        self.lane.mailbox.close();
        self.shared.release(self.id());
        Ok(())
    }

    async fn go_on(&mut self) -> Result<(), ServiceError> {
        let mut parked = Backoff::new(PARKED_FIRST, PARKED_LAST);
        loop {
            match self.work(&mut parked).await {
                Halt::Drained => return Ok(()),
                Halt::Session(error) => return Err(error),
                Halt::Idle => self.idle = true,
                Halt::Retry(_) if self.shared.drain.is_cancelled() => return Ok(()),
                Halt::Rejoin(reason) => self.has_to_join(reason).await?,
                Halt::Retry(reason) => match self.failing_for() {
                    long if long > self.shared.config.limits.park_after => {
                        let remedy = "it comes back by itself once its target does";
                        self.park(Cause::Away, &reason, remedy, &mut parked).await?;
                    }
                    _ => {
                        let wait = self.retry.step();
                        tracing::warn!(tenant = %self.id(), reason, ?wait, "its target is tried again");
                        self.lane.counts.reconnects();
                        self.lane.set_away(true);
                        self.note(Some(reason)).await?;
                        self.wait(wait).await;
                    }
                },
                Halt::Park { cause, reason, remedy } => self.park(cause, &reason, &remedy, &mut parked).await?,
                Halt::Refused(refusal) => {
                    // Where rows are told apart, that is done; here it was no row of ours.
                    let reason = format!("its target refuses what is written to it (SQLSTATE {})", refusal.sqlstate);
                    self.park(Cause::Refuses, &reason, fault::REFUSES, &mut parked).await?;
                }
            }
            if self.shared.drain.is_cancelled() && self.lane().state() != TenantState::Following {
                return Ok(());
            }
        }
    }

    /// From an open target to whatever ends that.
    async fn work(&mut self, parked: &mut Backoff) -> Halt {
        if std::mem::take(&mut self.idle)
            && let Err(halt) = self.doze().await
        {
            return halt;
        }
        // Most tenants are idle most of the time: they do not keep the room that this needs.
        Box::pin(self.open_and_follow(parked)).await
    }

    /// Waits without a connection until there is something to write.
    async fn doze(&mut self) -> Result<(), Halt> {
        if let Some(wake_after) = self.lane.tenant.wake_after {
            self.lane.mailbox.gather(true);
            tokio::select! {
                () = self.lane.mailbox.worth_waking(wake_after) => {}
                () = self.shared.drain.cancelled() => {}
            }
        }
        let due = self.purge_due;
        let is_due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            next = self.next_batch(None) => self.pending = Some(next?),
            () = is_due => {}
        }
        Ok(())
    }

    async fn open_and_follow(&mut self, parked: &mut Backoff) -> Halt {
        let opened = self.open().await;
        self.on_its_way = None;
        let (mut target, who) = match opened {
            Ok(opened) => opened,
            Err(halt) => return halt,
        };
        self.worked();
        parked.reset();
        if let Err(error) = self.note(None).await {
            return error.into();
        }
        self.lane.set_away(false);
        self.follow(&mut target, &who).await
    }

    /// How long a target keeps its connection while nothing waits for it. One that is to sleep loses it at once: the next
    /// login of somebody would come before any idle time is over.
    fn idle_time(&self) -> Duration {
        let until_purge = self.purge_due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        match self.lane.tenant.wake_after {
            Some(_) => Duration::ZERO,
            None => IDLE.min(until_purge),
        }
    }

    /// Connects, looks, decides; a tenant that has to join has joined when this returns.
    async fn open(&mut self) -> Result<(Target, Identity), Halt> {
        let shared = self.shared.clone();
        self.attempted = self.lane.asked().map(|request| request.id);
        let opening = async {
            let mut connecting = pin!(connect(&self.lane.tenant.target));
            // Later on they come one by one.
            let turn = match shared.has_looked_at(self.id()) {
                true => None,
                false => shared.opening.acquire().await.ok(),
            };
            // Many that do not answer must not keep the others waiting.
            let connected = timeout(TURN, &mut connecting).await;
            drop(turn);
            let connected = match connected {
                Ok(connected) => connected,
                Err(_) => connecting.await,
            };
            let client = connected.map_err(|error| Halt::from(fault::of_connect(&error)))?;
            let opened = timeout(OPEN_WITHIN, Target::open(client, shared.config.deletes, shared.config.notify)).await;
            Ok::<_, Halt>(opened.map_err(|_| Halt::Retry("somebody locks its tables".to_owned()))??)
        };
        let (mut target, mut observed) = tokio::select! {
            opened = opening => opened?,
            why = self.lane().mailbox.interrupted() => return Err(why.into()),
        };
        let mirror = self.row.as_ref().map(mirror);
        let mirror = mirror.map(|mirror| Mirror { position: mirror.position.max(self.position), ..mirror });
        let mapping = shared.mapping_of(self.index);
        let decide = |observed: &Observed, epochs| {
            let Shared { generation, epoch, .. } = *shared;
            let session = Session { generation, epoch, mapping: &mapping, epochs };
            decide_standing(&self.lane.tenant.id, mirror.as_ref(), observed, &session)
        };
        let is_first = !shared.has_looked_at(self.id());
        if let Some(reason) = target.no_wait_for().filter(|_| is_first) {
            let remedy = "GRANT CREATE ON SCHEMA users_sync to its role there, or `users-sync setup`";
            tracing::warn!(tenant = %self.id(), reason, remedy, "users_sync.wait_for could not be made in its target");
        }
        let mut standing = decide(&observed, is_first.then_some(&shared.epochs));
        let is_fenced = observed.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.epoch == shared.epoch);
        if !is_fenced && matches!(standing, Standing::Follow(_) | Standing::Join(_)) {
            target.fence(self.id(), shared.epoch).await?;
            // An older process may have committed until just now.
            observed.checkpoint = target.checkpoint().await?;
            standing = decide(&observed, None);
        }
        self.relation = target.relation();
        if matches!(standing, Standing::Follow(_) | Standing::Join(_)) {
            shared.looked_at(self.id());
        }
        match standing {
            Standing::Follow(position) => {
                self.rejected = target.read_rejected().await?.into_iter().collect();
                let target_id = mirror.and_then(|mirror| mirror.target_id);
                let identity = self.identity(target_id.ok_or(Halt::Rejoin("the state has no id for its target"))?);
                self.settle_pending(position)?;
                self.position = position;
                self.hold(position);
                shared.acknowledge(self.id(), position);
                Ok((target, identity))
            }
            Standing::Join(reason) => {
                let reason = self.has_to_join.unwrap_or(reason);
                let identity = self.identity(self.own_target_id(&observed));
                self.join(&mut target, &identity, reason).await?;
                Ok((target, identity))
            }
            Standing::Park(reason) => {
                Err(Halt::Park { cause: Cause::Foreign, remedy: reason.remedy(self.id()), reason: reason.to_string() })
            }
            Standing::StepDown(epoch) if shared.state.is_newest().await.map_err(ServiceError::from)? => {
                let what = "the target was written by a process that the state does not know";
                Err(self.gone_back(what, epoch).await)
            }
            Standing::StepDown(epoch) => Err(Halt::Session(ServiceError::Superseded(epoch))),
            Standing::Ahead(epoch) => {
                Err(self.gone_back("the target holds what the source's log has lost", epoch).await)
            }
        }
    }

    /// Source or state were restored to an older point: positions do not mean any more what they meant.
    async fn gone_back(&self, what: &'static str, epoch: Epoch) -> Halt {
        let tenant = self.id();
        tracing::error!(%tenant, "{what}: the source went back to an older point, and everybody is resynced");
        match self.shared.state.break_own_history(epoch).await {
            Ok(()) => Halt::Session(ServiceError::WentBack(what)),
            Err(error) => Halt::Session(error.into()),
        }
    }

    fn identity(&self, target_id: TargetId) -> Identity {
        let Shared { generation, epoch, .. } = *self.shared;
        Identity { tenant: self.id().clone(), target_id, generation, epoch }
    }

    /// The target's id if it is ours, and a new one otherwise. One that was given to a target which has none yet stays: the
    /// merge that carries it may still be on its way.
    fn own_target_id(&self, observed: &Observed) -> TargetId {
        let known = self.row.as_ref().and_then(|row| row.target_id.as_ref());
        let found = observed.checkpoint.as_ref().map(|checkpoint| &checkpoint.target_id);
        match known.filter(|known| found.is_none_or(|found| found == *known)) {
            Some(ours) => ours.clone(),
            None => TargetId::new(&uuid::Uuid::new_v4().to_string()),
        }
    }

    /// After a reconnect: what the target holds already is not applied again.
    fn settle_pending(&mut self, position: Lsn) -> Result<(), Halt> {
        match self.unanswered.take() {
            Some(end) if position < end => {
                return Err(Halt::Rejoin("its connection broke inside a transaction too large to keep"));
            }
            _ => {}
        }
        let Some(mut batch) = self.pending.take() else { return Ok(()) };
        batch.entries.retain(|_, entry| entry.commit_lsn >= position);
        match batch.end {
            Some(end) if end <= position => self.lane().mailbox.finish(batch.bytes),
            _ => self.pending = Some(batch),
        }
        Ok(())
    }

    async fn join(&mut self, target: &mut Target, who: &Identity, reason: &'static str) -> Result<(), Halt> {
        let shared = self.shared.clone();
        tracing::info!(tenant = %self.id(), reason, "joins");
        self.put(TenantState::Joining, Some(reason.to_owned()), None, Some(who.target_id.clone()), Lsn::ZERO).await?;
        let since_creation = std::mem::take(&mut self.gathered_since_creation);
        if !since_creation {
            self.forget_what_waits();
            self.lane().mailbox.open();
            shared.progress().join(self.id());
        }
        let asked = self.lane.asked();
        self.attempted = asked.as_ref().map(|request| request.id);
        let tells_rows_apart = self.tells_rows_apart;
        let (reply, answer) = oneshot::channel();
        let request = JoinRequest { tenant: self.index, since_creation, reply };
        let lane = self.lane.clone();
        let on_its_way = self.on_its_way.take();
        lane.is_read(&HowFar::default());
        let work = async {
            let broken = |why: &str| Halt::Retry(format!("its snapshot could not be taken: {why}"));
            self.joins.send(request).await.map_err(|_| broken("the session ends"))?;
            drop(on_its_way);
            let Joining { position, mut rows } = match answer.await {
                Ok(answer) => answer.map_err(|why| broken(&why))?,
                // Whoever relied on the slot's own snapshot comes too late for it.
                Err(_) => return Err(broken("it was given up")),
            };
            let mapping = shared.mapping_of(self.index);
            let loading = Loading {
                who,
                mapping: &mapping,
                position,
                deletes: shared.config.deletes,
                tells_rows_apart,
                max_deletes: match asked.as_ref().is_some_and(|request| request.allow_deletes) {
                    true => MaxDeletes::ALL,
                    false => shared.config.limits.max_deletes,
                },
            };
            let loaded = load(target, &loading, &mut rows).await;
            loaded.map(|loaded| (position, loaded)).map_err(|error| Halt::from(fault::of_load(&error, &lane.tenant.id)))
        };
        let (position, loaded) = tokio::select! {
            done = work => match done {
                Err(Halt::Refused(refusal)) if !self.tells_rows_apart => {
                    self.tells_rows_apart = true;
                    return Err(Halt::Retry(format!("its target refuses a row (SQLSTATE {})", refusal.sqlstate)));
                }
                done => done?,
            },
            why = lane.mailbox.interrupted() => return Err(why.into()),
            () = shared.drain.cancelled() => return Err(Halt::Drained),
        };
        self.tells_rows_apart = false;
        self.say_who_is_refused(&loaded.rejected);
        self.rejected = loaded.rejected.into_iter().map(|(id, _)| id).collect();
        self.put(TenantState::Following, None, None, Some(who.target_id.clone()), position).await?;
        self.has_to_join = None;
        self.position = position;
        self.hold(position);
        shared.joined(self.id(), position);
        self.lane.counts.resynced();
        shared.live.arrivals.many_arrived(self.id());
        tracing::info!(
            tenant = %self.id(), %position, users = loaded.read, inserted = loaded.inserted,
            updated = loaded.updated, deleted = loaded.deleted, "follows"
        );
        Ok(self.answer_request().await?)
    }

    /// The target holds everything up to here.
    fn hold(&self, position: Lsn) {
        let mut fingerprints = self.shared.fingerprints();
        let dropped = self.lane().mailbox.hold(position);
        dropped.iter().for_each(|id| fingerprints.forget(self.index, id));
    }

    /// The next batch; without an `idle` time it is waited for as long as it takes.
    async fn next_batch(&mut self, idle: Option<Duration>) -> Result<Batch, Halt> {
        let mailbox = &self.lane().mailbox;
        let next = match mailbox.try_next() {
            Some(next) => next,
            None => tokio::select! {
                next = timeout(idle.unwrap_or(Duration::MAX), mailbox.next()) => next.map_err(|_| Halt::Idle)?,
                () = self.shared.drain.cancelled() => mailbox.try_next().ok_or(Halt::Drained)?,
            },
        };
        let mut batch = next?;
        self.drop_what_was_seen(&mut batch);
        Ok(batch)
    }

    fn worked(&mut self) {
        self.failing_since = None;
        self.retry.reset();
    }

    fn failing_for(&mut self) -> Duration {
        self.failing_since.get_or_insert_with(Instant::now).elapsed()
    }

    fn forget_what_waits(&mut self) {
        self.pending = None;
        self.unanswered = None;
        self.seen.clear();
        self.position = Lsn::ZERO;
    }

    /// Waits before the next attempt; an interrupt is met there.
    async fn wait(&self, how_long: Duration) {
        tokio::select! {
            () = sleep(how_long) => {}
            _ = self.lane().mailbox.interrupted() => {}
            () = self.shared.drain.cancelled() => {}
        }
    }
}
