//! What waits for all targets together, in bytes, against the common budget.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The waiting bytes of all mailboxes that share it.
#[derive(Debug)]
pub struct Memory {
    waiting: AtomicUsize,
    budget: usize,
}

impl Memory {
    /// Nothing waits, and so much may.
    pub fn new(budget: usize) -> Memory {
        Memory { waiting: AtomicUsize::new(0), budget }
    }

    /// Whether more waits than may.
    pub fn is_over(&self) -> bool {
        self.waiting() > self.budget
    }

    /// Bytes that wait or are on their way.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// A mailbox that held `before` bytes holds `after`.
    pub(super) fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.waiting.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(before - after, Ordering::Relaxed);
        }
    }
}
