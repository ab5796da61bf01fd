//! The last complete snapshot of each tenant, as the snapshots topic says. One for each process: a thread follows the topic.

use crate::config::Kafka;
use crate::model::TenantId;
use crate::replicator::session::topic_snapshots::PublishedSnapshot;
use crate::sync::lock;
use crate::tee::kafka::{Failure, FoundInRange, RangeReader, blocking};
use crate::tee::{Owner, SnapshotRecord};
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
}

#[derive(Default)]
struct Index {
    tenants: HashMap<TenantId, Placed>,
    /// The sessions of partitions, which are told of new snapshots.
    subscribers: HashMap<i32, mpsc::UnboundedSender<TenantId>>,
}

struct Placed {
    partition: i32,
    snapshot: PublishedSnapshot,
}

impl SnapshotIndex {
    pub(super) fn new() -> SnapshotIndex {
        SnapshotIndex { known: Mutex::default(), is_read: watch::Sender::new(false) }
    }

    /// Follows the topic until `stop`.
    pub(super) async fn follow(self: Arc<Self>, kafka: Kafka, owner: Owner, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let (index, settings, owner, ends) = (self.clone(), kafka.clone(), owner.clone(), stop.clone());
            if let Err(failure) = blocking(move || index.read(&settings, &owner, &ends)).await {
                tracing::warn!(%failure, topic = kafka.snapshots_topic, "cannot read the snapshots topic, retrying");
                tokio::select! {
                    () = sleep(RETRY) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    fn read(&self, kafka: &Kafka, owner: &Owner, stop: &CancellationToken) -> Result<(), Failure> {
        RangeReader::new(kafka)?.read((&kafka.snapshots_topic, 0), 0, |found| {
            match found {
                FoundInRange::Message(message) => self.take(message, owner),
                FoundInRange::End => drop(self.is_read.send_replace(true)),
                FoundInRange::Nothing => {}
            }
            if stop.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    fn take(&self, message: &rdkafka::message::BorrowedMessage<'_>, owner: &Owner) {
        use rdkafka::message::Message;
        let Some((tenant, record)) = message.key().and_then(|key| SnapshotRecord::read(owner, key, message.payload()))
        else {
            return;
        };
        let mut known = lock(&self.known);
        let before = match record {
            None => known.tenants.remove(&tenant),
            Some(SnapshotRecord { generation, position, partition, offset, mapping, .. }) => {
                let snapshot = PublishedSnapshot { generation, position, offset, mapping: mapping.into() };
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
