//! Completes and encodes the changes of the stream, transaction by transaction.

use crate::clock::now;
use crate::config::{Config, PartitionBy, Tenant};
use crate::model::{ByConfigured, Change, ConfiguredIdx, Deletes, Lsn, RestartSignal, ResyncReason, Timestamp, User};
use crate::replicator::error::ServiceError;
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::point_read::{ReadRequest, ReadUser};
use crate::replicator::tee::batcher::{FULL_BATCH_BYTES, KafkaBatcher};
use crate::route::{Directory, compose};
use crate::status::report::IDLE_STEP;
use crate::tee::kafka::CommitKind;
use crate::tee::{CompleteChange, EventPosition, Split, StreamPosition, TransactionEnd, arrange, messages};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Changes that wait for one point read. More changes per read cost memory and latency.
const MAX_PENDING: usize = 250;

/// The position at which publishing resumes.
pub(crate) struct Start {
    /// The published position.
    pub(crate) position: StreamPosition,
    /// The position of each tenant's snapshot. Older changes are part of the snapshot.
    pub(crate) tenants: ByConfigured<Lsn>,
    /// Once the stream has reached this position, a batch is sent even if it is empty. Its acknowledgement shows that the failure of
    /// the last session is overcome.
    pub(crate) confirm_at: Option<Lsn>,
}

/// The texts by which messages and point reads name a tenant.
struct TeeTenant {
    id: String,
    key: String,
}

impl TeeTenant {
    fn of(tenant: &Tenant) -> TeeTenant {
        TeeTenant { id: tenant.id.to_string(), key: tenant.key.as_str().to_owned() }
    }
}

/// The transaction that is being received.
struct Current {
    /// The start of its commit record.
    commit: Lsn,
    /// The number of its changes so far.
    changes: u64,
}

/// A change of a tenant, with its transaction and ordinal.
struct PendingChange {
    transaction: Transaction,
    tenant: ConfiguredIdx,
    change: Change,
    is_new: bool,
    before: Option<User>,
    ordinal: u64,
}

pub(crate) struct TeeSink {
    context: Arc<SessionContext>,
    batcher: KafkaBatcher,
    deletes: Deletes,
    tombstones: bool,
    tenants: ByConfigured<TeeTenant>,
    directory: Directory<ConfiguredIdx>,
    start: Start,
    /// A partly published transaction that is published again from its beginning, because the results of a query mapping have no stable
    /// order. Its ordinals continue, so that no ordinal is used twice.
    renumbered: Option<Split>,
    mapping: Arc<str>,
    news: Arc<Notify>,
    before: Option<User>,
    /// Rows received of the current transaction, published or not. The same at every replay.
    rows: u64,
    current: Option<Current>,
    /// Changes from the first incomplete one on.
    pending: Vec<PendingChange>,
    /// Every transaction up to this position has been received and encoded.
    whole: Lsn,
    /// The position up to which batches were sent.
    sent: Lsn,
    /// Bytes of the batch when the last transaction began.
    begun_at: usize,
    /// With `partition_by: tenant`, the transactions that end in the batch.
    ends: Option<Vec<TransactionEnd>>,
    start_over: Option<ResyncReason>,
}

impl TeeSink {
    pub(crate) fn new(
        context: Arc<SessionContext>,
        config: &Config,
        batcher: KafkaBatcher,
        mut start: Start,
        mapping: &str,
        news: Arc<Notify>,
    ) -> TeeSink {
        let renumbered = config.users.query.as_ref().and_then(|_| start.position.split.take());
        let tenants: ByConfigured<&Tenant> = config.tenants.iter().map(Arc::as_ref).collect();
        let kafka = config.kafka.as_ref();
        TeeSink {
            deletes: config.deletes,
            tombstones: kafka.is_some_and(|kafka| kafka.tombstone_on_delete),
            tenants: tenants.values().map(|tenant| TeeTenant::of(tenant)).collect(),
            directory: Directory::new(tenants.iter().map(|(index, tenant)| (&tenant.id, &tenant.key, index))),
            mapping: Arc::from(mapping),
            before: None,
            rows: 0,
            current: None,
            pending: Vec::new(),
            whole: start.position.position,
            sent: start.position.position,
            begun_at: 0,
            ends: kafka.is_some_and(|kafka| kafka.partition_by == PartitionBy::Tenant).then(Vec::new),
            start_over: None,
            context,
            batcher,
            start,
            renumbered,
            news,
        }
    }

    fn take(&mut self, transaction: Transaction, tenant: ConfiguredIdx, change: Change, is_new: bool, ordinal: u64) {
        let commit = transaction.commit_lsn;
        let split = self.start.position.split.as_ref();
        let is_published = split.is_some_and(|split| split.commit == commit && self.rows <= split.rows);
        if is_published || commit < self.start.tenants[tenant] {
            return;
        }
        let before = self.before.clone();
        let taken = PendingChange { transaction, tenant, change, is_new, before, ordinal };
        let is_whole = matches!(taken.change, Change::Upsert(_) | Change::Delete { .. });
        if self.pending.is_empty() && is_whole {
            self.encode(&taken);
        } else {
            self.pending.push(taken);
        }
    }

    fn encode(&mut self, taken: &PendingChange) {
        let Transaction { commit_lsn, commit } = taken.transaction;
        let place = EventPosition {
            position: commit_lsn,
            ordinal: taken.ordinal,
            xid: Some(commit.xid),
            at: commit.commit_time,
            is_single: false,
            now: millis(now()),
        };
        let complete = CompleteChange {
            tenant: taken.tenant,
            tenant_id: &self.tenants[taken.tenant].id,
            change: &taken.change,
            is_new: taken.is_new,
            before: taken.before.as_ref(),
            place,
        };
        let KafkaBatcher { encoder, batch, .. } = &mut self.batcher;
        messages(&complete, self.deletes, self.tombstones, encoder, batch);
    }

    /// The ordinal of the next change of its transaction. `None` if the transaction is published.
    fn next_ordinal(&mut self, transaction: Transaction) -> Option<u64> {
        let commit = transaction.commit_lsn;
        if commit < self.start.position.position {
            return None;
        }
        let numbered = self.renumbered.as_ref().filter(|split| split.commit == commit).map_or(0, |split| split.changes);
        if self.current.is_none() {
            self.begun_at = self.batcher.batch.len();
        }
        let current = self.current.get_or_insert(Current { commit, changes: numbered });
        current.changes += 1;
        Some(current.changes)
    }

    /// Completes pending changes by point reads. A missing row is skipped: the change that removed it follows.
    async fn complete(&mut self) -> Result<(), ServiceError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let requests: Vec<ReadRequest> = pending.iter().filter_map(|pending| read_request(&pending.change)).collect();
        let found = self.context.rereader.read(&self.context.config, &requests).await?;
        self.context.status.metrics.rereads.inc_by(requests.len() as u64);
        let found: HashMap<(Option<String>, &str), &User> =
            found.users.iter().map(|ReadUser { tenant, user, .. }| ((tenant.clone(), &*user.id), user)).collect();
        let has_filter = self.context.config.users.filter.is_some();
        for mut taken in pending {
            let read = || {
                let key = self.tenants[taken.tenant].key.clone();
                let id = taken.change.id();
                found.get(&(Some(key), id)).or_else(|| found.get(&(None, id))).map(|user| (*user).clone())
            };
            taken.change = match (&taken.change, read()) {
                (Change::Patch(patch), Some(user)) => compose(Change::Upsert(user), Change::Patch(patch.clone())),
                // One row read serves several changes: each gets its own change time.
                (Change::Reread { at, .. }, Some(user)) if user.updated_at_derived => {
                    Change::Upsert(User { updated_at: Some(*at), ..user })
                }
                (Change::Reread { .. }, Some(user)) => Change::Upsert(user),
                // The row may no longer match `where`. No later change reports that.
                (Change::Reread { id, at, deleted_if_absent, .. }, None) if has_filter || *deleted_if_absent => {
                    Change::Delete { id: id.clone(), at: *at }
                }
                (Change::Patch(_) | Change::Reread { .. }, None) => continue,
                (whole @ (Change::Upsert(_) | Change::Delete { .. }), _) => whole.clone(),
            };
            self.encode(&taken);
        }
        Ok(())
    }

    /// Whether a batch is sent, although its last transaction may continue. With `partition_by: tenant` a transaction is split only if
    /// it is large itself, and not because it follows others in a full batch.
    fn is_full(&self) -> bool {
        let is_inside = self.ends.is_some() && self.current.is_some();
        self.batcher.is_full() && (!is_inside || self.batcher.batch.len() - self.begun_at >= FULL_BATCH_BYTES)
    }

    /// Whether the batch is worth sending and nothing in it is incomplete.
    fn is_due(&self) -> bool {
        let moved = self.whole.bytes_since(self.sent);
        let confirms = self.start.confirm_at.is_some_and(|at| self.sent < at && self.whole >= at);
        self.current.is_none()
            && self.pending.is_empty()
            && moved > 0
            && (!self.batcher.batch.is_empty() || moved >= IDLE_STEP || confirms)
    }

    async fn send_batch(&mut self) -> Result<(), ServiceError> {
        if let Some(ends) = &mut self.ends {
            arrange(&mut self.batcher.batch.messages, ends);
            ends.clear();
        }
        self.begun_at = 0;
        let position = StreamPosition { position: self.whole, split: None, ..self.start.position.clone() };
        match &self.current {
            None => {
                // A partly published transaction may still follow.
                let split = self.start.position.split.as_ref().or(self.renumbered.as_ref());
                let split = split.filter(|split| split.commit >= self.whole).cloned();
                let record = StreamPosition { split, ..position }.record(&self.batcher.owner);
                self.sent = self.whole;
                self.batcher.send(CommitKind::Transaction(vec![record]), Some(self.whole)).await
            }
            Some(Current { commit, changes }) => {
                let split = Some(Split { commit: *commit, rows: self.rows, changes: *changes });
                let record = StreamPosition { split, ..position }.record(&self.batcher.owner);
                self.batcher.send(CommitKind::Partial(record), None).await
            }
        }
    }

    fn check_start_over(&self) -> Result<(), ServiceError> {
        self.start_over.map_or(Ok(()), |why| Err(ServiceError::StartOver(why)))
    }
}

impl Sink for TeeSink {
    const WANTS_ROWS: bool = true;

    fn begin_row(&mut self, before: Option<User>) {
        self.before = before;
        self.rows += 1;
    }

    fn add(&mut self, transaction: Transaction, tenant: Option<&str>, change: Change, is_create: IsCreate) {
        // Counted for unknown tenants, too: the configured tenants may change before a transaction is read again.
        let Some(ordinal) = self.next_ordinal(transaction) else { return };
        let tenant = match tenant {
            None => self.directory.only(),
            Some(key) => self.directory.find(key).ok(),
        };
        if let Some(tenant) = tenant {
            self.take(transaction, tenant, change, is_create == IsCreate::Yes, ordinal);
        }
    }

    fn add_to_all(&mut self, transaction: Transaction, change: &Change) {
        for tenant in self.tenants.indexes() {
            // Each tenant gets a message with its own ordinal.
            let Some(ordinal) = self.next_ordinal(transaction) else { return };
            self.take(transaction, tenant, change.clone(), false, ordinal);
        }
    }

    fn commit(&mut self, transaction: Transaction, end: Lsn) {
        let commit = transaction.commit_lsn;
        let is_encoded = self.batcher.batch.messages.last().is_some_and(|message| message.commit == Some(commit));
        let is_pending = self.pending.last().is_some_and(|pending| pending.transaction.commit_lsn == commit);
        if let Some(ends) = self.ends.as_mut().filter(|_| is_encoded || is_pending) {
            ends.push(TransactionEnd { commit, end });
        }
        self.current = None;
        self.before = None;
        self.rows = 0;
        self.idle(end);
    }

    fn idle(&mut self, wal_end: Lsn) {
        self.whole = self.whole.max(wal_end);
        self.batcher.progress.received(wal_end);
    }

    fn reply_requested(&self) {
        self.news.notify_one();
    }

    fn needs_capacity(&self) -> bool {
        self.start_over.is_some() || self.pending.len() >= MAX_PENDING || self.is_full()
    }

    async fn wait_for_capacity(&mut self) -> Result<(), ServiceError> {
        self.check_start_over()?;
        if self.pending.len() >= MAX_PENDING {
            self.complete().await?;
        }
        if self.is_full() && self.pending.is_empty() {
            self.send_batch().await?;
        }
        Ok(())
    }

    async fn flush_if_due(&mut self) -> Result<(), ServiceError> {
        self.check_start_over()?;
        self.complete().await?;
        if self.is_due() && self.batcher.has_room() {
            self.send_batch().await?;
        }
        Ok(())
    }

    /// Ends when the publisher has room for a batch that is due.
    async fn ready(&self) {
        if !self.is_due() {
            std::future::pending::<()>().await;
        }
        // If the publisher has ended, its failure ends the session.
        let _ = self.batcher.jobs.reserve().await;
    }

    async fn on_ready(&mut self) -> Result<(), ServiceError> {
        self.flush_if_due().await
    }

    fn mapping(&self) -> Arc<str> {
        self.mapping.clone()
    }

    fn altered(&mut self, _: &str) {
        self.start_over = Some(ResyncReason::SourceAltered);
    }

    fn interrupt(&mut self, _: Lsn, why: RestartSignal) -> bool {
        let is_first = self.start_over.is_none();
        self.start_over = Some(match why {
            RestartSignal::Truncated => ResyncReason::SourceTruncated,
            _ => ResyncReason::UnattributedDelete,
        });
        is_first
    }
}

fn read_request(change: &Change) -> Option<ReadRequest> {
    match change {
        Change::Patch(patch) => Some(ReadRequest { id: patch.id.clone(), xid: patch.xid, at: patch.at }),
        Change::Reread { id, xid, at, .. } => Some(ReadRequest { id: id.clone(), xid: *xid, at: *at }),
        Change::Upsert(_) | Change::Delete { .. } => None,
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn millis(at: Timestamp) -> i64 {
    at.unix_millis_floor().unwrap_or_default()
}
