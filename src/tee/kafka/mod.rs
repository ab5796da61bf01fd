//! I/O with Kafka: creates topics, reads positions, publishes batches.

mod client;
mod failure;
mod publisher;
mod topic_reader;
mod topics;

pub(crate) use client::{Producer, connect, fence};
pub(crate) use failure::Failure;
pub(crate) use publisher::{CommitKind, Counts, Done, Job, Publisher, ended};
pub(crate) use topic_reader::Reader;
pub(crate) use topics::{ensure_topics, existing_topics};
