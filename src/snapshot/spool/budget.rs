//! What all scans of a process may hold: memory within `limits.memory`, and disk within `spool.size`.

use crate::route::Memory;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Budget {
    /// Shared with the mailboxes of the session.
    memory: Arc<Memory>,
    in_memory: AtomicUsize,
    disk: u64,
    on_disk: AtomicU64,
    /// Notified when something was freed.
    freed: Notify,
}

impl Budget {
    /// `disk` is in bytes.
    pub(super) fn new(memory: Arc<Memory>, disk: u64) -> Budget {
        Budget { memory, in_memory: AtomicUsize::new(0), disk, on_disk: AtomicU64::new(0), freed: Notify::new() }
    }

    /// Counts `bytes` of memory if there is room for them: in an eighth of `limits.memory`, and only while half of it is
    /// free for the stream's changes. A first chunk always has room, so that a snapshot advances however much else waits.
    pub(super) fn take_memory(&self, bytes: usize) -> bool {
        let (budget, in_memory) = (self.memory.budget(), self.in_memory.load(Ordering::Relaxed));
        let has_room = in_memory + bytes <= budget / 8 && self.memory.waiting() + bytes <= budget / 2;
        if has_room || in_memory == 0 {
            self.in_memory.fetch_add(bytes, Ordering::Relaxed);
            self.memory.add(bytes);
            return true;
        }
        false
    }

    /// `limits.memory` in bytes.
    pub(super) fn memory_size(&self) -> usize {
        self.memory.budget()
    }

    pub(super) fn free_memory(&self, bytes: usize) {
        self.in_memory.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.remove(bytes);
        self.freed.notify_waiters();
    }

    /// Counts `bytes` on disk, if there is room for them.
    pub(super) fn take_disk(&self, bytes: u64) -> bool {
        let taken = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.disk);
        self.on_disk.try_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// What was counted could not be written. Sends no notification, as nothing has become free.
    pub(super) fn return_disk(&self, bytes: u64) {
        self.on_disk.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn free_disk(&self, bytes: u64) {
        self.return_disk(bytes);
        self.freed.notify_waiters();
    }

    #[cfg(test)]
    pub(super) fn memory_waiting(&self) -> usize {
        self.memory.waiting()
    }

    /// Without the mailboxes.
    pub(super) fn memory_used(&self) -> usize {
        self.in_memory.load(Ordering::Relaxed)
    }

    pub(super) fn disk_used(&self) -> u64 {
        self.on_disk.load(Ordering::Relaxed)
    }

    pub(super) fn freed(&self) -> &Notify {
        &self.freed
    }
}
