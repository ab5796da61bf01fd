//! The changes of one source transaction, sorted by tenant and pushed into their mailboxes.

use crate::map::CommitInfo;
use crate::model::{Change, Lsn, RestartSignal, TenantId, User};
use crate::replicator::error::ServiceError;
use crate::replicator::reader::backpressure::{Stalls, wait_for_room};
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::tenants::TenantHandle;
use crate::route::{Directory, Pushed, Unmapped};
use std::sync::Arc;

/// A transaction's changes for one tenant are handed on in chunks of this size.
const CHUNK_BYTES: usize = 512 << 10;

pub(crate) struct Dispatch {
    context: Arc<SessionContext>,
    /// The lanes that are known here.
    lanes: Arc<Vec<Arc<TenantHandle>>>,
    directory: Directory<usize>,
    parts: Vec<Part>,
    /// The tenants with changes in this transaction.
    affected: Vec<usize>,
    /// Tenants that went over their budget.
    crowded: Vec<usize>,
    stalls: Stalls,
}

/// A tenant's share of the transaction, as far as it was not handed on.
#[derive(Default)]
struct Part {
    changes: Vec<Change>,
    bytes: usize,
    affected: bool,
    /// Something among them wakes a sleeping target.
    wakes: bool,
}

impl Dispatch {
    pub(crate) fn new(context: Arc<SessionContext>) -> Dispatch {
        let mut dispatch = Dispatch {
            context,
            lanes: Arc::default(),
            directory: Directory::new([]),
            parts: Vec::new(),
            affected: Vec::new(),
            crowded: Vec::new(),
            stalls: Stalls::default(),
        };
        dispatch.adopt();
        dispatch
    }

    /// Learns which lanes were added or retired. A lane that is added in the middle of a transaction misses the
    /// beginning of it; its snapshot is taken later and has that transaction whole.
    fn adopt(&mut self) {
        self.lanes = self.context.lanes.all();
        let lanes = self.lanes.iter().enumerate().filter(|(_, lane)| !lane.retired.is_cancelled());
        self.directory = Directory::new(lanes.map(|(index, lane)| (&lane.tenant.id, &lane.tenant.key, index)));
        self.parts.resize_with(self.lanes.len(), Part::default);
        self.lanes.iter().for_each(|lane| lane.adopted.cancel());
    }

    fn add_to(&mut self, transaction: Transaction, index: usize, change: Change, is_create: IsCreate) {
        let mut fingerprints = self.context.fingerprints();
        // Under the lock under which positions are held: what left before this change may be about to be dropped.
        if !fingerprints.is_news(index, &change) && self.lanes[index].mailbox.is_primed() {
            return;
        }
        drop(fingerprints);
        let part = &mut self.parts[index];
        if !part.affected {
            part.affected = true;
            self.affected.push(index);
        }
        part.wakes |= is_create != IsCreate::No || change.deletes();
        part.bytes += change.heap_bytes();
        part.changes.push(change);
        if part.bytes >= CHUNK_BYTES {
            self.push(index, transaction, None);
        }
    }

    /// The tenant with this key; nobody's users are counted, and said once per key.
    fn find(&mut self, key: &str) -> Option<usize> {
        self.directory
            .find(key)
            .map_err(|unmapped| {
                if unmapped == Unmapped::New {
                    let so_far = self.directory.unmapped_changes();
                    // Not the key: it is a row's value, and of a wrong column it may be anything.
                    tracing::info!(so_far, "users of a tenant that the configuration does not have are left out");
                }
            })
            .ok()
    }

    fn push(&mut self, index: usize, transaction: Transaction, end: Option<Lsn>) -> Pushed {
        let (part, mailbox) = (&mut self.parts[index], &self.lanes[index].mailbox);
        part.bytes = 0;
        let wakes = std::mem::take(&mut part.wakes);
        let Transaction { commit_lsn, commit: CommitInfo { commit_time, xid } } = transaction;
        let pushed = mailbox.push(&mut part.changes, commit_lsn, xid, commit_time, end, wakes);
        if pushed == Pushed::Dropped {
            // The target has them, or will have them by a snapshot: perhaps as they were, and not as they left here.
            let mut fingerprints = self.context.fingerprints();
            part.changes.drain(..).for_each(|change| fingerprints.forget(index, change.id()));
        }
        if mailbox.over_budget() || self.context.memory.is_over() {
            self.crowded.push(index);
        }
        pushed
    }
}

impl Sink for Dispatch {
    const WANTS_ROWS: bool = false;

    fn begin_row(&mut self, _: Option<User>) {}

    /// A tenant's full chunk is handed on.
    fn add(&mut self, transaction: Transaction, tenant: Option<&str>, change: Change, is_create: IsCreate) {
        let index = match tenant {
            None => self.directory.only(),
            Some(key) => self.find(key),
        };
        if let Some(index) = index {
            self.add_to(transaction, index, change, is_create);
        }
    }

    fn add_everywhere(&mut self, transaction: Transaction, change: &Change) {
        for index in 0..self.parts.len() {
            self.add_to(transaction, index, change.clone(), IsCreate::No);
        }
    }

    /// Whatever is left is handed on, and the progress knows who was given something.
    fn commit(&mut self, transaction: Transaction, end: Lsn) {
        let context = self.context.clone();
        // Held over the pushes, so that no tenant acknowledges a transaction that the progress does not know yet.
        let mut progress = context.progress();
        let affected = std::mem::take(&mut self.affected);
        let lanes = self.lanes.clone();
        let queued: Vec<&TenantId> = affected
            .iter()
            .filter(|index| self.push(**index, transaction, Some(end)) == Pushed::Queued)
            .map(|index| &lanes[*index].tenant.id)
            .collect();
        progress.commit(end, queued.iter().copied());
        if queued.is_empty() {
            context.advanced.notify_one();
        }
        drop(progress);
        for index in &affected {
            self.parts[*index].affected = false;
        }
        self.affected = affected;
        self.affected.clear();
    }

    fn idle(&mut self, wal_end: Lsn) {
        self.context.progress().idle(wal_end);
    }

    fn reply_requested(&self) {
        self.context.report.notify_one();
    }

    fn needs_capacity(&self) -> bool {
        !self.crowded.is_empty()
    }

    async fn wait_for_capacity(&mut self) -> Result<(), ServiceError> {
        for index in std::mem::take(&mut self.crowded) {
            wait_for_room(&self.context, index, &mut self.stalls).await;
        }
        Ok(())
    }

    fn on_caught_up(&mut self) {
        self.stalls.clear();
    }

    async fn flush_if_due(&mut self) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn ready(&self) {
        self.context.lanes.changed.notified().await;
    }

    async fn on_ready(&mut self) -> Result<(), ServiceError> {
        self.adopt();
        Ok(())
    }

    fn mapping(&self) -> Arc<str> {
        self.context.mapping()
    }

    fn altered(&mut self, mapping: &str) {
        self.context.set_mapping(mapping);
        self.context.interrupt_all(RestartSignal::Altered);
    }

    fn interrupt(&mut self, why: RestartSignal) {
        self.context.interrupt_all(why);
    }
}
