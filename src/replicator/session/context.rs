//! What the tasks of one session share. Locks are held for a few operations and never across an await.

use crate::config::Config;
use crate::map::{Value, tenant_fingerprint};
use crate::model::{Epoch, Generation, Lsn, RestartSignal, TenantId};
use crate::progress::Progress;
use crate::replicator::session::arriving::OnTheirWay;
use crate::replicator::session::tenants::{TenantHandle, TenantRegistry};
use crate::replicator::source::point_read::Rereader;
use crate::route::{Fingerprints, Memory};
use crate::state::{LEASE, Request, StateAccess, StateStore, TenantState};
use crate::status::live::ProcessStatus;
#[cfg(feature = "kafka")]
use crate::{state::StateError, status::report::TeeReport};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How many targets are looked at together at the start: a bound on the burst, not on who follows.
const OPENING_TOGETHER: usize = 64;

pub(crate) struct SessionContext<S = StateStore> {
    pub(crate) config: Config,
    pub(crate) state: S,
    pub(crate) generation: Generation,
    /// The publication's version when the session began.
    pub(crate) publication: String,
    /// As [`crate::state::Snapshot::epochs`].
    pub(crate) epochs: BTreeMap<Epoch, Lsn>,
    pub(crate) epoch: Epoch,
    pub(crate) lanes: TenantRegistry,
    /// What waits in all of their mailboxes.
    pub(crate) memory: Arc<Memory>,
    pub(crate) rereader: Rereader,
    pub(crate) opening: Semaphore,
    pub(crate) on_their_way: OnTheirWay,
    /// A position may have become safe to confirm.
    pub(crate) advanced: Notify,
    /// The source wants to hear from us, or a position was confirmed.
    pub(crate) report: Notify,
    /// Stop reading, apply what waits, then end.
    pub(crate) drain: CancellationToken,
    /// What the process shows of itself.
    pub(crate) live: Arc<ProcessStatus>,
    /// Who we are, for people.
    pub(crate) holder: String,
    progress: Mutex<Progress>,
    held: Mutex<HashMap<TenantId, Lsn>>,
    /// Whose target was looked at in this session.
    looked_at: Mutex<HashSet<TenantId>>,
    /// When the lease was renewed last.
    lease: Mutex<Instant>,
    mapping: Mutex<Arc<str>>,
    fingerprints: Mutex<Fingerprints>,
}

/// Where a session begins.
pub(crate) struct SessionStart {
    pub(crate) generation: Generation,
    /// Everything before this was confirmed.
    pub(crate) confirmed: Lsn,
    /// The publication's version.
    pub(crate) publication: String,
    /// As [`crate::state::Snapshot::epochs`].
    pub(crate) epochs: BTreeMap<Epoch, Lsn>,
    /// Who begins it, for people.
    pub(crate) holder: String,
}

impl<S: StateAccess> SessionContext<S> {
    pub(crate) fn new(
        config: Config,
        state: S,
        from: SessionStart,
        lanes: Vec<TenantHandle>,
        memory: Arc<Memory>,
        mapping: &str,
        live: Arc<ProcessStatus>,
    ) -> SessionContext<S> {
        let SessionStart { generation, confirmed, publication, epochs, holder } = from;
        SessionContext {
            rereader: Rereader::new(config.source.url.clone(), live.metrics.stripped_escapes.clone()),
            epoch: state.epoch(),
            config,
            state,
            generation,
            publication,
            epochs,
            lanes: TenantRegistry::new(lanes),
            memory,
            looked_at: Mutex::default(),
            lease: Mutex::new(Instant::now()),
            opening: Semaphore::new(OPENING_TOGETHER),
            on_their_way: OnTheirWay::default(),
            advanced: Notify::new(),
            report: Notify::new(),
            drain: CancellationToken::new(),
            live,
            holder,
            progress: Mutex::new(Progress::new(confirmed)),
            held: Mutex::default(),
            mapping: Mutex::new(Arc::from(mapping)),
            fingerprints: Mutex::default(),
        }
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// Which part of the query's key is the user's id.
    pub(crate) fn id_in_key(&self) -> usize {
        let users = &self.config.users;
        let is_id = |column: &String| users.id == Value::Column(column.clone());
        users.query.iter().find_map(|query| query.key.iter().position(is_id)).unwrap_or(0)
    }

    /// What is known of users as they left last.
    pub(crate) fn fingerprints(&self) -> MutexGuard<'_, Fingerprints> {
        lock(&self.fingerprints)
    }

    /// Fingerprint of the mapping that rows are made with now.
    pub(crate) fn mapping(&self) -> Arc<str> {
        lock(&self.mapping).clone()
    }

    /// The same for one tenant: its key decides, too, which rows are its own.
    pub(crate) fn mapping_of(&self, index: usize) -> String {
        tenant_fingerprint(&self.mapping(), &self.lanes.get(index).tenant.key)
    }

    pub(crate) fn set_mapping(&self, mapping: &str) {
        *lock(&self.mapping) = Arc::from(mapping);
    }

    /// The tenant's target durably holds everything up to `position`.
    pub(crate) fn acknowledge(&self, tenant: &TenantId, position: Lsn) {
        self.progress().acknowledge(tenant, position);
        self.note_held(tenant, position);
    }

    /// The tenant's snapshot at `position` is in.
    pub(crate) fn joined(&self, index: usize, position: Lsn) {
        let lane = self.lanes.get(index);
        let mut progress = self.progress();
        match lane.mailbox.is_interrupted() {
            // It has to join once more: what it has dropped since is not confirmed until that is written down.
            true => progress.acknowledge(&lane.tenant.id, position),
            false => progress.joined(&lane.tenant.id, position),
        }
        drop(progress);
        self.note_held(&lane.tenant.id, position);
    }

    /// The tenant wants nothing any more; to be called once that is written down.
    pub(crate) fn release(&self, tenant: &TenantId) {
        self.progress().release(tenant);
        lock(&self.held).remove(tenant);
        self.advanced.notify_one();
    }

    /// The positions that targets have reached since they were taken last, to be written down.
    pub(crate) fn take_held(&self) -> Vec<(TenantId, Lsn)> {
        std::mem::take(&mut *lock(&self.held)).into_iter().collect()
    }

    pub(crate) fn any_held(&self) -> bool {
        !lock(&self.held).is_empty()
    }

    /// Tenants past `limits.source_wal` have to let go of the log.
    pub(crate) fn interrupt_who_holds_log(&self) {
        let limit = self.config.limits.source_wal;
        let (waking, holding) = {
            let progress = self.progress();
            let past = |limit| progress.retaining_over(limit).cloned().collect::<Vec<TenantId>>();
            (past(limit / 2), past(limit))
        };
        // A target that sleeps until there is more is woken before it is too late.
        waking.iter().filter_map(|tenant| self.index_of(tenant)).for_each(|index| self.lanes.get(index).mailbox.wake());
        for tenant in holding {
            if let Some(index) = self.index_of(&tenant) {
                self.interrupt(index, RestartSignal::HoldsLog);
            }
        }
    }

    /// The tenant has to start over, and drops what waits. Its position is held until that is written down: what it
    /// drops must not be confirmed.
    pub(crate) fn interrupt(&self, index: usize, why: RestartSignal) {
        let lane = self.lanes.get(index);
        let mut progress = self.progress();
        progress.retain(&lane.tenant.id);
        lane.mailbox.interrupt(why);
    }

    /// Every tenant that gathers has to start over, because of something at this place of the stream.
    pub(crate) fn interrupt_all(&self, why: RestartSignal) {
        for (index, lane) in self.lanes.all().iter().enumerate() {
            if lane.state() != TenantState::Parked && !lane.retired.is_cancelled() {
                self.interrupt(index, why);
            }
        }
    }

    /// Counts a row that could not be mapped; whether it is time to say so (the first, and then ever more seldom).
    pub(crate) fn count_unmappable(&self) -> Option<u64> {
        let count = self.live.metrics.unmappable_rows.inc() + 1;
        count.is_power_of_two().then_some(count)
    }

    /// Where the tenant has its place now.
    pub(crate) fn index_of(&self, tenant: &TenantId) -> Option<usize> {
        let is_it = |lane: &Arc<TenantHandle>| lane.tenant.id == *tenant && !lane.retired.is_cancelled();
        self.lanes.all().iter().position(is_it)
    }

    /// A resync is asked for: its tenant starts over, if that is news.
    pub(crate) fn ask(&self, request: Request) -> Result<(), Request> {
        let Some(index) = self.index_of(&request.tenant) else { return Err(request) };
        if self.lanes.get(index).ask(request) {
            self.interrupt(index, RestartSignal::Requested);
        }
        Ok(())
    }

    /// Whether this process may have written to the tenant's target before: not at its first look in a session.
    pub(crate) fn has_looked_at(&self, tenant: &TenantId) -> bool {
        lock(&self.looked_at).contains(tenant)
    }

    pub(crate) fn looked_at(&self, tenant: &TenantId) {
        lock(&self.looked_at).insert(tenant.clone());
    }

    /// The lease was renewed by something that began at `begun`.
    pub(crate) fn renewed(&self, begun: Instant) {
        *lock(&self.lease) = begun;
    }

    /// Whether another process may have taken over: nothing may be written any more. A process that was frozen finds
    /// out here when it wakes up; the targets' guards hold where it finds out too late.
    pub(crate) fn lease_has_lapsed(&self) -> bool {
        lock(&self.lease).elapsed() > LEASE
    }

    fn note_held(&self, tenant: &TenantId, position: Lsn) {
        lock(&self.held).insert(tenant.clone(), position);
        self.advanced.notify_one();
    }
}

#[cfg(feature = "kafka")]
impl SessionContext {
    /// Writes the tee's state down, before anything is done that depends on it, and shows it.
    pub(crate) async fn put_tee(
        &self,
        slot: &str,
        state: TenantState,
        reason: Option<&str>,
        remedy: Option<&str>,
    ) -> Result<(), StateError> {
        self.state.put_tee(slot, state, reason, remedy).await?;
        self.live.set_tee(Some(TeeReport {
            slot: slot.to_owned(),
            state: state.as_str(),
            since_seconds: 0.0,
            wal_held_bytes: None,
            last_error: reason.map(str::to_owned),
            remedy: remedy.map(str::to_owned),
        }));
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held that could leave its value half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
