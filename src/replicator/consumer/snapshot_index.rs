//! The last complete snapshot of each tenant, as the snapshots topic says. One for each process: a thread follows the topic.

use crate::config::Kafka;
use crate::model::{Generation, Lsn, TenantId};
use crate::replicator::session::topic_snapshots::PublishedSnapshot;
use crate::sync::lock;
use crate::tee::kafka::{Failure, FoundInRange, RangeReader, blocking};
use crate::tee::{Owner, SnapshotRecord, StreamPosition};
use rdkafka::message::Message;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause before the topic is read again after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What the topic says.
pub(super) struct SnapshotIndex {
    known: Mutex<Index>,
    /// Whether the topic was read to its end.
    is_read: watch::Sender<bool>,
    published: Mutex<Published>,
}

/// How far the publisher has come.
#[derive(Clone, Copy, Default)]
struct Published {
    generation: Generation,
    /// Every transaction that ends at or before this position is published.
    position: Lsn,
}

#[derive(Default)]
struct Index {
    tenants: HashMap<TenantId, Placed>,
    /// The mapping of the last record. Most records have the same one, and share its memory.
    mapping: Arc<str>,
    /// The sessions of partitions, which are told of new snapshots.
    subscribers: HashMap<i32, mpsc::UnboundedSender<TenantId>>,
}

struct Placed {
    partition: i32,
    snapshot: PublishedSnapshot,
}

impl SnapshotIndex {
    pub(super) fn new() -> SnapshotIndex {
        SnapshotIndex { known: Mutex::default(), is_read: watch::Sender::new(false), published: Mutex::default() }
    }

    /// Follows the topic until `stop`.
    pub(super) async fn follow(self: Arc<Self>, kafka: Kafka, owner: Owner, stop: CancellationToken) {
        self.retry_until_stopped(&kafka.snapshots_topic, &stop, |index| {
            let (settings, owner, ends) = (kafka.clone(), owner.clone(), stop.clone());
            move || index.read(&settings, &owner, &ends)
        })
        .await;
    }

    /// Follows the positions of the publisher until `stop`.
    pub(super) async fn follow_positions(self: Arc<Self>, kafka: Kafka, owner: Owner, stop: CancellationToken) {
        self.retry_until_stopped(&kafka.positions_topic, &stop, |index| {
            let (settings, owner, ends) = (kafka.clone(), owner.clone(), stop.clone());
            move || index.read_positions(&settings, &owner, &ends)
        })
        .await;
    }

    async fn retry_until_stopped<R: FnOnce() -> Result<(), Failure> + Send + 'static>(
        self: &Arc<Self>,
        topic: &str,
        stop: &CancellationToken,
        read: impl Fn(Arc<Self>) -> R,
    ) {
        while !stop.is_cancelled() {
            if let Err(failure) = blocking(read(self.clone())).await {
                tracing::warn!(%failure, topic, "reading a topic failed, retrying");
                tokio::select! {
                    () = sleep(RETRY) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    fn read(&self, kafka: &Kafka, owner: &Owner, stop: &CancellationToken) -> Result<(), Failure> {
        // Until the end is reached, the records may be superseded.
        let mut beginning = Some(Vec::new());
        RangeReader::new(kafka)?.read((&kafka.snapshots_topic, 0), 0, |found| {
            match found {
                FoundInRange::Message(message) => {
                    let read = message.key().and_then(|key| SnapshotRecord::read(owner, key, message.payload()));
                    match (&mut beginning, read) {
                        (_, None) => {}
                        (Some(read_before), Some(record)) => read_before.push(record),
                        (None, Some((tenant, record))) => self.take(tenant, record),
                    }
                }
                FoundInRange::End => {
                    if let Some(read) = beginning.take() {
                        self.begin(read);
                    }
                }
                FoundInRange::Nothing => {}
            }
            if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// The topic was read from its beginning to its end.
    fn begin(&self, read: Vec<(TenantId, Option<SnapshotRecord>)>) {
        let last: HashMap<TenantId, Option<SnapshotRecord>> = read.into_iter().collect();
        let before: Vec<TenantId> = lock(&self.known).tenants.keys().cloned().collect();
        for tenant in before.into_iter().filter(|tenant| !last.contains_key(tenant)) {
            self.take(tenant, None);
        }
        last.into_iter().for_each(|(tenant, record)| self.take(tenant, record));
        self.is_read.send_replace(true);
    }

    fn read_positions(&self, kafka: &Kafka, owner: &Owner, stop: &CancellationToken) -> Result<(), Failure> {
        RangeReader::new(kafka)?.read((&kafka.positions_topic, 0), 0, |found| {
            if let FoundInRange::Message(message) = found
                && let Some(key) = message.key()
                && let Some(known) = StreamPosition::read(owner, key, message.payload())
            {
                let generation = Generation(known.generation);
                *lock(&self.published) = Published { generation, position: known.position };
            }
            if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// The publisher has published every transaction of the generation that ends at or before this position. The last messages may
    /// not be committed in every partition yet.
    pub(super) fn published(&self, generation: Generation) -> Lsn {
        let published = *lock(&self.published);
        if published.generation == generation { published.position } else { Lsn::ZERO }
    }

    fn take(&self, tenant: TenantId, record: Option<SnapshotRecord>) {
        let mut known = lock(&self.known);
        let before = match record {
            None => known.tenants.remove(&tenant),
            Some(SnapshotRecord { generation, position, partition, offset, mapping, .. }) => {
                if *known.mapping != *mapping {
                    known.mapping = mapping.into();
                }
                let snapshot = PublishedSnapshot { generation, position, offset, mapping: known.mapping.clone() };
                known.tenants.insert(tenant.clone(), Placed { partition, snapshot })
            }
        };
        let placed = known.tenants.get(&tenant).or(before.as_ref());
        if let Some(subscriber) = placed.and_then(|placed| known.subscribers.get(&placed.partition)) {
            // Its session may have ended.
            let _ = subscriber.send(tenant);
        }
    }

    /// Waits until the topic was read to its end.
    pub(super) async fn read_once(&self) {
        // The sender lives as long as the index.
        let _ = self.is_read.subscribe().wait_for(|is_read| *is_read).await;
    }

    /// Tells of every tenant of the partition whose snapshot is completed or withdrawn from now on.
    pub(super) fn subscribe(&self, partition: i32) -> mpsc::UnboundedReceiver<TenantId> {
        let (sender, receiver) = mpsc::unbounded_channel();
        lock(&self.known).subscribers.insert(partition, sender);
        receiver
    }

    /// The last complete snapshot of a tenant.
    pub(super) fn of(&self, tenant: &TenantId) -> Option<PublishedSnapshot> {
        lock(&self.known).tenants.get(tenant).map(|placed| placed.snapshot.clone())
    }
}
