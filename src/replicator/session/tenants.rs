//! The tenants of a session, each in its lane. Lanes are added and retired while the session runs; a lane's index is
//! its own for as long as the session lasts.

use crate::config::Tenant;
use crate::route::{Mailbox, Memory};
use crate::state::{Request, TenantRow, TenantState};
use crate::status::metrics::TenantCounts;
use crate::status::progress_handle::ProgressHandle;
use crate::status::view::TenantView;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A tenant's place in the session.
pub(crate) struct TenantHandle {
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) mailbox: Mailbox,
    /// The stream knows the lane: what it reads from now on is gathered here.
    pub(crate) adopted: CancellationToken,
    /// The configuration does not have the tenant any more.
    pub(crate) retired: CancellationToken,
    /// The task of the lane has ended.
    pub(crate) ended: CancellationToken,
    /// Its target is being tried again: it takes no rows now.
    is_away: AtomicBool,
    /// What is counted of the tenant.
    pub(crate) counts: Arc<TenantCounts>,
    shown: Mutex<TenantView>,
    /// Of the reading that it takes part in, or took part in last.
    reading: Mutex<ProgressHandle>,
    asked: Mutex<Asked>,
}

/// What is asked of the tenant, and up to which request that is done: what was read of the state a moment ago may still have
/// that one.
struct Asked {
    open: Option<Request>,
    answered: i64,
}

impl TenantHandle {
    /// `known`: what the state says of the tenant, where that is of this history. It joins otherwise.
    pub(crate) fn new(
        tenant: Tenant,
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
        };
        TenantHandle {
            counts,
            tenant: Arc::new(tenant),
            mailbox: Mailbox::new(budget, memory),
            is_away: AtomicBool::new(false),
            adopted: CancellationToken::new(),
            retired: CancellationToken::new(),
            ended: CancellationToken::new(),
            reading: Mutex::default(),
            shown: Mutex::new(known.map_or(joining, TenantView::of)),
            asked: Mutex::new(Asked { open: None, answered: i64::MIN }),
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::Relaxed)
    }

    /// Nothing is on its way to a target that is away: what waits for it is kept as the last version per user.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
        self.mailbox.gather(is_away);
    }

    pub(crate) fn state(&self) -> TenantState {
        self.lock_shown().state
    }

    /// How it is.
    pub(crate) fn shown(&self) -> TenantView {
        self.lock_shown().clone()
    }

    /// How it is from now on.
    pub(crate) fn show(&self, row: &TenantRow) {
        if row.state == TenantState::Joining {
            // What it took part in before is not what it waits for.
            self.is_read(&ProgressHandle::default());
        }
        let mut shown = self.lock_shown();
        let since = shown.since;
        let goes_on = shown.state == row.state;
        *shown = TenantView::of(row);
        if goes_on {
            shown.since = since;
        }
    }

    /// It takes part in a reading of the source.
    pub(crate) fn is_read(&self, how_far: &ProgressHandle) {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = how_far.clone();
    }

    /// How much of its snapshot has been read, from 0 to 1, while it joins.
    pub(crate) fn joined_by(&self) -> Option<f64> {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state() == TenantState::Joining { reading.share() } else { None }
    }

    /// Whatever it was before, it has to join.
    pub(crate) fn restart(&self) {
        self.lock_shown().state = TenantState::Joining;
    }

    fn lock_shown(&self) -> MutexGuard<'_, TenantView> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A resync is asked for; whether that is news. Two requests become one that allows what either does.
    pub(crate) fn ask(&self, request: Request) -> bool {
        let mut asked = self.lock_asked();
        if request.id <= asked.answered {
            return false;
        }
        match &mut asked.open {
            Some(known) if known.id >= request.id => false,
            Some(known) => {
                *known = Request { allow_deletes: known.allow_deletes || request.allow_deletes, ..request };
                true
            }
            None => {
                asked.open = Some(request);
                true
            }
        }
    }

    /// What is asked of it.
    pub(crate) fn asked(&self) -> Option<Request> {
        self.lock_asked().open.clone()
    }

    /// Requests up to this one are done.
    pub(crate) fn answered(&self, up_to: i64) {
        let mut asked = self.lock_asked();
        asked.answered = asked.answered.max(up_to);
        asked.open.take_if(|request| request.id <= up_to);
    }

    fn lock_asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All lanes by their index, also the retired ones.
pub(crate) struct TenantRegistry {
    all: Mutex<Arc<Vec<Arc<TenantHandle>>>>,
    /// A lane was added or retired.
    pub(crate) changed: Notify,
}

impl TenantRegistry {
    pub(crate) fn new(lanes: Vec<TenantHandle>) -> TenantRegistry {
        TenantRegistry { all: Mutex::new(Arc::new(lanes.into_iter().map(Arc::new).collect())), changed: Notify::new() }
    }

    /// As they are now. Two readings are the same value exactly while nothing was added or retired.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<TenantHandle>>> {
        self.lock().clone()
    }

    pub(crate) fn get(&self, index: usize) -> Arc<TenantHandle> {
        self.lock()[index].clone()
    }

    /// Gives the new lane's index.
    pub(crate) fn add(&self, lane: TenantHandle) -> usize {
        let mut all = self.lock();
        let index = all.len();
        Arc::make_mut(&mut all).push(Arc::new(lane));
        drop(all);
        self.changed.notify_one();
        index
    }

    /// From now on nothing is gathered for it, and its task ends.
    pub(crate) fn retire(&self, index: usize) {
        let mut all = self.lock();
        all[index].retired.cancel();
        // Another value, so that the stream looks again.
        *all = Arc::new(all.to_vec());
        drop(all);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Vec<Arc<TenantHandle>>>> {
        // A push of one element: nothing can be left half done.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
