//! Requests for single users of a tenant, which its worker serves between two batches: to try the rejected ones again, or to
//! read one from the source.

use crate::state::{Request, RequestId};
use crate::sync::lock;
use std::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// The open requests of a tenant. Ids up to `done_up_to` are done: a read of the state may still return them.
#[derive(Default)]
pub(crate) struct RowRequests {
    inner: Mutex<Inner>,
    added: Notify,
}

#[derive(Default)]
struct Inner {
    open: Vec<Request>,
    done_up_to: Option<RequestId>,
}

impl RowRequests {
    /// Adds a request, unless it is known already.
    pub(crate) fn add(&self, request: Request) -> bool {
        let mut inner = self.lock();
        let is_new = Some(request.id) > inner.done_up_to && !inner.open.iter().any(|known| known.id == request.id);
        if is_new {
            inner.open.push(request);
            self.added.notify_one();
        }
        is_new
    }

    pub(crate) fn open(&self) -> Vec<Request> {
        self.lock().open.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// These requests are done.
    pub(crate) fn finish(&self, ids: &[RequestId]) {
        let mut inner = self.lock();
        inner.open.retain(|request| !ids.contains(&request.id));
        inner.done_up_to = inner.done_up_to.max(ids.iter().copied().max());
    }

    /// Waits until there is an open request. For one waiter.
    pub(crate) async fn arrived(&self) {
        while self.is_empty() {
            self.added.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}
