//! The changes of one source transaction, sorted by tenant and pushed into their mailboxes.

use super::lanes::Lane;
use super::shared::Shared;
use crate::map::{Moment, TenantRef};
use crate::model::{Change, Lsn, TenantId};
use crate::route::{Directory, Pushed, Unmapped};
use std::sync::Arc;

/// A transaction's changes for one tenant are handed on in chunks of this size.
const CHUNK_BYTES: usize = 512 << 10;

/// The transaction that is being received.
#[derive(Clone, Copy)]
pub(super) struct Transaction {
    pub(super) commit_lsn: Lsn,
    pub(super) moment: Moment,
}

pub(super) struct Dispatch {
    /// The lanes that are known here.
    lanes: Arc<Vec<Arc<Lane>>>,
    directory: Directory<usize>,
    parts: Vec<Part>,
    /// The tenants with changes in this transaction.
    touched: Vec<usize>,
    /// Changes whose tenant has to be learnt from the source.
    pub(super) unsent: Vec<Change>,
    /// Tenants that went over their budget.
    pub(super) crowded: Vec<usize>,
}

/// A tenant's share of the transaction, as far as it was not handed on.
#[derive(Default)]
struct Part {
    changes: Vec<Change>,
    bytes: usize,
    touched: bool,
    /// Something among them wakes a sleeping target.
    wakes: bool,
}

impl Dispatch {
    pub(super) fn new(shared: &Shared) -> Dispatch {
        let mut dispatch = Dispatch {
            lanes: Arc::default(),
            directory: Directory::new([]),
            parts: Vec::new(),
            touched: Vec::new(),
            unsent: Vec::new(),
            crowded: Vec::new(),
        };
        dispatch.adopt(shared);
        dispatch
    }

    /// Learns which lanes were added or retired. A lane that is added in the middle of a transaction misses the
    /// beginning of it; its snapshot is taken later and has that transaction whole.
    pub(super) fn adopt(&mut self, shared: &Shared) {
        self.lanes = shared.lanes.all();
        let lanes = self.lanes.iter().enumerate().filter(|(_, lane)| !lane.retired.is_cancelled());
        self.directory = Directory::new(lanes.map(|(index, lane)| (&lane.tenant.id, &lane.tenant.key, index)));
        self.parts.resize_with(self.lanes.len(), Part::default);
        self.lanes.iter().for_each(|lane| lane.adopted.cancel());
    }

    /// Takes a change; a tenant's full chunk is handed on.
    /// `is_new`: the user is new to its tenant.
    pub(super) fn add(
        &mut self,
        shared: &Shared,
        transaction: Transaction,
        tenant: TenantRef<'_>,
        change: Change,
        is_new: bool,
    ) {
        let index = match tenant {
            TenantRef::Only => self.directory.only(),
            TenantRef::Key(key) => self.find(&key),
            TenantRef::Nobody => None,
            TenantRef::Unsent => return self.unsent.push(change),
        };
        if let Some(index) = index {
            self.add_to(shared, transaction, index, change, is_new);
        }
    }

    /// Takes a change for every tenant: whoever does not have the user has nothing to do.
    pub(super) fn add_everywhere(&mut self, shared: &Shared, transaction: Transaction, change: &Change) {
        for index in 0..self.parts.len() {
            self.add_to(shared, transaction, index, change.clone(), false);
        }
    }

    fn add_to(&mut self, shared: &Shared, transaction: Transaction, index: usize, change: Change, is_new: bool) {
        let mut fingerprints = shared.fingerprints();
        // Under the lock under which positions are held: what left before this change may be about to be dropped.
        if !fingerprints.is_news(index, &change) && self.lanes[index].mailbox.is_settled() {
            return;
        }
        drop(fingerprints);
        let part = &mut self.parts[index];
        if !part.touched {
            part.touched = true;
            self.touched.push(index);
        }
        part.wakes |= is_new || change.deletes();
        part.bytes += change.heap_bytes();
        part.changes.push(change);
        if part.bytes >= CHUNK_BYTES {
            self.push(shared, index, transaction, None);
        }
    }

    /// The tenant with this key; nobody's users are counted, and said once per key.
    pub(super) fn find(&mut self, key: &str) -> Option<usize> {
        self.directory
            .find(key)
            .map_err(|unmapped| {
                if unmapped == Unmapped::New {
                    let so_far = self.directory.unmapped_changes();
                    tracing::info!(key, so_far, "users of a tenant that the configuration does not have are left out");
                }
            })
            .ok()
    }

    /// The transaction is complete: whatever is left is handed on, and the progress knows who was given something.
    pub(super) fn commit(&mut self, shared: &Shared, transaction: Transaction, end: Lsn) {
        // Held over the pushes, so that no tenant acknowledges a transaction that the progress does not know yet.
        let mut progress = shared.progress();
        let touched = std::mem::take(&mut self.touched);
        let lanes = self.lanes.clone();
        let queued: Vec<&TenantId> = touched
            .iter()
            .filter(|index| self.push(shared, **index, transaction, Some(end)) == Pushed::Queued)
            .map(|index| &lanes[*index].tenant.id)
            .collect();
        progress.commit(end, queued.iter().copied());
        if queued.is_empty() {
            shared.advanced.notify_one();
        }
        drop(progress);
        for index in &touched {
            self.parts[*index].touched = false;
        }
        self.touched = touched;
        self.touched.clear();
    }

    fn push(&mut self, shared: &Shared, index: usize, transaction: Transaction, end: Option<Lsn>) -> Pushed {
        let (part, mailbox) = (&mut self.parts[index], &self.lanes[index].mailbox);
        part.bytes = 0;
        let wakes = std::mem::take(&mut part.wakes);
        let pushed = mailbox.push(&mut part.changes, transaction.commit_lsn, transaction.moment.xid, end, wakes);
        if pushed == Pushed::Dropped {
            // The target has them, or will have them by a snapshot: perhaps as they were, and not as they left here.
            let mut fingerprints = shared.fingerprints();
            part.changes.drain(..).for_each(|change| fingerprints.forget(index, change.id()));
        }
        if mailbox.over_budget() || shared.memory.is_over() {
            self.crowded.push(index);
        }
        pushed
    }
}
