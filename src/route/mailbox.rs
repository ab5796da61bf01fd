//! A tenant's queue: what waits for its target, the last version per user, within a budget of bytes.
//!
//! The capture side pushes whole transactions, or the chunks of one that is too large; the tenant's task takes
//! batches. While one batch is on its way the next transactions gather into another: batches form by themselves.
//! The lock is held for a few map operations and never across an await.

use super::compose::compose;
use crate::model::{Change, Lsn, UserId, Xid};
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// A batch is closed to further transactions at this size: one statement's worth of work for a target. The rows of a
/// statement fit into `work_mem` (4 MB by default), past which the target would write them to a file first.
pub const BATCH_BYTES: usize = 2 << 20;
/// As [`BATCH_BYTES`], in users.
pub const BATCH_USERS: usize = 2_048;
/// What a waiting change costs beside its own text: the map's slot and the change's fixed part.
const ENTRY_OVERHEAD: usize = 256;

/// A user's waiting change and where it came from.
pub struct Entry {
    /// What is to be done.
    pub change: Change,
    /// The commit position of the last transaction in it.
    pub commit_lsn: Lsn,
    /// That transaction's id.
    pub xid: Xid,
}

/// Changes that go to the target together.
#[derive(Default)]
pub struct Batch {
    /// By user.
    pub entries: HashMap<UserId, Entry, foldhash::fast::RandomState>,
    /// Where the last transaction in it ends; `None` while that transaction has more chunks to come.
    pub end: Option<Lsn>,
    /// What it counts against the budget.
    pub bytes: usize,
}

impl Batch {
    /// Adds a change after those that are there.
    pub fn add(&mut self, entry: Entry) {
        let id: UserId = entry.change.id().into();
        let added = ENTRY_OVERHEAD + id.len() + entry.change.heap_bytes();
        match self.entries.remove(&id) {
            None => {
                self.bytes += added;
                self.entries.insert(id, entry);
            }
            Some(earlier) => {
                let before = earlier.change.heap_bytes();
                let change = compose(earlier.change, entry.change);
                self.bytes = (self.bytes + change.heap_bytes()).saturating_sub(before);
                self.entries.insert(id, Entry { change, ..entry });
            }
        }
    }

    fn full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.entries.len() >= BATCH_USERS
    }
}

/// What became of pushed changes.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// They wait for the target; the tenant's position is held back by them.
    Queued,
    /// The tenant is not gathering (it is parked, or not yet open), or holds them already.
    Dropped,
}

/// The queue between the one capture task and one tenant's task.
pub struct Mailbox {
    inner: Mutex<Inner>,
    filled: Notify,
    drained: Notify,
    interrupting: Notify,
    /// Past this many bytes the mailbox is over its budget.
    budget: usize,
}

struct Inner {
    open: bool,
    /// Transactions that end at or before this are in the target already: the replay guard.
    held: Lsn,
    queue: VecDeque<Batch>,
    /// Bytes of the queue and of the batch that was taken and not yet given back.
    bytes: usize,
    /// How many batches were ever finished: shows whether the target takes rows.
    finished: u64,
    /// Why the capture side wants the tenant to start over.
    interrupt: Option<Interrupt>,
}

/// Why a tenant has to start over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// It held up the others, or outgrew its budget.
    OverBudget,
    /// It held back more of the source's log than it may.
    HoldsLog,
    /// The source's table was truncated.
    Truncated,
    /// The source's table was altered in what leaves it: rows that do not change look different now.
    Altered,
    /// A delete or a move could not be attributed to a user.
    Unattributed,
    /// Somebody has asked for a resync.
    Requested,
}

impl Mailbox {
    /// A closed mailbox: what is pushed is dropped until [`Mailbox::open`].
    pub fn new(budget: usize) -> Self {
        let inner =
            Inner { open: false, held: Lsn::ZERO, queue: VecDeque::new(), bytes: 0, finished: 0, interrupt: None };
        Mailbox {
            inner: Mutex::new(inner),
            filled: Notify::new(),
            drained: Notify::new(),
            interrupting: Notify::new(),
            budget,
        }
    }

    /// Begins to gather.
    pub fn open(&self) {
        let mut inner = self.lock();
        *inner = Inner { open: true, held: Lsn::ZERO, queue: VecDeque::new(), bytes: 0, interrupt: None, ..*inner };
    }

    /// Drops everything and gathers no more.
    pub fn close(&self) {
        let mut inner = self.lock();
        *inner = Inner { open: false, queue: VecDeque::new(), bytes: 0, interrupt: None, ..*inner };
        drop(inner);
        self.drained.notify_one();
    }

    /// The target holds everything up to `position`: what is not newer is dropped, now and later. Gives whom it dropped
    /// changes of.
    pub fn hold(&self, position: Lsn) -> Vec<UserId> {
        let mut inner = self.lock();
        inner.held = position;
        let mut dropped = Vec::new();
        for batch in &mut inner.queue {
            dropped.extend(batch.entries.extract_if(|_, entry| entry.commit_lsn < position).map(|(id, _)| id));
        }
        let Inner { queue, bytes, .. } = &mut *inner;
        queue.retain(|batch| {
            // A batch without changes may still be the end of a transaction that came in chunks.
            let wanted = !batch.entries.is_empty() || batch.end.is_some_and(|end| end > position);
            if !wanted {
                *bytes = bytes.saturating_sub(batch.bytes);
            }
            wanted
        });
        drop(inner);
        self.drained.notify_one();
        dropped
    }

    /// Whether it gathers and knows what the target holds: nothing that waits here will be dropped any more.
    pub fn is_settled(&self) -> bool {
        let inner = self.lock();
        inner.open && inner.held > Lsn::ZERO
    }

    /// Hands over the changes of one transaction, or a chunk of them; they stay in `changes` where they are dropped. `end` is the transaction's end where this
    /// is its last part. A transaction whose earlier chunks were dropped is never gathered from the middle,
    /// because a snapshot that was taken later has it whole.
    pub fn push(&self, changes: &mut Vec<Change>, commit_lsn: Lsn, xid: Xid, end: Option<Lsn>) -> Pushed {
        let mut inner = self.lock();
        // A commit record that starts before a position which is itself a commit's end lies wholly before it.
        if !inner.open || commit_lsn < inner.held {
            return Pushed::Dropped;
        }
        let joinable = |batch: &Batch| !batch.full() && (batch.end.is_none() || end.is_some());
        let mut batch = inner.queue.pop_back_if(|batch| joinable(batch)).unwrap_or_default();
        let before = batch.bytes;
        for change in changes.drain(..) {
            batch.add(Entry { change, commit_lsn, xid });
        }
        batch.end = end;
        inner.bytes = (inner.bytes + batch.bytes).saturating_sub(before);
        inner.queue.push_back(batch);
        drop(inner);
        self.filled.notify_one();
        Pushed::Queued
    }

    /// Asks the tenant's task to start over for this reason; what waits is dropped, nothing more is gathered.
    pub fn interrupt(&self, why: Interrupt) {
        let mut inner = self.lock();
        *inner = Inner { open: false, queue: VecDeque::new(), bytes: 0, interrupt: Some(why), ..*inner };
        drop(inner);
        self.filled.notify_one();
        self.interrupting.notify_one();
        self.drained.notify_one();
    }

    /// Waits until the capture side wants the tenant to start over. For one waiter.
    pub async fn interrupted(&self) -> Interrupt {
        loop {
            if let Some(why) = self.lock().interrupt {
                return why;
            }
            self.interrupting.notified().await;
        }
    }

    /// Waits for the next batch. Cancel-safe: nothing is taken unless it is returned.
    pub async fn next(&self) -> Result<Batch, Interrupt> {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            self.filled.notified().await;
        }
    }

    /// The next batch, where one waits. Its bytes count until [`Mailbox::finish`].
    pub fn try_next(&self) -> Option<Result<Batch, Interrupt>> {
        let mut inner = self.lock();
        if let Some(why) = inner.interrupt {
            return Some(Err(why));
        }
        inner.queue.pop_front().map(Ok)
    }

    /// As [`Mailbox::try_next`], but leaves a transaction whose end has not come yet.
    pub fn try_next_whole(&self) -> Option<Batch> {
        self.lock().queue.pop_front_if(|batch| batch.end.is_some())
    }

    /// A batch of this size has left the memory.
    pub fn finish(&self, bytes: usize) {
        let mut inner = self.lock();
        inner.bytes = inner.bytes.saturating_sub(bytes);
        inner.finished += 1;
        drop(inner);
        self.drained.notify_one();
    }

    /// Bytes that wait or are on their way.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Whether the capture side has to wait before it pushes more.
    pub fn over_budget(&self) -> bool {
        self.lock().bytes > self.budget
    }

    /// How many batches the target has taken: compare two readings to see whether it takes rows at all.
    pub fn finished(&self) -> u64 {
        self.lock().finished
    }

    /// Waits until something has left the mailbox. To be used in a loop around [`Mailbox::over_budget`].
    pub async fn drained(&self) {
        self.drained.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while the lock is held that could leave the maps half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
