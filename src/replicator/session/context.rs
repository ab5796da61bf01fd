//! What the tasks of one session share. No lock is held across an await.

use crate::config::Config;
use crate::model::{Anchor, Epoch, Generation, Lsn, RestartSignal, TenantId, TenantIdx};
use crate::progress::Progress;
use crate::replicator::backoff::Turns;
use crate::replicator::session::apply_turns::ApplyTurns;
use crate::replicator::session::expected_joins::ExpectedJoins;
use crate::replicator::session::scan_aborts::ScanAborts;
use crate::replicator::session::tenants::{ResyncRequest, TenantHandle, TenantRegistry};
use crate::replicator::session::topic_snapshots::TopicSnapshots;
use crate::replicator::source::point_read::Rereader;
use crate::replicator::source::shape::KnownShape;
use crate::route::{Fingerprints, Memory};
use crate::snapshot::Spool;
use crate::state::{LEASE, Pauses, Request, RequestKind, StateAccess, StateStore, TroubleRow};
#[cfg(feature = "kafka")]
use crate::state::{TeeFailure, TenantState};
use crate::status::findings::Findings;
use crate::status::process::ProcessStatus;
use crate::sync::lock;
use crate::telemetry::session_span;
#[cfg(feature = "kafka")]
use crate::{
    state::StateError,
    status::report::{TeeReport, tee_code},
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// Targets that are opened at the same time. Bounds the burst at the start, not the number of open targets.
const MAX_CONCURRENT_OPENS: usize = 64;
/// Time between two attempts of parked tenants: together they are tried five times a second.
const PARKED_GAP: Duration = Duration::from_millis(200);

pub(crate) struct SessionContext<S = StateStore> {
    pub(crate) config: Config,
    pub(crate) state: S,
    pub(crate) generation: Generation,
    /// When the source's server has started. A server that was restored has started again.
    pub(crate) source_start: String,
    /// The publication's version at the start of the session.
    pub(crate) publication: String,
    /// As [`crate::state::Snapshot::epochs`].
    pub(crate) epochs: BTreeMap<Epoch, Lsn>,
    pub(crate) epoch: Epoch,
    /// Exported when the session ends: [`SessionContext::end_trace`].
    trace: Mutex<Span>,
    pub(crate) tenants: TenantRegistry,
    /// The memory of all mailboxes and of the spool.
    pub(crate) memory: Arc<Memory>,
    /// Where the users of snapshots wait for their targets.
    pub(crate) spool: Arc<Spool>,
    pub(crate) scan_aborts: ScanAborts,
    /// What a person has to fix at the source while the session goes on.
    pub(crate) findings: Findings,
    pub(crate) rereader: Rereader,
    /// The tenants' snapshots in the topic that the session applies from; `None` if it reads the source.
    pub(crate) topic: Option<Arc<TopicSnapshots>>,
    pub(crate) opening: Semaphore,
    pub(crate) turns: ApplyTurns,
    /// When parked tenants are tried again.
    pub(crate) parked_turns: Turns,
    pub(crate) expected_joins: ExpectedJoins,
    /// Notified when a position may have become safe to confirm.
    pub(crate) advanced: Notify,
    /// Notified when the source requests a status update, or a position was confirmed.
    pub(crate) report: Notify,
    /// Notified when a user came to, or left, no tenant.
    pub(crate) users_changed: Notify,
    /// Notified when tenants were added or removed.
    pub(crate) tenants_changed: Notify,
    /// Cancelled to stop reading, apply queued changes and end.
    pub(crate) drain: CancellationToken,
    pub(crate) status: Arc<ProcessStatus>,
    /// Names this process in the state, for people.
    pub(crate) holder: String,
    /// A transaction that the slot has to send again. Without it, the source went back to an older point.
    pub(crate) expected: Option<Anchor>,
    progress: Mutex<Progress>,
    /// The source had written its log up to here when it was last asked.
    written: Mutex<Lsn>,
    /// Positions that targets have reached, not yet recorded in the state.
    unrecorded: Mutex<HashMap<TenantId, Lsn>>,
    /// Tenants whose target was opened in this session.
    opened: Mutex<HashSet<TenantId>>,
    /// Tenants whose target this process has begun to fence.
    fenced: Mutex<HashSet<TenantId>>,
    /// The start of the last renewal of the lease.
    lease: Mutex<Instant>,
    /// Locked while a change of the source is assessed.
    pub(crate) shape: tokio::sync::Mutex<KnownShape>,
    mapping: watch::Sender<Arc<str>>,
    fingerprints: Mutex<Fingerprints>,
}

/// The starting point of a session.
pub(crate) struct SessionStart {
    pub(crate) generation: Generation,
    /// Everything before this position was confirmed.
    pub(crate) confirmed: Lsn,
    /// As [`SessionContext::source_start`].
    pub(crate) source_start: String,
    /// The publication's version.
    pub(crate) publication: String,
    /// As [`crate::state::Snapshot::epochs`].
    pub(crate) epochs: BTreeMap<Epoch, Lsn>,
    /// As [`SessionContext::holder`].
    pub(crate) holder: String,
    /// The shape of the source as the state has recorded it.
    pub(crate) shape: KnownShape,
    /// The last transaction that an earlier session received.
    pub(crate) anchor: Anchor,
    /// The source has written its log up to here.
    pub(crate) written: Lsn,
    /// As [`SessionContext::topic`].
    pub(crate) topic: Option<Arc<TopicSnapshots>>,
    pub(crate) turns: ApplyTurns,
}

impl<S: StateAccess> SessionContext<S> {
    /// What is wrong at the source and with the table of tenants.
    pub(crate) fn all_findings(&self) -> Vec<TroubleRow> {
        self.findings.rows().into_iter().chain(self.status.findings.rows()).collect()
    }

    pub(crate) fn new(
        config: Config,
        state: S,
        from: SessionStart,
        handles: Vec<TenantHandle>,
        memory: Arc<Memory>,
        mapping: &str,
        status: Arc<ProcessStatus>,
    ) -> SessionContext<S> {
        let SessionStart {
            generation,
            confirmed,
            source_start,
            publication,
            epochs,
            holder,
            shape,
            anchor,
            written,
            topic,
            turns,
        } = from;
        let mut progress = Progress::new(confirmed);
        progress.remember(anchor);
        SessionContext {
            rereader: Rereader::new(
                Some(config.source.url.clone()).filter(|_| topic.is_none()),
                status.metrics.stripped_escapes.clone(),
            ),
            topic,
            epoch: state.epoch(),
            trace: Mutex::new(session_span(state.epoch(), generation)),
            spool: Arc::new(Spool::new(&config.spool, memory.clone())),
            scan_aborts: ScanAborts::default(),
            findings: Findings::default(),
            config,
            state,
            generation,
            source_start,
            publication,
            epochs,
            tenants: TenantRegistry::new(handles),
            memory,
            opened: Mutex::default(),
            fenced: Mutex::default(),
            lease: Mutex::new(Instant::now()),
            opening: Semaphore::new(MAX_CONCURRENT_OPENS),
            turns,
            parked_turns: Turns::new(PARKED_GAP),
            expected_joins: ExpectedJoins::default(),
            advanced: Notify::new(),
            report: Notify::new(),
            users_changed: Notify::new(),
            tenants_changed: Notify::new(),
            drain: CancellationToken::new(),
            status,
            holder,
            expected: Some(anchor).filter(|anchor| anchor.end > confirmed),
            progress: Mutex::new(progress),
            written: Mutex::new(written),
            unrecorded: Mutex::default(),
            shape: tokio::sync::Mutex::new(shape),
            mapping: watch::Sender::new(Arc::from(mapping)),
            fingerprints: Mutex::default(),
        }
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    /// The session's span, for links to it.
    pub(crate) fn trace(&self) -> Span {
        lock(&self.trace).clone()
    }

    /// Ends the session's span. Tasks that are aborted may hold the context for longer than the session lasts.
    pub(crate) fn end_trace(&self) {
        *lock(&self.trace) = Span::none();
    }

    /// The position up to which the source had written its log when it was last asked, at the start of the session at
    /// the latest.
    pub(crate) fn written(&self) -> Lsn {
        *lock(&self.written)
    }

    /// The source has written its log up to `position`.
    pub(crate) fn note_written(&self, position: Lsn) {
        *lock(&self.written) = position;
    }

    /// Fingerprints of the users as they were applied last.
    pub(crate) fn fingerprints(&self) -> MutexGuard<'_, Fingerprints> {
        lock(&self.fingerprints)
    }

    /// The fingerprint of the current mapping.
    pub(crate) fn mapping(&self) -> Arc<str> {
        self.mapping.borrow().clone()
    }

    /// The fingerprint for one tenant.
    pub(crate) fn mapping_of(&self, index: TenantIdx) -> String {
        if let Some(topic) = &self.topic {
            return topic.mapping(index).as_deref().unwrap_or_default().to_owned();
        }
        self.config.users.redactions.tenant_fingerprint(&self.mapping(), &self.tenants.get(index).tenant.key)
    }

    pub(crate) fn set_mapping(&self, mapping: &str) {
        self.mapping.send_replace(Arc::from(mapping));
    }

    /// Ends when the mapping is no longer the given one.
    #[cfg(feature = "kafka")]
    pub(crate) async fn mapping_changed(&self, from: &str) {
        // The sender lives as long as the context.
        let _ = self.mapping.subscribe().wait_for(|mapping| **mapping != *from).await;
    }

    /// The tenant's target has committed everything up to `position`.
    pub(crate) fn acknowledge(&self, tenant: &TenantId, position: Lsn) {
        self.progress().acknowledge(tenant, position);
        self.note_applied(tenant, position);
    }

    /// The tenant's target has committed the snapshot at `position`.
    pub(crate) fn joined(&self, index: TenantIdx, position: Lsn) {
        let handle = self.tenants.get(index);
        let mut progress = self.progress();
        if handle.mailbox.is_interrupted() {
            // The tenant has to join again: the changes that it has dropped stay unconfirmed until that is recorded.
            progress.acknowledge(&handle.tenant.id, position);
        } else {
            progress.joined(&handle.tenant.id, position);
        }
        drop(progress);
        self.note_applied(&handle.tenant.id, position);
    }

    /// The tenant needs no more changes. Call after that is recorded.
    pub(crate) fn release(&self, tenant: &TenantId) {
        self.progress().release(tenant);
        lock(&self.unrecorded).remove(tenant);
        self.advanced.notify_one();
    }

    /// Takes the positions that targets have reached since the last call, to record them.
    pub(crate) fn take_unrecorded(&self) -> Vec<(TenantId, Lsn)> {
        std::mem::take(&mut *lock(&self.unrecorded)).into_iter().collect()
    }

    pub(crate) fn has_unrecorded(&self) -> bool {
        !lock(&self.unrecorded).is_empty()
    }

    /// Restarts the tenants that hold back more WAL than `limits.source_wal`.
    pub(crate) fn interrupt_log_holders(&self) {
        if self.topic.is_some() {
            // A topic holds no log of the source.
            return;
        }
        let limit = self.config.limits.source_wal;
        let (waking, holding) = {
            let progress = self.progress();
            let past = |limit| progress.retaining_over(limit).cloned().collect::<Vec<TenantId>>();
            (past(limit / 2), past(limit))
        };
        // Idle tenants acknowledge early enough to avoid a restart.
        waking
            .iter()
            .filter_map(|tenant| self.index_of(tenant))
            .for_each(|index| self.tenants.get(index).mailbox.wake());
        for tenant in holding {
            if let Some(index) = self.index_of(&tenant) {
                self.interrupt(index, RestartSignal::HoldsLog);
            }
        }
    }

    /// Restarts the tenant, which drops its queued changes. Its position is held until the restart is recorded, so that
    /// dropped changes are not confirmed.
    pub(crate) fn interrupt(&self, index: TenantIdx, why: RestartSignal) {
        let handle = self.tenants.get(index);
        let mut progress = self.progress();
        progress.retain(&handle.tenant.id);
        handle.mailbox.interrupt(why);
    }

    /// Restarts a tenant whose users the topic has again. One that is parked is rebuilt once its target can be opened: until then it
    /// must not hold back the partition's offset.
    #[cfg(feature = "kafka")]
    pub(crate) fn rebuild(&self, index: TenantIdx) {
        if self.tenants.get(index).takes_part() {
            self.interrupt(index, RestartSignal::PublishedAgain);
        }
    }

    /// Restarts every tenant that is not parked.
    pub(crate) fn interrupt_all(&self, why: RestartSignal) {
        for (index, handle) in self.tenants.all().iter() {
            if handle.takes_part() {
                self.interrupt(index, why);
            }
        }
    }

    /// Restarts the tenants that are not parked and that the event at `position` of the stream concerns: not those whose
    /// snapshot or target is newer. Returns whether there are any.
    pub(crate) fn interrupt_all_from(&self, position: Lsn, why: RestartSignal) -> bool {
        let mut any = false;
        for (_, handle) in self.tenants.all().iter() {
            if handle.takes_part() {
                let mut progress = self.progress();
                if handle.mailbox.interrupt_from(position, why) {
                    progress.retain(&handle.tenant.id);
                    any = true;
                }
            }
        }
        any
    }

    /// The tenant's snapshot is taken at `position`. An event after it makes the tenant start over.
    pub(crate) fn snapshot_taken(&self, index: TenantIdx, position: Lsn) {
        let handle = self.tenants.get(index);
        let mut progress = self.progress();
        if handle.mailbox.snapshot_taken(position) {
            progress.retain(&handle.tenant.id);
        }
    }

    /// Counts a row that could not be mapped. Returns the count if it is to be logged: at powers of two.
    pub(crate) fn count_unmappable(&self) -> Option<u64> {
        let count = self.status.metrics.unmappable_rows.inc() + 1;
        count.is_power_of_two().then_some(count)
    }

    /// The index of the tenant; `None` if it is not configured.
    pub(crate) fn index_of(&self, tenant: &TenantId) -> Option<TenantIdx> {
        self.tenants.index_of(tenant)
    }

    /// Hands a request to the tenant's worker, unless it is known already. Returns whether it is done: one that only wakes the
    /// worker is, and one for an unknown tenant.
    pub(crate) fn take_request(&self, request: &Request) -> bool {
        let Some(index) = self.index_of(&request.tenant) else {
            if self.topic.is_some() {
                // It may be a tenant of another partition.
                return false;
            }
            tracing::warn!(tenant = %request.tenant, "request for a tenant that is not in the configuration");
            return true;
        };
        let handle = self.tenants.get(index);
        match request.kind {
            RequestKind::Resync { allow_deletes, adopt } => {
                self.request_resync(index, ResyncRequest { id: request.id, allow_deletes, adopt });
                false
            }
            RequestKind::Resume => {
                handle.wake();
                true
            }
            RequestKind::RetryRejected | RequestKind::User(_) => {
                if handle.row_requests.add(request.clone()) {
                    handle.wake();
                }
                false
            }
        }
    }

    /// Restarts the tenant for a resync, unless the request is known already.
    pub(crate) fn request_resync(&self, index: TenantIdx, request: ResyncRequest) {
        if self.tenants.get(index).add_resync_request(request) {
            self.interrupt(index, RestartSignal::Requested);
        }
    }

    /// Pauses these tenants and no others.
    pub(crate) fn set_pauses(&self, pauses: &Pauses) {
        self.tenants.all().values().for_each(|handle| handle.set_pause(pauses.get(&handle.tenant.id)));
    }

    /// Whether this process may have written its epoch to the target.
    pub(crate) fn may_have_fenced(&self, tenant: &TenantId) -> bool {
        lock(&self.fenced).contains(tenant)
    }

    /// Call before the target is fenced: the answer may be lost after the commit.
    pub(crate) fn mark_fencing(&self, tenant: &TenantId) {
        lock(&self.fenced).insert(tenant.clone());
    }

    /// Whether the target was opened in this session.
    pub(crate) fn was_opened(&self, tenant: &TenantId) -> bool {
        lock(&self.opened).contains(tenant)
    }

    pub(crate) fn mark_opened(&self, tenant: &TenantId) {
        lock(&self.opened).insert(tenant.clone());
    }

    /// The lease was renewed by a statement that began at `begun`.
    pub(crate) fn renewed(&self, begun: Instant) {
        *lock(&self.lease) = begun;
    }

    /// Whether another process may have taken over, so that nothing may be written. A process that was frozen notices it
    /// here; if it is too late, the guards in the targets refuse its writes.
    pub(crate) fn lease_has_lapsed(&self) -> bool {
        lock(&self.lease).elapsed() > LEASE
    }

    fn note_applied(&self, tenant: &TenantId, position: Lsn) {
        lock(&self.unrecorded).insert(tenant.clone(), position);
        self.advanced.notify_one();
    }
}

#[cfg(feature = "kafka")]
impl SessionContext {
    /// Records and publishes why the Kafka output waits, or that it does not. Its state stays.
    pub(crate) async fn note_tee(&self, failure: Option<TeeFailure<'_>>) -> Result<(), StateError> {
        self.state.note_tee(failure).await?;
        if let Some(report) = self.status.tee() {
            self.status.set_tee(Some(with_failure(report, failure)));
        }
        Ok(())
    }

    /// Records and publishes the state of the Kafka output, before anything depends on it.
    pub(crate) async fn put_tee(
        &self,
        slot: &str,
        state: TenantState,
        failure: Option<TeeFailure<'_>>,
    ) -> Result<(), StateError> {
        self.state.put_tee(slot, state, failure).await?;
        let report = TeeReport {
            slot: slot.to_owned(),
            state: state.as_str(),
            since_seconds: 0.0,
            wal_held_bytes: None,
            rejected: self.status.tee_rejected(),
            last_error: None,
            reason_code: None,
            remedy: None,
        };
        self.status.set_tee(Some(with_failure(report, failure)));
        Ok(())
    }
}

/// The report with this failure, or without one.
#[cfg(feature = "kafka")]
fn with_failure(report: TeeReport, failure: Option<TeeFailure<'_>>) -> TeeReport {
    TeeReport {
        last_error: failure.map(|failure| failure.reason.to_owned()),
        reason_code: failure.map(|failure| tee_code(failure.code)),
        remedy: failure.and_then(|failure| failure.remedy).map(str::to_owned),
        ..report
    }
}
