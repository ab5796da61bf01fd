//! I/O with Kafka: creates topics, reads positions, publishes batches.

mod client;
mod ends;
mod failure;
mod headers;
mod look;
mod oversized;
mod publisher;
mod topic_reader;
mod topics;

pub(crate) use client::{Producer, connect, fence, needs_smaller_batches};
pub(crate) use failure::Failure;
pub(crate) use look::{Found, look};
pub(crate) use oversized::{Limits, Oversized, Refusals, SetAside};
pub(crate) use publisher::{CommitKind, Counts, Done, Job, Ownership, Publisher, Sizes, ended};
pub(crate) use topic_reader::Reader;
pub(crate) use topics::{ensure_topics, existing_topics, max_message_bytes};
