//! A tenant's mailbox: the reader pushes changes and the tenant's task takes them, within a budget of bytes.
//!
//! The lock is held for a few map operations, never across an await.
//!
//! A target that is *asleep* has no connection, and is *woken* by what waits for it. A tenant without a task is *roused*: its worker then
//! decides whether the target is woken.

use super::memory::Memory;
use super::queue::{Batch, Pushed, Queue};
use crate::model::{Change, Lsn, RestartSignal, Timestamp, UserId, Xid};
use crate::sync::lock;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The queue between the reader and one tenant's task.
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
    memory: Arc<Memory>,
    filled: Notify,
    drained: Notify,
    interrupting: Notify,
    /// Starts the worker of a tenant that has no task.
    rouse: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// In bytes.
    budget: usize,
}

#[derive(Default)]
struct Inner {
    queue: Queue,
    /// Why the tenant has to start over.
    interrupt: Option<RestartSignal>,
    joining: Joining,
    /// When the oldest waiting change was pushed.
    since: Option<Instant>,
    /// A waiting change wakes a sleeping target at once.
    wakes: bool,
}

/// Whether the tenant takes a snapshot, and which part of the stream that snapshot has.
#[derive(Clone, Copy, Default)]
enum Joining {
    /// It takes none, or one that began with the stream.
    #[default]
    No,
    /// Its snapshot has no position yet. Holds the newest event that it must contain.
    Awaiting(Option<(Lsn, RestartSignal)>),
    /// Its snapshot contains every transaction whose commit ends at or before this position.
    Loading(Lsn),
}

/// What waits in a mailbox or is on its way to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// The bytes that count against the budget.
    pub bytes: usize,
    /// The number of users.
    pub users: usize,
    /// Commit time of the oldest transaction.
    pub oldest: Option<Timestamp>,
}

impl Mailbox {
    /// A closed mailbox: pushed changes are dropped until [`Mailbox::open`]. Its bytes count against `memory`.
    pub(crate) fn new(budget: usize, memory: Arc<Memory>) -> Self {
        Mailbox {
            inner: Mutex::default(),
            memory,
            filled: Notify::new(),
            drained: Notify::new(),
            interrupting: Notify::new(),
            rouse: Mutex::default(),
            budget,
        }
    }

    /// Begins to take changes.
    pub(crate) fn open(&self) {
        self.with(|inner| {
            *inner = Inner::default();
            inner.queue.open();
        });
    }

    /// Begins to take changes beside a snapshot that is still to be taken.
    pub(crate) fn open_to_join(&self) {
        self.open();
        self.with(|inner| inner.joining = Joining::Awaiting(None));
    }

    /// The snapshot is taken at `position`. Returns whether an event after it makes the tenant start over.
    pub(crate) fn snapshot_taken(&self, position: Lsn) -> bool {
        let missed = self.with(|inner| match inner.joining {
            Joining::Awaiting(event) => {
                inner.joining = Joining::Loading(position);
                event.filter(|(at, _)| *at >= position)
            }
            Joining::No | Joining::Loading(_) => None,
        });
        missed.inspect(|(_, why)| self.interrupt(*why)).is_some()
    }

    /// Makes the tenant's task start over because of an event at `position` of the stream, unless its snapshot or its target
    /// is newer. Returns whether it starts over.
    pub(crate) fn interrupt_from(&self, position: Lsn, why: RestartSignal) -> bool {
        let starts_over = self.with(|inner| match &mut inner.joining {
            _ if inner.interrupt.is_some() => false,
            Joining::Awaiting(event) => {
                *event = Some((position, why));
                false
            }
            Joining::Loading(snapshot) => position >= *snapshot,
            Joining::No => position >= inner.queue.applied(),
        });
        if starts_over {
            self.interrupt(why);
        }
        starts_over
    }

    /// Drops everything, and from now on every pushed change.
    pub(crate) fn close(&self) {
        self.with(|inner| *inner = Inner::default());
        self.drained.notify_one();
    }

    /// As [`Queue::discard_applied`].
    pub(crate) fn discard_applied(&self, position: Lsn) -> Vec<UserId> {
        let dropped = self.with(|inner| {
            inner.joining = Joining::No;
            inner.queue.discard_applied(position)
        });
        self.drained.notify_one();
        dropped
    }

    /// As [`Queue::is_primed`].
    pub(crate) fn is_primed(&self) -> bool {
        self.with(|inner| inner.queue.is_primed())
    }

    /// As [`Queue::gather`].
    pub(crate) fn gather(&self, gathers: bool) {
        self.with(|inner| inner.queue.gather(gathers));
    }

    /// As [`Queue::push`]. `wakes` means that a sleeping target is woken at once.
    pub(crate) fn push(
        &self,
        changes: &mut Vec<Change>,
        commit_lsn: Lsn,
        xid: Xid,
        at: Timestamp,
        end: Option<Lsn>,
        wakes: bool,
    ) -> Pushed {
        let pushed = self.with(|inner| {
            let pushed = inner.queue.push(changes, commit_lsn, xid, at, end);
            if pushed == Pushed::Queued {
                inner.since.get_or_insert_with(Instant::now);
                inner.wakes |= wakes;
            }
            pushed
        });
        match pushed {
            Pushed::Queued => self.notify_filled(),
            Pushed::Dropped => {}
        }
        pushed
    }

    /// Makes the tenant's task start over. Drops everything, and from now on every pushed change.
    pub(crate) fn interrupt(&self, why: RestartSignal) {
        self.with(|inner| *inner = Inner { interrupt: Some(why), ..Inner::default() });
        self.notify_filled();
        self.interrupting.notify_one();
        self.drained.notify_one();
    }

    /// Whether the tenant has to start over and has not done so yet.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.lock().interrupt.is_some()
    }

    /// Wakes a sleeping target for the waiting changes.
    pub(crate) fn wake(&self) {
        self.lock().wakes = true;
        self.notify_filled();
    }

    /// The tenant has no task from now on: the next change or interrupt calls `rouse`, as [`Mailbox::rouse`] does. The caller must then
    /// check for what has arrived before this call.
    pub(crate) fn sleep(&self, rouse: impl FnOnce() + Send + 'static) {
        *lock(&self.rouse) = Some(Box::new(rouse));
    }

    /// Starts the worker of a tenant that has no task.
    pub(crate) fn rouse(&self) {
        let rouse = lock(&self.rouse).take();
        if let Some(rouse) = rouse {
            rouse();
        }
    }

    fn notify_filled(&self) {
        self.filled.notify_one();
        self.rouse();
    }

    /// Waits until the tenant has to start over. For one waiter.
    pub(crate) async fn interrupted(&self) -> RestartSignal {
        loop {
            if let Some(why) = self.lock().interrupt {
                return why;
            }
            self.interrupting.notified().await;
        }
    }

    /// Waits until a sleeping target has to be woken: for an urgent change, one that has waited for `wake_after`, more bytes
    /// than the budget, or an interrupt.
    pub(crate) async fn wait_until_wake_due(&self, wake_after: Duration) {
        loop {
            let until = {
                let inner = self.lock();
                if inner.wakes || inner.interrupt.is_some() || inner.queue.bytes() > self.budget {
                    return;
                }
                inner.since.map(|since| since + wake_after)
            };
            match until {
                None => self.filled.notified().await,
                Some(until) if timeout_at(until, self.filled.notified()).await.is_err() => return,
                Some(_) => {}
            }
        }
    }

    /// Waits for the next batch. Cancel-safe: nothing is taken unless it is returned.
    pub(crate) async fn next(&self) -> Result<Batch, RestartSignal> {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.filled.notified().await;
        }
    }

    /// Waits until [`Mailbox::try_next`] returns something. For one waiter.
    pub(crate) async fn arrived(&self) {
        while !self.has_next() {
            self.filled.notified().await;
        }
    }

    /// As [`Queue::next_is_full`].
    pub(crate) fn next_is_full(&self) -> bool {
        self.lock().queue.next_is_full()
    }

    /// Whether [`Mailbox::try_next`] returns something.
    pub(crate) fn has_next(&self) -> bool {
        let inner = self.lock();
        inner.interrupt.is_some() || !inner.queue.is_empty()
    }

    /// Takes the next batch, if there is one. Its bytes count until [`Mailbox::finish`].
    pub(crate) fn try_next(&self) -> Option<Result<Batch, RestartSignal>> {
        self.with(|inner| match inner.interrupt {
            Some(why) => Some(Err(why)),
            None => inner.take(Queue::take).map(Ok),
        })
    }

    /// As [`Mailbox::try_next`], but leaves a transaction that is not complete.
    pub(crate) fn try_next_whole(&self) -> Option<Batch> {
        self.with(|inner| inner.take(Queue::take_whole))
    }

    /// The taken batch, of this size, was released.
    pub(crate) fn finish(&self, bytes: usize) {
        self.with(|inner| inner.queue.finish(bytes));
        self.drained.notify_one();
    }

    /// Bytes that wait or are being applied.
    pub(crate) fn bytes(&self) -> usize {
        self.lock().queue.bytes()
    }

    /// What waits or is on its way to the target.
    pub(crate) fn waiting(&self) -> Waiting {
        let inner = self.lock();
        Waiting { bytes: inner.queue.bytes(), users: inner.queue.users(), oldest: inner.queue.oldest() }
    }

    /// Those of the users for whom no change waits.
    pub(crate) fn without_waiting(&self, mut ids: Vec<String>) -> Vec<String> {
        let inner = self.lock();
        ids.retain(|id| !inner.queue.has_change_of(id));
        ids
    }

    /// Whether the reader has to wait before it pushes more.
    pub(crate) fn over_budget(&self) -> bool {
        self.bytes() > self.budget
    }

    /// Waits until bytes were released. To be used in a loop around [`Mailbox::over_budget`].
    pub(crate) async fn drained(&self) {
        self.drained.notified().await;
    }

    /// Changes the mailbox, and updates the common memory.
    fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let before = inner.queue.bytes();
        let done = change(&mut inner);
        self.memory.change(before, inner.queue.bytes());
        done
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code under the lock can panic with the maps half changed.
        lock(&self.inner)
    }
}

impl Inner {
    fn take(&mut self, take: impl FnOnce(&mut Queue) -> Option<Batch>) -> Option<Batch> {
        let taken = take(&mut self.queue);
        if self.queue.is_empty() {
            (self.since, self.wakes) = (None, false);
        }
        taken
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
