//! What a publisher is given: its batches, and what it has to know.

use super::left_out::{LeftOut, TenantUser};
use super::oversized::{Limits, Refusals};
use crate::config::Topics;
use crate::model::{ByConfigured, Generation};
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

/// Whose the messages are, and where they go.
pub(crate) struct Addresses {
    /// The tenants' ids.
    pub(crate) tenants: ByConfigured<String>,
    /// With `partition_by: tenant`.
    pub(crate) by_tenant: Option<ByTenant>,
}

/// The partition of each tenant.
pub(crate) struct ByTenant {
    /// The generation of the source's history.
    pub(crate) generation: String,
    pub(crate) partitions: ByConfigured<i32>,
}

impl ByTenant {
    /// The partitions that a Java producer would choose if the tenants' ids were the keys, in a topic with `count` partitions.
    pub(crate) fn new(generation: Generation, tenants: &ByConfigured<String>, count: i32) -> ByTenant {
        let partition = |id: &String| partition_of(id, count);
        ByTenant { generation: generation.0.to_string(), partitions: tenants.values().map(partition).collect() }
    }
}

/// The partition of a tenant in a topic with `count` partitions.
pub(crate) fn partition_of(tenant: &str, count: i32) -> i32 {
    let hash = murmur2::murmur2(tenant.as_bytes(), murmur2::KAFKA_SEED) & 0x7fff_ffff;
    // Below `count`.
    (hash % count.max(1).unsigned_abs()).cast_signed()
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
    pub(crate) held: HashSet<TenantUser>,
    /// Records what a batch sets aside.
    pub(crate) left_out: mpsc::Sender<LeftOut>,
}

/// Whose messages these are, and where the topics end, as [`Found::ends`](super::Found::ends).
pub(crate) struct Ownership {
    pub(crate) owner: Owner,
    pub(crate) ends: Vec<(String, TopicEnds, bool)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hashes are those of Kafka's own tests.
    #[test]
    fn a_tenant_has_the_partition_that_a_java_producer_would_choose() {
        let ids = ["21", "foobar", "abc", "a-little-bit-long-string"];
        let hashes = [-973_932_308_i32, -790_332_482, 479_470_107, -985_981_536];
        let tenants: ByConfigured<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        for count in [1, 6, 1000] {
            let by_tenant = ByTenant::new(Generation(3), &tenants, count);
            let expected = hashes.map(|hash| (hash & i32::MAX) % count);
            assert_eq!(by_tenant.partitions.values().copied().collect::<Vec<_>>(), expected);
            assert_eq!(by_tenant.generation, "3");
        }
    }
}
