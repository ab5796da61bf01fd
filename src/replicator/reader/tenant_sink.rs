//! Sorts the changes of each source transaction by tenant and pushes them into the tenants' mailboxes.

use crate::map::CommitInfo;
use crate::model::{Anchor, ByTenant, Change, HistoryBreak, Lsn, RestartSignal, TenantId, TenantIdx, Timestamp, User};
use crate::replicator::error::ServiceError;
use crate::replicator::reader::backpressure::{Stalls, wait_for_room};
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::tenants::TenantHandle;
use crate::route::{Directory, Pushed, Unmapped};
use std::sync::Arc;

/// Size of a chunk: a transaction's changes for one tenant are pushed in chunks, which bounds the memory outside the
/// mailboxes.
const CHUNK_BYTES: usize = 512 << 10;

pub(crate) struct TenantSink {
    context: Arc<SessionContext>,
    /// The session's tenants as of the last refresh.
    tenants: Arc<ByTenant<Arc<TenantHandle>>>,
    /// `None` for a tenant whose target `users-sync apply` writes to.
    directory: Directory<Option<TenantIdx>>,
    chunks: ByTenant<Chunk>,
    /// The tenants with changes in this transaction.
    affected: Vec<TenantIdx>,
    /// The tenants that went over their budget.
    over_budget: Vec<TenantIdx>,
    stalls: Stalls,
    /// As [`SessionContext::expected`], until it came.
    expected: Option<Anchor>,
    /// It did not come.
    went_back: bool,
}

/// A tenant's changes of the transaction that are not pushed yet.
#[derive(Default)]
struct Chunk {
    changes: Vec<Change>,
    bytes: usize,
    /// The tenant has changes in this transaction, pushed or not.
    is_affected: bool,
    /// One of the changes wakes a sleeping target.
    wakes: bool,
}

impl TenantSink {
    pub(crate) fn new(context: Arc<SessionContext>) -> TenantSink {
        let mut sink = TenantSink {
            context,
            tenants: Arc::default(),
            directory: Directory::new([]),
            chunks: ByTenant::default(),
            affected: Vec::new(),
            over_budget: Vec::new(),
            stalls: Stalls::default(),
            expected: None,
            went_back: false,
        };
        sink.expected = sink.context.expected;
        sink.refresh_tenants();
        sink
    }

    /// Takes over added and removed tenants. A tenant added in the middle of a transaction misses the beginning of it;
    /// its snapshot is taken later and has the whole transaction.
    fn refresh_tenants(&mut self) {
        self.tenants = self.context.tenants.all();
        let current = self.tenants.iter().filter(|(_, handle)| !handle.is_retired());
        let served = current.map(|(index, handle)| (&handle.tenant.id, &handle.tenant.key, Some(index)));
        let elsewhere = self.context.config.applied_elsewhere().iter().map(|tenant| (&tenant.id, &tenant.key, None));
        self.directory = Directory::new(served.chain(elsewhere));
        for (index, handle) in self.tenants.iter() {
            self.chunks.entry(index);
            handle.adopt();
        }
    }

    fn add_to(&mut self, transaction: Transaction, index: TenantIdx, change: Change, is_create: IsCreate) {
        let mut fingerprints = self.context.fingerprints();
        // The lock is that of `discard_applied`: the earlier change that this one repeats must not be dropped meanwhile.
        if !fingerprints.is_new(index, &change) && self.tenants[index].mailbox.is_primed() {
            return;
        }
        drop(fingerprints);
        let chunk = &mut self.chunks[index];
        if !chunk.is_affected {
            chunk.is_affected = true;
            self.affected.push(index);
        }
        chunk.wakes |= is_create != IsCreate::No || change.deletes();
        chunk.bytes += change.heap_bytes();
        chunk.changes.push(change);
        if chunk.bytes >= CHUNK_BYTES {
            self.push(index, transaction, None);
        }
    }

    /// The tenant with this key. An unknown key is counted, and logged once.
    fn find(&mut self, key: &str) -> Option<TenantIdx> {
        match self.directory.find(key) {
            Ok(index) => index,
            Err(unmapped) => {
                self.context.users_changed.notify_one();
                if unmapped == Unmapped::New {
                    let so_far = self.directory.unmapped_changes();
                    // Without the key: it is a row's value, and with a wrong tenant column it could be anything.
                    tracing::info!(so_far, "skipping users of a tenant that is not configured");
                }
                None
            }
        }
    }

    fn push(&mut self, index: TenantIdx, transaction: Transaction, end: Option<Lsn>) -> Pushed {
        let (chunk, mailbox) = (&mut self.chunks[index], &self.tenants[index].mailbox);
        chunk.bytes = 0;
        let wakes = std::mem::take(&mut chunk.wakes);
        let Transaction { commit_lsn, commit: CommitInfo { commit_time, xid } } = transaction;
        let pushed = mailbox.push(&mut chunk.changes, commit_lsn, xid, commit_time, end, wakes);
        if pushed == Pushed::Dropped {
            // The target has these changes, or its snapshot will. Its rows may differ from the changes dropped here.
            let mut fingerprints = self.context.fingerprints();
            for change in chunk.changes.drain(..) {
                fingerprints.forget(index, change.id());
            }
        }
        if mailbox.over_budget() || self.context.memory.is_over() {
            self.over_budget.push(index);
        }
        pushed
    }
}

impl Sink for TenantSink {
    const WANTS_ROWS: bool = false;

    fn begin_row(&mut self, _: Option<User>) {}

    fn add(&mut self, transaction: Transaction, tenant: Option<&str>, change: Change, is_create: IsCreate) {
        let index = match tenant {
            None => self.directory.only().flatten(),
            Some(key) => self.find(key),
        };
        let may_fill = is_create != IsCreate::No && self.context.status.lacks_users();
        if change.deletes() || may_fill {
            self.context.users_changed.notify_one();
        }
        if let Some(index) = index {
            self.add_to(transaction, index, change, is_create);
        }
    }

    fn without_tenant(&mut self) {
        self.context.users_changed.notify_one();
    }

    fn add_to_all(&mut self, transaction: Transaction, change: &Change) {
        for index in self.chunks.indexes() {
            self.add_to(transaction, index, change.clone(), IsCreate::No);
        }
    }

    /// Pushes the last chunks and records which tenants got changes.
    fn commit(&mut self, transaction: Transaction, end: Lsn) {
        let received = Anchor { end, xid: transaction.commit.xid };
        if self.expected.take_if(|expected| expected.end <= end).is_some_and(|expected| expected != received) {
            self.went_back = true;
        }
        let context = self.context.clone();
        // Locked during the pushes: no tenant may acknowledge a transaction that the progress does not know yet.
        let mut progress = context.progress();
        let affected = std::mem::take(&mut self.affected);
        let tenants = self.tenants.clone();
        let queued: Vec<&TenantId> = affected
            .iter()
            .filter(|index| self.push(**index, transaction, Some(end)) == Pushed::Queued)
            .map(|index| &tenants[*index].tenant.id)
            .collect();
        progress.commit(end, queued.iter().copied());
        progress.remember(received);
        if queued.is_empty() {
            context.advanced.notify_one();
        }
        drop(progress);
        for index in &affected {
            self.chunks[*index].is_affected = false;
        }
        // Keeps the allocation.
        self.affected = affected;
        self.affected.clear();
    }

    fn received(&mut self, commit: CommitInfo, sent: Timestamp) {
        self.context.turns.note_commit(commit.commit_time, sent);
    }

    fn idle(&mut self, wal_end: Lsn) {
        self.went_back |= self.expected.take_if(|expected| expected.end < wal_end).is_some();
        self.context.progress().idle(wal_end);
    }

    fn reply_requested(&self) {
        self.context.report.notify_one();
    }

    fn needs_capacity(&self) -> bool {
        !self.over_budget.is_empty() || self.went_back
    }

    async fn wait_for_capacity(&mut self) -> Result<(), ServiceError> {
        if self.went_back {
            self.context.state.break_own_history(self.context.epoch).await?;
            return Err(ServiceError::WentBack(HistoryBreak::SourceRestored));
        }
        for index in std::mem::take(&mut self.over_budget) {
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
        self.context.tenants.changed.notified().await;
    }

    async fn on_ready(&mut self) -> Result<(), ServiceError> {
        self.refresh_tenants();
        Ok(())
    }

    fn mapping(&self) -> Arc<str> {
        self.context.mapping()
    }

    fn altered(&mut self, mapping: &str) {
        self.context.set_mapping(mapping);
        self.context.interrupt_all(RestartSignal::Altered);
    }

    fn interrupt(&mut self, position: Lsn, signal: RestartSignal) -> bool {
        self.context.interrupt_all_from(position, signal)
    }
}
