//! The status of a running process, read from memory for metrics, the status report and the API. There is one in each
//! process, and it outlives sessions. Nothing here queries a database.

use crate::capture::{SlotState, SourceLog};
use crate::clock::{age, before, now, seconds_since};
use crate::model::{Lsn, ParkCause, Reason, ReceivedHistory, SourceTrouble, TenantId, UserCount};
use crate::state::TenantState;
use crate::status::findings::Findings;
use crate::status::metrics::{Metrics, TenantCounts};
use crate::status::report::{
    IDLE_STEP, Report, TeeReport, TenantReport, TroubleReport, UsersWithoutTenant, WithoutUsers, error_since,
    shown_state, waiting,
};
use crate::status::user_watch::UserWatch;
use crate::status::verdict::{JudgedTenants, Verdict};
use crate::status::view::{SessionIdentity, SessionView, TenantReading};
use crate::sync::lock;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connecting to the source, for the first time or again.
    Starting,
    /// Waiting: another process holds the slot. This one takes over once the slot is free.
    Standby,
    /// Holding the slot and replicating.
    Streaming,
}

impl Role {
    /// The name in status, API and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Starting => "starting",
            Role::Standby => "standby",
            Role::Streaming => "streaming",
        }
    }
}

/// The status of a process.
#[derive(Default)]
pub struct ProcessStatus {
    pub(crate) metrics: Metrics,
    /// What is wrong with the table of tenants. It outlives sessions.
    pub(crate) findings: Findings,
    /// Requests that wait for a user to be written to a target.
    pub user_watch: Arc<UserWatch>,
    /// The process applies from Kafka, and has no access to the source.
    lacks_source: bool,
    current: Mutex<Current>,
    source: Mutex<SourceObservation>,
    tee: Mutex<TeeStatus>,
    user_count: Mutex<Option<CountedUsers>>,
    history: Mutex<ReceivedHistory>,
}

struct Current {
    role: Role,
    /// Why the process does not stream.
    reason: Option<String>,
    /// Why its last session ended, and since when sessions have ended with this code.
    trouble: Option<(SourceTrouble, SystemTime)>,
    session: Option<Arc<dyn SessionView>>,
    /// The report of the last session at its end.
    last_report: Option<Arc<Report>>,
}

impl Default for Current {
    fn default() -> Self {
        Current { role: Role::Starting, reason: None, trouble: None, session: None, last_report: None }
    }
}

/// What the process does.
#[derive(Clone, Debug)]
pub struct RoleReport {
    /// The role of the process.
    pub role: Role,
    /// Why it does not stream or may have lost the slot.
    pub reason: Option<String>,
}

/// The source's log as it was read last.
#[derive(Default)]
struct SourceObservation {
    log: SourceLog,
    behind: Option<UnreceivedEnd>,
}

/// An end of the log that had not been received when it was read.
struct UnreceivedEnd {
    end: Lsn,
    read_at: Instant,
}

#[derive(Default)]
struct TeeStatus {
    /// The report, and since when the tee is in its state.
    report: Option<(TeeReport, SystemTime)>,
    /// The stream up to this position is in Kafka.
    published: Lsn,
}

/// The users without a tenant, as this process counted them last.
struct CountedUsers {
    counted: UserCount,
    at: SystemTime,
    took: Duration,
}

/// The numbers of a tenant at one moment.
pub(crate) struct TenantSample {
    pub(crate) tenant: TenantId,
    pub(crate) state: TenantState,
    /// Why the tenant is parked.
    pub(crate) cause: Option<ParkCause>,
    /// As [`TenantReport::lag_bytes`].
    pub(crate) lag_bytes: Option<u64>,
    /// As [`TenantReport::lag_seconds`].
    pub(crate) lag_seconds: Option<f64>,
    pub(crate) queue_bytes: usize,
    pub(crate) rejected: u64,
    pub(crate) counts: Arc<TenantCounts>,
}

/// A tenant with its distance from the end of the source's log.
struct MeasuredTenant {
    reading: TenantReading,
    position: Option<Lsn>,
    lag_bytes: Option<u64>,
    lag_seconds: Option<f64>,
}

impl ProcessStatus {
    /// The status of a process that applies from Kafka: it has no access to the source.
    #[cfg(feature = "kafka")]
    pub fn without_source() -> ProcessStatus {
        ProcessStatus { lacks_source: true, ..ProcessStatus::default() }
    }

    pub(crate) fn lacks_source(&self) -> bool {
        self.lacks_source
    }

    /// What this process has received of the source, also in earlier sessions.
    pub(crate) fn received_history(&self) -> ReceivedHistory {
        *lock(&self.history)
    }

    pub(crate) fn remember_history(&self, history: ReceivedHistory) {
        *lock(&self.history) = history;
    }

    /// The current role.
    pub fn role(&self) -> RoleReport {
        let current = lock(&self.current);
        if current.session.as_ref().is_some_and(|session| session.lease_has_lapsed()) {
            let reason = Some("its lease was not renewed in time".to_owned());
            return RoleReport { role: current.role, reason };
        }
        RoleReport { role: current.role, reason: current.reason.clone() }
    }

    /// Whether the process holds the slot.
    pub fn is_streaming(&self) -> bool {
        lock(&self.current).role == Role::Streaming
    }

    pub(crate) fn set_standby(&self) {
        let mut current = lock(&self.current);
        (current.role, current.reason) = (Role::Standby, None);
    }

    /// The process connects to the source. `reason`: why that takes time.
    pub(crate) fn set_starting(&self, reason: Option<String>) {
        let mut current = lock(&self.current);
        (current.role, current.reason) = (Role::Starting, reason);
    }

    /// What kept the process from its first session is over.
    pub(crate) fn set_beginning(&self) {
        *lock(&self.current) = Current::default();
    }

    /// The last session ended with an error, and another one will be tried.
    pub(crate) fn set_failing(&self, trouble: SourceTrouble, reason: String) {
        let mut current = lock(&self.current);
        let since = current.trouble.filter(|(known, _)| *known == trouble).map_or_else(SystemTime::now, |(_, at)| at);
        (current.role, current.reason, current.trouble) = (Role::Starting, Some(reason), Some((trouble, since)));
    }

    /// Why this process has no session; `None` while it has one, and on a standby.
    pub(crate) fn trouble(&self) -> Option<TroubleReport> {
        let current = lock(&self.current);
        let (trouble, since) = current.trouble.filter(|_| current.role == Role::Starting)?;
        let text = current.reason.clone().unwrap_or_else(|| trouble.to_string());
        Some(TroubleReport { code: trouble.code(), text, since_seconds: age(since) })
    }

    /// Whether the first session is being prepared, or the first one after a new configuration: nothing has failed yet.
    pub(crate) fn is_beginning(&self) -> bool {
        let current = lock(&self.current);
        current.role == Role::Starting && current.trouble.is_none()
    }

    /// A session has begun. The status reads it until the guard is dropped.
    pub(crate) fn set_streaming(self: &Arc<Self>, session: Arc<dyn SessionView>) -> StreamingGuard {
        let mut current = lock(&self.current);
        *current = Current { role: Role::Streaming, session: Some(session), ..Current::default() };
        lock(&self.source).behind = None;
        StreamingGuard { status: self.clone() }
    }

    /// Stores the source's log as it was read just now.
    pub(crate) fn set_source_log(&self, log: SourceLog) {
        let received = self.session().map(|session| session.received());
        let mut source = lock(&self.source);
        let is_received = |end: Lsn| received.is_none_or(|received| end.bytes_since(received) < IDLE_STEP);
        source.behind.take_if(|behind| is_received(behind.end));
        if let Some(end) = log.end.filter(|end| !is_received(*end)) {
            source.behind.get_or_insert(UnreceivedEnd { end, read_at: Instant::now() });
        }
        source.log = log;
    }

    /// The source's log as it was read last.
    pub(crate) fn source_log(&self) -> SourceLog {
        lock(&self.source).log.clone()
    }

    /// Bytes of users of snapshots that wait for targets, in memory and in files.
    pub(crate) fn spool_bytes(&self) -> (usize, u64) {
        self.session().map_or((0, 0), |session| session.spool_bytes())
    }

    /// Bytes that wait for all targets.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.session().map_or(0, |session| session.queued_bytes())
    }

    /// The numbers of the session's tenants, in the configuration's order; `None` without a session.
    pub(crate) fn samples(&self) -> Option<Vec<TenantSample>> {
        let session = self.session()?;
        let mut samples = Vec::new();
        self.visit_tenants(&*session, |measured| samples.push(measured.into_sample()));
        Some(samples)
    }

    fn visit_tenants(&self, session: &dyn SessionView, mut visit: impl FnMut(MeasuredTenant)) {
        let end = self.end_of_log(session);
        let behind = lock(&self.source).behind.as_ref().map_or(0.0, |behind| behind.read_at.elapsed().as_secs_f64());
        let at = now();
        session.visit_tenants(&mut |reading| {
            let is_following = reading.view.state == TenantState::Following;
            let position = is_following.then_some(reading.applied);
            let oldest_age = reading.oldest_queued.map_or(0.0, |oldest| seconds_since(oldest, at));
            visit(MeasuredTenant {
                position,
                lag_bytes: position.zip(end).map(|(position, end)| end.bytes_since(position)),
                lag_seconds: is_following.then(|| oldest_age.max(behind)),
                reading,
            });
        });
    }

    /// The share of the tenant's snapshot that has been read, from 0 to 1; `None` while it does not join here.
    pub(crate) fn snapshot_share(&self, tenant: &TenantId) -> Option<f64> {
        self.session()?.snapshot_share(tenant)
    }

    /// The report of the process and its tenants; `None` without a session.
    pub fn report(&self) -> Option<Report> {
        let session = self.session()?;
        let mut tenants = Vec::new();
        self.visit_reports(&*session, |tenant| tenants.push(tenant));
        Some(Report { tenants, ..self.report_without_tenants(&*session) })
    }

    /// The verdict on what [`ProcessStatus::report`] has; `None` without a session. It needs memory only for what is wrong.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let session = self.session()?;
        let report = self.report_without_tenants(&*session);
        let mut tenants = JudgedTenants::default();
        self.visit_reports(&*session, |tenant| tenants.add(&tenant, report.is_held));
        Some(tenants.judge(&report))
    }

    /// The users without a tenant, as this process counted them last.
    pub(crate) fn users_without_tenant(&self) -> Option<UsersWithoutTenant> {
        let known = lock(&self.user_count);
        known.as_ref().map(|known| UsersWithoutTenant::of(&known.counted, age(known.at)))
    }

    fn visit_reports(&self, session: &dyn SessionView, mut visit: impl FnMut(TenantReport)) {
        let wal_limit = session.identity().source_wal;
        let known = lock(&self.user_count);
        self.visit_tenants(session, |measured| {
            let configured = &measured.reading.tenant;
            let without_users = known.as_ref().and_then(|known| WithoutUsers::of(&known.counted, configured));
            visit(TenantReport { without_users, ..measured.into_report(wal_limit) });
        });
    }

    fn report_without_tenants(&self, session: &dyn SessionView) -> Report {
        let SessionIdentity { slot, generation, holder, .. } = session.identity();
        Report {
            generation: generation.0,
            holder,
            is_held: !session.lease_has_lapsed(),
            idle_processes: Vec::new(),
            unheld_seconds: None,
            trouble: None,
            findings: session.findings().iter().map(TroubleReport::of_state).collect(),
            // The session reads it.
            slot_state: Some(SlotState::Active),
            confirmed: session.confirmed().to_string(),
            source_position: self.end_of_log(session).map(|end| end.to_string()),
            waiting: waiting(&self.source_log()),
            slot,
            users_without_tenant: self.users_without_tenant(),
            partitions: Vec::new(),
            tenants: Vec::new(),
            tee: self.tee(),
        }
    }

    /// The users without a tenant were counted just now.
    pub(crate) fn set_user_count(&self, counted: UserCount, took: Duration) {
        *lock(&self.user_count) = Some(CountedUsers { counted, at: SystemTime::now(), took });
    }

    /// Seconds since this process counted the users last, and how long that took; `None` before.
    pub(crate) fn last_user_count(&self) -> Option<(f64, Duration)> {
        lock(&self.user_count).as_ref().map(|known| (age(known.at), known.took))
    }

    /// Whether a tenant had no users when they were counted last.
    pub(crate) fn lacks_users(&self) -> bool {
        let is_unused = |known: &CountedUsers| match &known.counted {
            UserCount::Counted(counts) => !counts.unused.is_empty(),
            UserCount::Unknown(_) => false,
        };
        lock(&self.user_count).as_ref().is_some_and(is_unused)
    }

    /// The report at the end of the last session, until another one begins.
    pub(crate) fn last_report(&self) -> Option<Arc<Report>> {
        lock(&self.current).last_report.clone()
    }

    /// The tee; `None` if this process runs none.
    pub(crate) fn tee(&self) -> Option<TeeReport> {
        let (report, since) = lock(&self.tee).report.clone()?;
        let wal_held_bytes = lock(&self.source).log.held_back.get(&report.slot).copied();
        Some(TeeReport { since_seconds: age(since), wal_held_bytes, ..report })
    }

    /// Bytes of the source's log after the position that is in Kafka.
    pub(crate) fn tee_lag(&self) -> Option<u64> {
        let published = lock(&self.tee).published;
        let end = lock(&self.source).log.end?;
        (published > Lsn::ZERO).then(|| end.bytes_since(published))
    }

    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) fn set_tee(&self, report: Option<TeeReport>) {
        let mut tee = lock(&self.tee);
        let since = match (&report, &tee.report) {
            (Some(new), Some((old, since))) if new.state == old.state => *since,
            (Some(new), _) => before(new.since_seconds),
            (None, _) => SystemTime::now(),
        };
        tee.report = report.map(|report| (report, since));
    }

    /// The number of users that the Kafka output leaves out.
    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) fn tee_rejected(&self) -> u64 {
        lock(&self.tee).report.as_ref().map_or(0, |(report, _)| report.rejected)
    }

    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) fn set_tee_rejected(&self, rejected: u64) {
        if let Some((report, _)) = &mut lock(&self.tee).report {
            report.rejected = rejected;
        }
    }

    #[cfg_attr(not(feature = "kafka"), allow(dead_code))]
    pub(crate) fn set_tee_published(&self, position: Lsn) {
        lock(&self.tee).published = position;
    }

    /// The end of the log as it was read last, or what has been received since.
    fn end_of_log(&self, session: &dyn SessionView) -> Option<Lsn> {
        let received = session.received();
        if self.lacks_source {
            return Some(received);
        }
        lock(&self.source).log.end.map(|end| end.max(received))
    }

    fn session(&self) -> Option<Arc<dyn SessionView>> {
        lock(&self.current).session.clone()
    }
}

impl MeasuredTenant {
    fn into_sample(self) -> TenantSample {
        let MeasuredTenant { reading, lag_bytes, lag_seconds, .. } = self;
        TenantSample {
            tenant: reading.tenant.id.clone(),
            state: reading.view.state,
            cause: reading.view.park_cause(),
            lag_bytes,
            lag_seconds,
            queue_bytes: reading.queue_bytes,
            rejected: reading.view.rejected,
            counts: reading.counts,
        }
    }

    fn into_report(self, wal_limit: u64) -> TenantReport {
        let MeasuredTenant { reading, position, lag_bytes, lag_seconds } = self;
        let TenantReading { tenant, view, pause, .. } = reading;
        let since = age(view.since);
        TenantReport {
            tenant: tenant.id.to_string(),
            state: shown_state(view.state, pause.is_some()),
            paused: pause.map(|pause| pause.into_report(lag_bytes, wal_limit)),
            since_seconds: Some(since),
            position: position.map(|position| position.to_string()),
            lag_bytes,
            lag_seconds,
            queue_bytes: Some(reading.queue_bytes as u64),
            queue_users: Some(reading.queue_users as u64),
            rejected: view.rejected,
            last_error: view.reason,
            error_since_seconds: error_since(view.state, since, view.failing_since.map(age)),
            failures: view.failures,
            reason_code: view.reason_code.map(Reason::code),
            remedy: view.remedy,
            without_users: None,
            contacted: Some(reading.contacted),
            target: tenant.target.to_string(),
            partition: None,
        }
    }
}

/// The status reads the session until this is dropped.
pub(crate) struct StreamingGuard {
    status: Arc<ProcessStatus>,
}

impl Drop for StreamingGuard {
    fn drop(&mut self) {
        let last_report = self.status.report().map(Arc::new);
        *lock(&self.status.current) = Current { last_report, ..Current::default() };
        *lock(&self.status.tee) = TeeStatus::default();
    }
}
