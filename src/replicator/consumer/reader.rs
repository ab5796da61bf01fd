//! Reads a partition and hands the changes of each source transaction to the tenants' mailboxes.
//!
//! The messages of a transaction follow each other in a partition. It is complete with the message that has the header `ce_commit`. Some
//! transactions have none: compaction has removed it, or they were published in parts. Such a transaction is complete once a message of
//! another one follows, or once everything has been read and a message had the header `ce_last` (the mark). Until then none of it is
//! applied.

use crate::clock;
use crate::config::Kafka;
use crate::map::CommitInfo;
use crate::model::{Change, Lsn, TenantId, TenantIdx, TenantKey, Timestamp, User, Xid};
use crate::replicator::consumer::offsets::Boundaries;
use crate::replicator::consumer::snapshot_index::SnapshotIndex;
use crate::replicator::error::ServiceError;
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};
use crate::replicator::reader::tenant_sink::TenantSink;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::topic_snapshots::TopicSnapshots;
use crate::sync::lock;
use crate::tee::kafka::{Next, PartitionStream, RangeReader, blocking, record_headers};
use crate::tee::{DecodeFault, RecordContent, RecordHeaders, RecordOrigin, RecordPlace, content, user_of_key};
use futures_util::FutureExt;
use rdkafka::message::{BorrowedMessage, Message};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::sleep;

/// Messages that are taken in a row before other tasks of the runtime have their turn.
const MESSAGES_PER_TURN: usize = 64;
/// Interval at which the publisher's position is compared with a transaction whose rest is missing.
const COMPLETION_INTERVAL: Duration = Duration::from_secs(1);

/// Reads one partition.
pub(crate) struct TopicReader {
    context: Arc<SessionContext>,
    stream: Arc<PartitionStream>,
    sink: TenantSink,
    /// The session's tenants by their ids.
    tenants: HashMap<TenantId, NamedTenant>,
    snapshots: Arc<TopicSnapshots>,
    index: Arc<SnapshotIndex>,
    kafka: Kafka,
    boundaries: Arc<Mutex<Boundaries>>,
    /// The transaction that is being read.
    open: Option<OpenTransaction>,
    /// Every transaction up to this position has been read whole.
    whole: Lsn,
    /// The offset after the last message.
    next_offset: i64,
    /// The key of that message. A tombstone follows the message of its delete.
    last_key: Option<Vec<u8>>,
}

/// A tenant, as the reader names it.
struct NamedTenant {
    index: TenantIdx,
    key: TenantKey,
}

#[derive(Clone, Copy)]
struct OpenTransaction {
    transaction: Transaction,
    /// The end of the transaction. Known once a message is marked: then it has no further parts.
    end: Option<Lsn>,
}

/// What was taken from the partition.
enum Took {
    Message,
    End,
    Nothing,
}

impl TopicReader {
    /// `start` is the offset from which the stream delivers.
    pub(crate) fn new(
        context: Arc<SessionContext>,
        stream: Arc<PartitionStream>,
        start: i64,
        kafka: Kafka,
        (snapshots, index): (Arc<TopicSnapshots>, Arc<SnapshotIndex>),
        boundaries: Arc<Mutex<Boundaries>>,
    ) -> TopicReader {
        let sink = TenantSink::new(context.clone());
        let mut reader = TopicReader {
            context,
            stream,
            sink,
            tenants: HashMap::new(),
            snapshots,
            index,
            kafka,
            boundaries,
            open: None,
            whole: Lsn::ZERO,
            next_offset: start,
            last_key: None,
        };
        reader.name_tenants();
        reader
    }

    fn name_tenants(&mut self) {
        let all = self.context.tenants.all();
        let current = all.iter().filter(|(_, handle)| !handle.is_retired());
        self.tenants = current
            .map(|(index, handle)| (handle.tenant.id.clone(), NamedTenant { index, key: handle.tenant.key.clone() }))
            .collect();
    }

    /// Reads until the session drains.
    pub(crate) async fn run(mut self) -> Result<(), ServiceError> {
        let context = self.context.clone();
        let stream = self.stream.clone();
        let mut taken = 0;
        while !context.drain.is_cancelled() {
            if self.sink.ready().now_or_never().is_some() {
                self.sink.on_ready().await?;
                self.name_tenants();
            }
            match self.take(&stream)? {
                Took::Message => {
                    taken += 1;
                    if taken >= MESSAGES_PER_TURN {
                        taken = 0;
                        yield_now().await;
                    }
                    if self.sink.needs_capacity() {
                        tokio::select! {
                            waited = self.sink.wait_for_capacity() => waited?,
                            () = context.drain.cancelled() => {}
                        }
                    }
                }
                Took::End => self.sink.on_caught_up(),
                Took::Nothing => tokio::select! {
                    () = stream.filled() => {}
                    complete = self.completion() => {
                        if complete? {
                            self.finish(self.next_offset);
                        }
                    }
                    () = self.sink.ready() => {
                        self.sink.on_ready().await?;
                        self.name_tenants();
                    }
                    () = context.drain.cancelled() => {}
                },
            }
        }
        Ok(())
    }

    /// Waits until the publisher says that the open transaction has no further parts in this partition: those of a transaction that it
    /// published in parts have no mark if the last part is in other partitions. Returns whether that is so.
    async fn completion(&self) -> Result<bool, ServiceError> {
        let Some(open) = self.open.filter(|open| open.end.is_none()) else { return std::future::pending().await };
        sleep(COMPLETION_INTERVAL).await;
        if self.index.published(self.context.generation) <= open.transaction.commit_lsn {
            return Ok(false);
        }
        let (kafka, stream, offset) = (self.kafka.clone(), self.stream.clone(), self.next_offset);
        let look = move || RangeReader::new(&kafka)?.has_nothing((stream.topic(), stream.partition()), offset);
        Ok(blocking(look).await?)
    }

    fn take(&mut self, stream: &PartitionStream) -> Result<Took, ServiceError> {
        match stream.next()? {
            Next::Message(message) => {
                let is_last = self.take_message(&message)?;
                self.last_key = message.key().map(<[u8]>::to_vec);
                self.next_offset = message.offset() + 1;
                if is_last {
                    self.finish(self.next_offset);
                }
                Ok(Took::Message)
            }
            Next::End => {
                if self.open.is_none_or(|open| open.end.is_some()) {
                    self.finish(self.next_offset);
                }
                Ok(Took::End)
            }
            Next::Nothing => Ok(Took::Nothing),
        }
    }

    /// Returns whether the message is the last one of its transaction in the partition.
    fn take_message(&mut self, message: &BorrowedMessage<'_>) -> Result<bool, ServiceError> {
        let headers = record_headers(message);
        let place = match headers.place() {
            Ok(place) => place,
            // Of another program, or written without `partition_by: tenant`.
            Err(fault) => {
                self.unreadable(message, fault);
                return Ok(false);
            }
        };
        let RecordPlace { generation, origin, at } = place;
        if generation > self.context.generation {
            return Err(ServiceError::OtherGeneration(generation));
        }
        if generation < self.context.generation {
            return Ok(false);
        }
        let transaction = match origin {
            RecordOrigin::Transaction(transaction) => transaction,
            RecordOrigin::Single => {
                let tenant = headers.tenant.and_then(|tenant| self.tenants.get(tenant));
                if let Some(NamedTenant { index, .. }) = tenant
                    && !self.snapshots.is_rebuilt(*index, message.offset())
                {
                    // It is ahead of the stream, so the tenant is rebuilt with it.
                    self.context.rebuild(*index);
                }
                return Ok(false);
            }
            RecordOrigin::Snapshot(position) => {
                // A snapshot can come between the parts of a transaction that was published in several.
                if self.open.is_none_or(|open| open.end.is_some()) {
                    self.finish(message.offset());
                }
                let tenant = headers.tenant.and_then(|tenant| self.tenants.get(tenant));
                if let Some(NamedTenant { index, .. }) = tenant
                    && self.snapshots.seen(*index, position)
                {
                    // Before anything that follows it in the stream is handed on.
                    self.context.rebuild(*index);
                }
                return Ok(false);
            }
        };
        if self.open.is_some_and(|open| open.transaction.commit_lsn != transaction.commit) {
            self.finish(message.offset());
        }
        if transaction.commit < self.whole {
            // Published a second time: a snapshot of every tenant precedes what follows.
            return Ok(false);
        }
        let current =
            Transaction { commit_lsn: transaction.commit, commit: CommitInfo { commit_time: at, xid: Xid(0) } };
        let open = self.open.get_or_insert(OpenTransaction { transaction: current, end: None });
        open.end = open.end.or(transaction.end);
        let Some(NamedTenant { index, key }) = headers.tenant.and_then(|tenant| self.tenants.get(tenant)) else {
            return Ok(transaction.is_last);
        };
        if self.snapshots.is_rebuilt(*index, message.offset()) {
            return Ok(transaction.is_last);
        }
        match read_change(message, &headers, at) {
            Ok(RecordContent::Change { change, is_new }) => {
                self.sink.add(current, Some(key.as_str()), change, IsCreate::known(is_new));
            }
            // Compaction has removed the message of the delete.
            Ok(RecordContent::Tombstone) if self.last_key.as_deref() != message.key() => {
                if let Some(Ok(id)) = message.key().map(user_of_key) {
                    self.sink.add(
                        current,
                        Some(key.as_str()),
                        Change::Delete { id: id.as_str().into(), at },
                        IsCreate::No,
                    );
                }
            }
            Ok(RecordContent::Tombstone) => {}
            Err(fault) => {
                self.unreadable(message, fault);
                if let Some(Ok(id)) = message.key().map(user_of_key) {
                    let set_aside = Change::Upsert(User::unmappable(&id, fault.to_string()));
                    self.sink.add(current, Some(key.as_str()), set_aside, IsCreate::No);
                }
            }
        }
        Ok(transaction.is_last)
    }

    /// A message that cannot be read is left out, and reported. Its offset says where it is; its content is not shown.
    fn unreadable(&self, message: &BorrowedMessage<'_>, fault: DecodeFault) {
        if let Some(so_far) = self.context.count_unmappable() {
            let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
            tracing::error!(topic, partition, offset, so_far, reason = %fault, "skipped a message that cannot be read");
        }
    }

    /// Everything before `offset` has been read: hands the open transaction on.
    fn finish(&mut self, offset: i64) {
        if let Some(OpenTransaction { transaction, end }) = self.open.take() {
            // Without a mark, the target holds at least what was committed before the commit record.
            let end = end.unwrap_or(transaction.commit_lsn);
            // By two clocks. If they differ, changes wait for a turn without need, at most 100 ms, or take none.
            self.context.turns.note_commit(transaction.commit.commit_time, clock::now());
            // No tenant lacks what was committed before: a session begins without a position.
            self.context.progress().idle(transaction.commit_lsn);
            self.sink.commit(transaction, end);
            self.whole = self.whole.max(end);
        }
        lock(&self.boundaries).add(self.whole, offset);
        self.context.advanced.notify_one();
    }
}

fn read_change(
    message: &BorrowedMessage<'_>,
    headers: &RecordHeaders<'_>,
    at: Timestamp,
) -> Result<RecordContent, DecodeFault> {
    let id = user_of_key(message.key().ok_or(DecodeFault::Key)?)?;
    content(&id, message.payload(), headers, at)
}
