//! The tenants of a session. Handles are added and retired while the session runs. The index of a handle is not reused
//! within the session.
//!
//! An installation may have tens of thousands of tenants, most of them idle: each byte of a handle counts.

use crate::config::Tenant;
use crate::model::{ByTenant, ExtraRows, TenantId, TenantIdx};
use crate::replicator::session::row_requests::RowRequests;
use crate::route::{Mailbox, Memory};
use crate::state::{Pause, RequestId, TenantRow, TenantState};
use crate::status::metrics::TenantCounts;
use crate::status::progress_handle::ProgressHandle;
use crate::status::view::{PauseView, TenantView};
use crate::sync::lock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;
use tokio::sync::Notify;

/// What the tasks of a session share about one tenant.
pub(crate) struct TenantHandle {
    /// Its id and key. They do not change while the handle exists; [`TenantHandle::configured`] has the rest.
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) mailbox: Mailbox,
    control: Mutex<Control>,
    /// Notified when `control` changes.
    controlled: Notify,
    /// The target is unavailable and is being retried.
    is_unavailable: AtomicBool,
    /// The session has opened the target.
    is_contacted: AtomicBool,
    pub(crate) counts: Arc<TenantCounts>,
    view: Mutex<TenantView>,
    /// Progress of the scan that the tenant takes part in.
    scan_progress: Mutex<ProgressHandle>,
    resync_requests: Mutex<ResyncRequests>,
    pub(crate) row_requests: RowRequests,
}

/// What the other tasks tell the tenant's worker, and one another about it.
struct Control {
    /// The tenant as it is configured now: a new configuration may reach its target in another way.
    configured: Arc<Tenant>,
    /// The number of changes of `configured`.
    version: u32,
    /// Boxed: few tenants are paused.
    pause: Option<Box<PauseView>>,
    /// The reader knows the tenant, and pushes its changes into the mailbox.
    is_adopted: bool,
    /// The tenant is removed from the configuration.
    is_retired: bool,
    /// The worker has ended.
    has_ended: bool,
    /// The next wait before an attempt ends at once.
    is_woken: bool,
}

/// The open resync request of the tenant. Ids up to `done_up_to` are done: a read of the state may still return them.
struct ResyncRequests {
    open: Option<ResyncRequest>,
    done_up_to: Option<RequestId>,
}

/// A request for a new snapshot.
#[derive(Clone, Copy)]
pub(crate) struct ResyncRequest {
    pub(crate) id: RequestId,
    /// `limits.max_deletes` does not apply.
    pub(crate) allow_deletes: bool,
    /// A target with rows of others is taken over.
    pub(crate) adopt: Option<ExtraRows>,
}

impl TenantHandle {
    /// `known`: the tenant's row in the state, if it is of this generation. Without one the tenant joins.
    pub(crate) fn new(
        tenant: Arc<Tenant>,
        budget: usize,
        memory: Arc<Memory>,
        counts: Arc<TenantCounts>,
        known: Option<&TenantRow>,
    ) -> TenantHandle {
        let joining = TenantView {
            state: TenantState::Joining,
            since: SystemTime::now(),
            reason: None,
            remedy: None,
            reason_code: None,
            rejected: 0,
            failures: 0,
            failing_since: None,
        };
        TenantHandle {
            counts,
            control: Mutex::new(Control {
                configured: tenant.clone(),
                version: 0,
                pause: None,
                is_adopted: false,
                is_retired: false,
                has_ended: false,
                is_woken: false,
            }),
            controlled: Notify::new(),
            tenant,
            mailbox: Mailbox::new(budget, memory),
            is_unavailable: AtomicBool::new(false),
            is_contacted: AtomicBool::new(false),
            scan_progress: Mutex::default(),
            view: Mutex::new(known.map_or(joining, TenantView::of)),
            resync_requests: Mutex::new(ResyncRequests { open: None, done_up_to: None }),
            row_requests: RowRequests::default(),
        }
    }

    /// Pauses the tenant, or ends its pause.
    pub(crate) fn set_pause(&self, pause: Option<&Pause>) {
        let is_known = match (&self.control().pause, pause) {
            (Some(known), Some(pause)) => known.is_of(pause),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_known {
            self.tell(|control| control.pause = pause.map(PauseView::of).map(Box::new));
        }
    }

    pub(crate) fn pause(&self) -> Option<PauseView> {
        self.control().pause.as_deref().cloned()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.control().pause.is_some()
    }

    /// Waits until the tenant is paused, or is not.
    pub(crate) async fn paused(&self, is_paused: bool) {
        self.wait_until(|control| control.pause.is_some() == is_paused).await;
    }

    /// Ends the wait before the next attempt.
    pub(crate) fn wake(&self) {
        self.tell(|control| control.is_woken = true);
    }

    /// Waits for that, and consumes it. For one waiter.
    pub(crate) async fn woken(&self) {
        self.wait_until(|control| control.is_woken).await;
        self.control().is_woken = false;
    }

    /// The tenant as it is configured now.
    pub(crate) fn configured(&self) -> Arc<Tenant> {
        self.control().configured.clone()
    }

    /// As [`TenantHandle::configured`], with the number of its changes so far.
    pub(crate) fn configured_version(&self) -> (Arc<Tenant>, u32) {
        let control = self.control();
        (control.configured.clone(), control.version)
    }

    /// Whether the configuration has changed since the given version.
    pub(crate) fn is_reconfigured(&self, since: u32) -> bool {
        self.control().version != since
    }

    /// Waits for that.
    pub(crate) async fn reconfigured(&self, since: u32) {
        self.wait_until(|control| control.version != since).await;
    }

    /// Its target is reached in another way from now on.
    pub(crate) fn reconnect_as(&self, tenant: Arc<Tenant>) {
        self.tell(|control| {
            control.configured = tenant;
            control.version += 1;
        });
    }

    /// The reader knows the tenant, and pushes its changes into the mailbox.
    pub(crate) fn adopt(&self) {
        self.note(|control| control.is_adopted = true);
    }

    /// Waits for that.
    pub(crate) async fn adopted(&self) {
        self.wait_until(|control| control.is_adopted).await;
    }

    /// The tenant is removed from the configuration.
    fn retire(&self) {
        self.tell(|control| control.is_retired = true);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.control().is_retired
    }

    /// Waits until the tenant is removed from the configuration.
    pub(crate) async fn retired(&self) {
        self.wait_until(|control| control.is_retired).await;
    }

    /// The worker has ended.
    pub(crate) fn end(&self) {
        self.note(|control| control.has_ended = true);
    }

    /// Waits for that.
    pub(crate) async fn ended(&self) {
        self.wait_until(|control| control.has_ended).await;
    }

    /// Whether something waits for a worker that has seen this version of the configuration.
    pub(crate) fn needs_worker(&self, version: u32) -> bool {
        let control = self.control();
        let is_changed = control.pause.is_some() || control.is_retired || control.version != version;
        drop(control);
        is_changed || self.mailbox.has_next() || !self.row_requests.is_empty()
    }

    /// The tenant has no task from now on. Calls `rouse` once something waits for its worker: at once, if something waits already.
    pub(crate) fn sleep(&self, version: u32, rouse: impl FnOnce() + Send + 'static) {
        self.mailbox.sleep(rouse);
        // What has arrived before that call found no closure to call.
        if self.needs_worker(version) {
            self.mailbox.rouse();
        }
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    /// Changes what concerns the worker, and gives it a task if it has none.
    fn tell(&self, change: impl FnOnce(&mut Control)) {
        self.note(change);
        self.mailbox.rouse();
    }

    /// Changes what concerns other tasks.
    fn note(&self, change: impl FnOnce(&mut Control)) {
        change(&mut self.control());
        self.controlled.notify_waiters();
    }

    async fn wait_until(&self, is_so: impl Fn(&Control) -> bool) {
        loop {
            // It is notified of changes from here on.
            let changed = self.controlled.notified();
            if is_so(&self.control()) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn is_unavailable(&self) -> bool {
        self.is_unavailable.load(Ordering::Relaxed)
    }

    /// Whether the session has opened the target.
    pub(crate) fn is_contacted(&self) -> bool {
        self.is_contacted.load(Ordering::Relaxed)
    }

    pub(crate) fn set_contacted(&self) {
        self.is_contacted.store(true, Ordering::Relaxed);
    }

    /// While the target is unavailable, the mailbox keeps only the last version of each user.
    pub(crate) fn set_unavailable(&self, is_unavailable: bool) {
        self.is_unavailable.store(is_unavailable, Ordering::Relaxed);
        self.mailbox.gather(is_unavailable);
    }

    pub(crate) fn state(&self) -> TenantState {
        self.lock_view().state
    }

    /// Whether it is configured and not parked.
    pub(crate) fn takes_part(&self) -> bool {
        self.state() != TenantState::Parked && !self.is_retired()
    }

    pub(crate) fn view(&self) -> TenantView {
        self.lock_view().clone()
    }

    /// Publishes the tenant's new state to the status.
    pub(crate) fn set_view(&self, row: &TenantRow) {
        if row.state == TenantState::Joining {
            // The progress of an earlier scan is not that of the next one.
            self.set_scan_progress(&ProgressHandle::default());
        }
        let mut view = self.lock_view();
        let since = view.since;
        let is_same_state = view.state == row.state;
        *view = TenantView::of(row);
        if is_same_state {
            view.since = since;
        }
    }

    /// The tenant takes part in a scan with this progress.
    pub(crate) fn set_scan_progress(&self, progress: &ProgressHandle) {
        *lock(&self.scan_progress) = progress.clone();
    }

    /// The share of the snapshot that has been read, from 0 to 1; `None` unless the tenant joins.
    pub(crate) fn snapshot_share(&self) -> Option<f64> {
        let progress = lock(&self.scan_progress);
        if self.state() == TenantState::Joining { progress.share() } else { None }
    }

    /// Shows the tenant as joining, whatever it did before.
    pub(crate) fn restart(&self) {
        self.lock_view().state = TenantState::Joining;
    }

    fn lock_view(&self) -> MutexGuard<'_, TenantView> {
        lock(&self.view)
    }

    /// Adds a resync request; `false` if it is known already. Merged requests allow deletes, or adopt, if one of them
    /// does.
    pub(crate) fn add_resync_request(&self, request: ResyncRequest) -> bool {
        let mut requests = self.lock_resync_requests();
        if Some(request.id) <= requests.done_up_to {
            return false;
        }
        match &mut requests.open {
            Some(known) if known.id >= request.id => false,
            Some(known) => {
                known.allow_deletes |= request.allow_deletes;
                known.adopt = request.adopt.or(known.adopt);
                known.id = request.id;
                true
            }
            None => {
                requests.open = Some(request);
                true
            }
        }
    }

    pub(crate) fn open_resync_request(&self) -> Option<ResyncRequest> {
        self.lock_resync_requests().open
    }

    /// Marks the requests up to this id as done.
    pub(crate) fn finish_resync_requests(&self, up_to: RequestId) {
        let mut requests = self.lock_resync_requests();
        requests.done_up_to = requests.done_up_to.max(Some(up_to));
        requests.open.take_if(|request| request.id <= up_to);
    }

    fn lock_resync_requests(&self) -> MutexGuard<'_, ResyncRequests> {
        lock(&self.resync_requests)
    }
}

/// All handles by their index, also the retired ones.
pub(crate) struct TenantRegistry {
    all: Mutex<Arc<ByTenant<Arc<TenantHandle>>>>,
    /// The handles that are not retired.
    current: Mutex<HashMap<TenantId, TenantIdx>>,
    /// Notified when a handle is added or retired.
    pub(crate) changed: Notify,
}

impl TenantRegistry {
    pub(crate) fn new(handles: Vec<TenantHandle>) -> TenantRegistry {
        // `collect` would keep the memory of the vector of handles for that of their pointers.
        let (mut all, mut current) = (ByTenant::default(), HashMap::new());
        for handle in handles {
            let id = handle.tenant.id.clone();
            current.insert(id, all.push(Arc::new(handle)));
        }
        TenantRegistry { all: Mutex::new(Arc::new(all)), current: Mutex::new(current), changed: Notify::new() }
    }

    /// The index of the tenant's handle, unless it is retired.
    pub(crate) fn index_of(&self, tenant: &TenantId) -> Option<TenantIdx> {
        lock(&self.current).get(tenant).copied()
    }

    /// The current list. The same `Arc` is returned until a handle is added or retired.
    pub(crate) fn all(&self) -> Arc<ByTenant<Arc<TenantHandle>>> {
        self.lock().clone()
    }

    pub(crate) fn get(&self, index: TenantIdx) -> Arc<TenantHandle> {
        self.lock()[index].clone()
    }

    /// Adds a handle and returns its index.
    pub(crate) fn add(&self, handle: TenantHandle) -> TenantIdx {
        let mut all = self.lock();
        let id = handle.tenant.id.clone();
        let index = Arc::make_mut(&mut all).push(Arc::new(handle));
        lock(&self.current).insert(id, index);
        drop(all);
        self.changed.notify_one();
        index
    }

    /// Retires a handle: its worker ends, and the reader no longer pushes changes for it.
    pub(crate) fn retire(&self, index: TenantIdx) {
        let mut all = self.lock();
        all[index].retire();
        // Another handle of the tenant may follow it already.
        let mut current = lock(&self.current);
        if current.get(&all[index].tenant.id) == Some(&index) {
            current.remove(&all[index].tenant.id);
        }
        drop(current);
        // A new `Arc`, so that the reader notices the change.
        *all = Arc::new((**all).clone());
        drop(all);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Arc<ByTenant<Arc<TenantHandle>>>> {
        lock(&self.all)
    }
}
