//! What a running process shows of itself, from memory: to metrics, to status, and to whoever waits for a user. One for
//! each process; sessions come and go beneath it. Asks nobody, and never a target.

use crate::capture::SourceLog;
use crate::clock::{age, before, now, seconds_since};
use crate::model::{Lsn, ParkCause, Reason, TenantId};
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::tenants::TenantHandle;
use crate::state::TenantState;
use crate::status::metrics::{Metrics, TenantCounts};
use crate::status::report::{IDLE_STEP, Report, TeeReport, TenantReport};
use crate::status::user_watch::UserWatch;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;
use tokio::time::Instant;

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is on its way to the source, or back to it.
    Starting,
    /// Another process has the slot; this one takes over when that goes.
    Standby,
    /// It has the slot.
    Streaming,
}

impl Role {
    /// The word in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Starting => "starting",
            Role::Standby => "standby",
            Role::Streaming => "streaming",
        }
    }
}

/// One for each process.
#[derive(Default)]
pub struct ProcessStatus {
    /// What it counts.
    pub metrics: Metrics,
    /// Who waits for users.
    pub user_watch: Arc<UserWatch>,
    now: Mutex<Now>,
    source: Mutex<Seen>,
    tee: Mutex<Tee>,
}

struct Now {
    role: Role,
    /// Why it is not what it should be.
    reason: Option<String>,
    session: Weak<SessionContext>,
    /// As the last session was when it ended.
    last: Option<Arc<Report>>,
}

impl Default for Now {
    fn default() -> Self {
        Now { role: Role::Starting, reason: None, session: Weak::new(), last: None }
    }
}

/// What was last seen of the source's log.
#[derive(Default)]
struct Seen {
    log: SourceLog,
    /// An end of the log that was not received when it was seen, and when that was.
    behind: Option<(Lsn, Instant)>,
}

#[derive(Default)]
struct Tee {
    shown: Option<(TeeReport, SystemTime)>,
    /// What is in Kafka.
    published: Lsn,
}

/// A tenant's numbers, for a scrape.
pub struct TenantSample {
    /// Whose.
    pub tenant: TenantId,
    /// Following, joining or parked.
    pub state: TenantState,
    /// Why it is parked.
    pub cause: Option<ParkCause>,
    /// As [`TenantReport::lag_bytes`].
    pub lag_bytes: Option<u64>,
    /// As [`TenantReport::lag_seconds`].
    pub lag_seconds: Option<f64>,
    /// What waits for its target.
    pub queue_bytes: usize,
    /// The users among that.
    pub queue_users: usize,
    /// Users that its target refuses.
    pub rejected: u64,
    /// What is counted of it.
    pub counts: Arc<TenantCounts>,
    position: Option<Lsn>,
    lane: Arc<TenantHandle>,
}

impl ProcessStatus {
    /// What the process does, and why it is not what it should be.
    pub fn role(&self) -> (Role, Option<String>) {
        let now = lock(&self.now);
        let lapsed = now.session.upgrade().is_some_and(|context| context.lease_has_lapsed());
        let reason = if lapsed { Some("its lease was not renewed in time".to_owned()) } else { now.reason.clone() };
        (now.role, reason)
    }

    /// Whether it has the slot.
    pub fn is_streaming(&self) -> bool {
        lock(&self.now).role == Role::Streaming
    }

    pub(crate) fn waits_as_standby(&self) {
        let mut now = lock(&self.now);
        (now.role, now.reason) = (Role::Standby, None);
    }

    /// It is on its way to the source again.
    pub(crate) fn starts(&self, reason: Option<String>) {
        let mut now = lock(&self.now);
        (now.role, now.reason) = (Role::Starting, reason);
    }

    /// A session has begun; it is shown as long as the guard lives.
    pub(crate) fn streams(self: &Arc<Self>, context: &Arc<SessionContext>) -> Streaming {
        let mut now = lock(&self.now);
        *now = Now { role: Role::Streaming, session: Arc::downgrade(context), reason: None, last: None };
        lock(&self.source).behind = None;
        Streaming { live: self.clone() }
    }

    /// The source's log as it was seen just now.
    pub fn saw(&self, log: SourceLog) {
        let received = self.session().map(|context| context.progress().received());
        let mut seen = lock(&self.source);
        let is_received = |end: Lsn| received.is_none_or(|received| end.bytes_since(received) < IDLE_STEP);
        seen.behind.take_if(|(end, _)| is_received(*end));
        if let Some(end) = log.end.filter(|end| !is_received(*end)) {
            seen.behind.get_or_insert((end, Instant::now()));
        }
        seen.log = log;
    }

    /// The same, as it was seen last.
    pub fn source_log(&self) -> SourceLog {
        lock(&self.source).log.clone()
    }

    /// Bytes that wait for all targets.
    pub fn memory_queued(&self) -> usize {
        self.session().map_or(0, |context| context.memory.waiting())
    }

    /// The tenants of the session, in the configuration's order; `None` while there is none.
    pub fn tenants(&self) -> Option<Vec<TenantSample>> {
        let context = self.session()?;
        let end = self.end_of_log(&context);
        let behind = lock(&self.source).behind.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64());
        let lanes = context.lanes.all();
        let lanes = lanes.iter().filter(|lane| !lane.retired.is_cancelled());
        let progress = context.progress();
        let at = now();
        let sample = |lane: &Arc<TenantHandle>| {
            let shown = lane.shown();
            let is_following = shown.state == TenantState::Following;
            let position = is_following.then(|| progress.applied_by(&lane.tenant.id));
            let (queue_bytes, queue_users, oldest) = lane.mailbox.waiting();
            TenantSample {
                tenant: lane.tenant.id.clone(),
                state: shown.state,
                cause: shown.park_cause(),
                lag_bytes: position.zip(end).map(|(position, end)| end.bytes_since(position)),
                lag_seconds: is_following.then(|| oldest.map_or(0.0, |oldest| seconds_since(oldest, at)).max(behind)),
                queue_bytes,
                queue_users,
                rejected: shown.rejected,
                counts: lane.counts.clone(),
                position,
                lane: lane.clone(),
            }
        };
        Some(lanes.map(sample).collect())
    }

    /// How much of the tenant's snapshot has been read, from 0 to 1, while it joins in this process.
    pub fn joined_by(&self, tenant: &TenantId) -> Option<f64> {
        let context = self.session()?;
        context.lanes.get(context.index_of(tenant)?).joined_by()
    }

    /// All tenants and the process itself, in words.
    pub fn report(&self) -> Option<Report> {
        let context = self.session()?;
        let tenants = self.tenants()?;
        // Not inside the expression below, which would hold the lock to its end.
        let confirmed = context.progress().confirmed();
        Some(Report {
            slot: context.config.source.slot.clone(),
            generation: context.generation.0,
            holder: context.holder.clone(),
            is_held: !context.lease_has_lapsed(),
            confirmed: confirmed.to_string(),
            source_position: self.end_of_log(&context).map(|end| end.to_string()),
            tenants: tenants.iter().map(TenantSample::report).collect(),
            tee: self.tee(),
        })
    }

    /// As it was when the last session ended.
    pub fn last_report(&self) -> Option<Arc<Report>> {
        lock(&self.now).last.clone()
    }

    /// The tee, as far as this process runs it.
    pub fn tee(&self) -> Option<TeeReport> {
        let (shown, since) = lock(&self.tee).shown.clone()?;
        let wal_held_bytes = lock(&self.source).log.held_back.get(&shown.slot).copied();
        Some(TeeReport { since_seconds: age(since), wal_held_bytes, ..shown })
    }

    /// How much of the source's log lies behind what is in Kafka.
    pub fn tee_lag(&self) -> Option<u64> {
        let published = lock(&self.tee).published;
        let end = lock(&self.source).log.end?;
        (published > Lsn::ZERO).then(|| end.bytes_since(published))
    }

    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) fn tee_is(&self, shown: Option<TeeReport>) {
        let mut tee = lock(&self.tee);
        let since = match (&shown, &tee.shown) {
            (Some(new), Some((old, since))) if new.state == old.state => *since,
            (Some(new), _) => before(new.since_seconds),
            (None, _) => SystemTime::now(),
        };
        tee.shown = shown.map(|shown| (shown, since));
    }

    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) fn tee_published(&self, position: Lsn) {
        lock(&self.tee).published = position;
    }

    /// As it was seen last, unless more has been received since.
    fn end_of_log(&self, context: &SessionContext) -> Option<Lsn> {
        let received = context.progress().received();
        lock(&self.source).log.end.map(|end| end.max(received))
    }

    fn session(&self) -> Option<Arc<SessionContext>> {
        lock(&self.now).session.upgrade()
    }
}

impl TenantSample {
    /// In words.
    pub fn report(&self) -> TenantReport {
        let shown = self.lane.shown();
        TenantReport {
            tenant: self.tenant.to_string(),
            state: shown.state.as_str(),
            since_seconds: Some(age(shown.since)),
            position: self.position.map(|position| position.to_string()),
            lag_bytes: self.lag_bytes,
            lag_seconds: self.lag_seconds,
            queue_bytes: Some(self.queue_bytes as u64),
            queue_users: Some(self.queue_users as u64),
            rejected: shown.rejected,
            last_error: shown.reason,
            reason_code: shown.reason_code.map(Reason::code),
            remedy: shown.remedy,
            target: self.lane.tenant.target.to_string(),
        }
    }
}

/// As long as this lives, its session is the process's.
pub(crate) struct Streaming {
    live: Arc<ProcessStatus>,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let last = self.live.report().map(Arc::new);
        *lock(&self.live.now) = Now { last, ..Now::default() };
        *lock(&self.live.tee) = Tee::default();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held that could leave its value half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
