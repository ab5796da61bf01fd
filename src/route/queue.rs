//! What waits for one target, the last version per user. Pure.
//!
//! Whole transactions come in, or the chunks of one that is too large; batches go out. While one batch is on its way the
//! next transactions gather into another: batches form by themselves. While nothing can be on its way (the tenant joins,
//! or its target is away or asleep) all of them become one.

use super::compose::compose;
use crate::model::{Change, Lsn, Timestamp, UserId, Xid};
use std::collections::{HashMap, VecDeque};

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
    /// So many transactions of the source end in it.
    pub transactions: u64,
    /// When the oldest of them was committed.
    pub oldest: Option<Timestamp>,
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

    /// Adds what comes after it.
    pub fn append(&mut self, later: Batch) {
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

/// What became of pushed changes.
#[derive(Debug, PartialEq, Eq)]
pub enum Pushed {
    /// They wait for the target; the tenant's position is held back by them.
    Queued,
    /// The tenant is not gathering (it is parked, or not yet open), or holds them already.
    Dropped,
}

/// The batches that wait for one target.
#[derive(Default)]
pub struct Queue {
    open: bool,
    /// Transactions that end at or before this are in the target already: the replay guard.
    applied: Lsn,
    batches: VecDeque<Batch>,
    /// Bytes of the batches, and of the one that was taken and not yet given back.
    bytes: usize,
    /// Its users, and when its oldest transaction was committed.
    taken: Option<(usize, Option<Timestamp>)>,
    gathers: bool,
}

impl Queue {
    /// Drops everything, and begins to gather.
    pub fn open(&mut self) {
        *self = Queue { open: true, gathers: true, ..Queue::default() };
    }

    /// Drops everything, and gathers no more: what is pushed from now on is dropped.
    pub fn close(&mut self) {
        *self = Queue::default();
    }

    /// The target holds everything up to `position`: what is not newer is dropped, now and later. Gives whom it dropped
    /// changes of.
    pub fn discard_applied(&mut self, position: Lsn) -> Vec<UserId> {
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

    /// Whether it gathers and knows what the target holds: nothing that waits here will be dropped any more.
    pub fn is_primed(&self) -> bool {
        self.open && self.applied > Lsn::ZERO
    }

    /// Whether everything that waits becomes one batch.
    pub fn gather(&mut self, gathers: bool) {
        if gathers && !self.gathers {
            self.fold();
        }
        self.gathers = gathers;
    }

    /// Whole transactions that wait one behind the other become one batch.
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

    /// Takes the changes of one transaction, or a chunk of them; they stay in `changes` where they are dropped. `end` is
    /// the transaction's end where this is its last part, `at` when it was committed. A transaction whose earlier chunks were dropped is never gathered
    /// from the middle, because a snapshot that was taken later has it whole.
    pub fn push(
        &mut self,
        changes: &mut Vec<Change>,
        commit_lsn: Lsn,
        xid: Xid,
        at: Timestamp,
        end: Option<Lsn>,
    ) -> Pushed {
        // A commit record that starts before a position which is itself a commit's end lies wholly before it.
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

    /// The next batch, where one waits. Its bytes count until [`Queue::finish`].
    pub fn take(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front();
        self.note_taken(batch)
    }

    /// As [`Queue::take`], but leaves a transaction whose end has not come yet.
    pub fn take_whole(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front_if(|batch| batch.end.is_some());
        self.note_taken(batch)
    }

    fn note_taken(&mut self, batch: Option<Batch>) -> Option<Batch> {
        if let Some(batch) = &batch {
            let (users, oldest) = self.taken.unwrap_or((0, batch.oldest));
            self.taken = Some((users + batch.entries.len(), oldest));
        }
        batch
    }

    /// A batch of this size has left the memory.
    pub fn finish(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.taken = None;
    }

    /// Bytes that wait or are on their way.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Users that wait or are on their way; one that is in several batches counts in each.
    pub fn users(&self) -> usize {
        let waiting: usize = self.batches.iter().map(|batch| batch.entries.len()).sum();
        waiting + self.taken.map_or(0, |(users, _)| users)
    }

    /// When the oldest transaction was committed that waits or is on its way.
    pub fn oldest(&self) -> Option<Timestamp> {
        match self.taken {
            Some((_, oldest)) => oldest,
            None => self.batches.front().and_then(|batch| batch.oldest),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

#[cfg(test)]
mod tests;
