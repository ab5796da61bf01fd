//! The bytes that wait for all targets together, and the common budget.

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

    /// The size of a mailbox changed.
    pub(super) fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.waiting.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}
