//! What a publisher is given: its batches, and what it has to know.

use super::oversized::{Limits, Oversized, Refusals};
use crate::config::Topics;
use crate::model::ConfiguredIdx;
use crate::tee::{Batch, Owner, PositionRecord, TopicEnds};
use prometheus_client::metrics::counter::Counter;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A batch, its topics, and how it is committed.
pub(crate) struct Job {
    /// The messages.
    pub batch: Batch,
    /// The tenants' topics.
    pub topics: Arc<Topics>,
    /// How the batch ends.
    pub close: CommitKind,
}

/// What ends a batch.
pub(crate) enum CommitKind {
    /// The batch completes source transactions: it is committed together with these position records.
    Transaction(Vec<PositionRecord>),
    /// More of the same source transaction follows. The messages stay invisible until it is complete. A Kafka transaction that is open for
    /// too long is committed in part with this record.
    Partial(PositionRecord),
}

/// Counters of the publisher.
pub(crate) struct Counts {
    /// Messages that the brokers acknowledged.
    pub messages: Counter,
    /// Batches that completed source transactions.
    pub transactions: Counter,
}

/// What is known about messages that are too large.
pub(crate) struct Sizes {
    pub(crate) limits: Limits,
    pub(crate) refusals: Refusals,
    /// Users that were set aside.
    pub(crate) held: HashSet<(ConfiguredIdx, String)>,
    /// Records what a batch sets aside.
    pub(crate) oversized: mpsc::Sender<Oversized>,
}

/// Whose messages these are, and where the topics end, as [`Found::ends`](super::Found::ends).
pub(crate) struct Ownership {
    pub(crate) owner: Owner,
    pub(crate) ends: Vec<(String, TopicEnds, bool)>,
}
