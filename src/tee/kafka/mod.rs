//! I/O with Kafka: creates topics, reads positions, publishes batches.

mod blocking;
mod client;
mod ends;
mod failure;
mod group;
mod hanging;
mod headers;
mod job;
mod left_out;
mod look;
mod oversized;
mod publisher;
mod range_reader;
mod schemas;
mod takeover;
mod topic_reader;
mod topics;

pub(crate) use blocking::blocking;
pub(crate) use client::{Producer, connect, fence, needs_smaller_batches};
pub(crate) use failure::Failure;
pub(crate) use group::{Group, GroupEvent, Next, PartitionStream};
pub(crate) use hanging::end_hanging;
pub(crate) use headers::record_headers;
pub(crate) use job::{Addresses, ByTenant, CommitKind, Counts, Job, Ownership, Sizes, partition_of};
pub(crate) use left_out::{LeftOut, LeftOutChange, TenantUser};
pub(crate) use look::{Found, claims, look};
pub(crate) use oversized::{Limits, Refusals};
pub(crate) use publisher::{Done, Publisher, ended};
pub(crate) use range_reader::{Found as FoundInRange, PartitionEnds, RangeReader};
pub(crate) use schemas::{schema_ids, test_schemas};
pub(crate) use takeover::take_over;
pub(crate) use topic_reader::Reader;
pub(crate) use topics::{
    ensure_topics, existing_topics, max_message_bytes, partition_count, refuse_missing, topic_partitions,
};
