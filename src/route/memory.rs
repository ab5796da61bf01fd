//! The bytes that wait for all targets together, of the stream and of snapshots, and the common budget.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The waiting bytes of all mailboxes that share this budget.
#[derive(Debug)]
pub(crate) struct Memory {
    waiting: AtomicUsize,
    budget: usize,
}

impl Memory {
    /// `budget` is in bytes.
    pub(crate) fn new(budget: usize) -> Memory {
        Memory { waiting: AtomicUsize::new(0), budget }
    }

    /// Whether the budget is exceeded.
    pub(crate) fn is_over(&self) -> bool {
        self.waiting() > self.budget
    }

    /// Bytes that wait or are being applied.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// The limit of all that waits, in bytes.
    pub(crate) fn budget(&self) -> usize {
        self.budget
    }

    /// Users of a snapshot wait in memory.
    pub(crate) fn add(&self, bytes: usize) {
        self.waiting.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Users of a snapshot were taken.
    pub(crate) fn remove(&self, bytes: usize) {
        self.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The size of a mailbox changed.
    pub(super) fn change(&self, before: usize, after: usize) {
        if after >= before { self.add(after - before) } else { self.remove(before - after) }
    }
}
