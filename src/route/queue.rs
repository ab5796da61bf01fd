//! The changes that wait for one target, with the last version of each user. Pure.
//!
//! Whole transactions are pushed, or chunks of a large one, and batches are taken. While a batch is being applied, the next
//! transactions form another one. While none can be applied (the tenant joins, or its target is away or asleep) all of them
//! form one batch.

use super::compose::compose;
use crate::model::{Change, Lsn, Timestamp, UserId, Xid};
use std::collections::{HashMap, VecDeque};

/// At this size a batch takes no more transactions. One statement's rows have to fit into `work_mem` (4 MB by default),
/// or the target writes them to a file first.
pub(crate) const BATCH_BYTES: usize = 2 << 20;
/// As [`BATCH_BYTES`], in users.
pub(super) const BATCH_USERS: usize = 2_048;
/// Bytes of a waiting change besides its text: the map's slot and the change's fixed part.
const ENTRY_OVERHEAD: usize = 256;

/// A user's waiting change, with its last transaction.
pub(crate) struct Entry {
    /// The change to apply.
    pub change: Change,
    /// The commit position of the last transaction in it.
    pub commit_lsn: Lsn,
    /// That transaction's id.
    pub xid: Xid,
}

/// Changes that are applied together.
#[derive(Default)]
pub(crate) struct Batch {
    /// By user.
    pub entries: HashMap<UserId, Entry, foldhash::fast::RandomState>,
    /// The end of its last transaction; `None` if more chunks of that transaction follow.
    pub end: Option<Lsn>,
    /// Bytes counted against the budget.
    pub bytes: usize,
    /// The number of source transactions that end in it.
    pub transactions: u64,
    /// The commit time of its oldest transaction.
    pub oldest: Option<Timestamp>,
}

impl Batch {
    /// Adds a change after the existing ones.
    pub(crate) fn add(&mut self, entry: Entry) {
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

    pub(crate) fn append(&mut self, later: Batch) {
        for entry in later.entries.into_values() {
            self.add(entry);
        }
        self.end = later.end;
        self.transactions += later.transactions;
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES || self.entries.len() >= BATCH_USERS
    }
}

/// What happened to pushed changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// They wait for the target, and hold back the tenant's position.
    Queued,
    /// The queue is closed (the tenant is parked or not yet open), or the target has them.
    Dropped,
}

/// The batches that were taken and not yet finished.
struct Taken {
    users: usize,
    /// The commit time of the oldest transaction.
    oldest: Option<Timestamp>,
}

/// The batches that wait for one target.
#[derive(Default)]
pub(crate) struct Queue {
    open: bool,
    /// The target has all transactions that end at or before this. Guards against replays.
    applied: Lsn,
    batches: VecDeque<Batch>,
    /// Bytes of the waiting batches and of the one that was taken and not yet finished.
    bytes: usize,
    taken: Option<Taken>,
    gathers: bool,
}

impl Queue {
    /// Drops everything and begins to take changes.
    pub(crate) fn open(&mut self) {
        *self = Queue { open: true, gathers: true, ..Queue::default() };
    }

    /// The target has applied everything up to `position`: drops changes that are not newer, now and later. Returns the
    /// users of the dropped changes.
    pub(crate) fn discard_applied(&mut self, position: Lsn) -> Vec<UserId> {
        self.applied = position;
        let mut dropped = Vec::new();
        for batch in &mut self.batches {
            dropped.extend(batch.entries.extract_if(|_, entry| entry.commit_lsn < position).map(|(id, _)| id));
        }
        let bytes = &mut self.bytes;
        self.batches.retain(|batch| {
            // A batch without changes may still be the end of a transaction that came in chunks.
            let wanted = !batch.entries.is_empty() || batch.end.is_some_and(|end| end > position);
            if !wanted {
                *bytes = bytes.saturating_sub(batch.bytes);
            }
            wanted
        });
        dropped
    }

    /// What the target has applied; zero if that is not known.
    pub(crate) fn applied(&self) -> Lsn {
        self.applied
    }

    /// Whether it is open and knows what the target has applied: no waiting change will be dropped any more.
    pub(crate) fn is_primed(&self) -> bool {
        self.open && self.applied > Lsn::ZERO
    }

    /// Sets whether all waiting transactions form one batch.
    pub(crate) fn gather(&mut self, gathers: bool) {
        if gathers && !self.gathers {
            self.fold();
        }
        self.gathers = gathers;
    }

    /// Merges consecutive whole transactions into one batch.
    fn fold(&mut self) {
        let before = self.waiting_bytes();
        let mut folded: VecDeque<Batch> = VecDeque::with_capacity(1);
        for batch in self.batches.drain(..) {
            match folded.back_mut().filter(|last| last.end.is_some() && batch.end.is_some()) {
                Some(last) => last.append(batch),
                None => folded.push_back(batch),
            }
        }
        self.batches = folded;
        self.bytes = (self.bytes + self.waiting_bytes()).saturating_sub(before);
    }

    fn waiting_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes).sum()
    }

    /// Takes the changes of one transaction, or a chunk of them. Dropped changes stay in `changes`. `end` is set for the
    /// last chunk, `at` is the commit time. If earlier chunks were dropped, a later snapshot has the whole transaction.
    pub(crate) fn push(
        &mut self,
        changes: &mut Vec<Change>,
        commit_lsn: Lsn,
        xid: Xid,
        at: Timestamp,
        end: Option<Lsn>,
    ) -> Pushed {
        // Commit records do not overlap: one that starts before `applied`, the end of a commit, also ends there or before.
        if !self.open || commit_lsn < self.applied {
            return Pushed::Dropped;
        }
        let gathers = self.gathers;
        let joinable = |batch: &Batch| (gathers || !batch.is_full()) && (batch.end.is_none() || end.is_some());
        let mut batch = self.batches.pop_back_if(|batch| joinable(batch)).unwrap_or_default();
        let before = batch.bytes;
        for change in changes.drain(..) {
            batch.add(Entry { change, commit_lsn, xid });
        }
        batch.end = end;
        batch.transactions += u64::from(end.is_some());
        batch.oldest.get_or_insert(at);
        self.bytes = (self.bytes + batch.bytes).saturating_sub(before);
        self.batches.push_back(batch);
        Pushed::Queued
    }

    /// Takes the next batch, if there is one. Its bytes count until [`Queue::finish`].
    pub(crate) fn take(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front();
        self.note_taken(batch)
    }

    /// As [`Queue::take`], but leaves a transaction that is not complete.
    pub(crate) fn take_whole(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front_if(|batch| batch.end.is_some());
        self.note_taken(batch)
    }

    fn note_taken(&mut self, batch: Option<Batch>) -> Option<Batch> {
        if let Some(batch) = &batch {
            let taken = self.taken.get_or_insert(Taken { users: 0, oldest: batch.oldest });
            taken.users += batch.entries.len();
        }
        batch
    }

    /// The taken batch, of this size, was released.
    pub(crate) fn finish(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.taken = None;
    }

    /// Bytes that wait or are being applied.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Users that wait or are being applied. A user in several batches counts in each.
    pub(crate) fn users(&self) -> usize {
        let waiting: usize = self.batches.iter().map(|batch| batch.entries.len()).sum();
        waiting + self.taken.as_ref().map_or(0, |taken| taken.users)
    }

    /// The commit time of the oldest transaction that waits or is being applied.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        match &self.taken {
            Some(taken) => taken.oldest,
            None => self.batches.front().and_then(|batch| batch.oldest),
        }
    }

    /// Whether a change of the user waits.
    pub(crate) fn has_change_of(&self, id: &str) -> bool {
        self.batches.iter().any(|batch| batch.entries.contains_key(id))
    }

    /// Whether the next batch takes no more transactions.
    pub(crate) fn next_is_full(&self) -> bool {
        self.batches.front().is_some_and(Batch::is_full)
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests;
