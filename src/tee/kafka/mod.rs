//! I/O with Kafka: creates topics, reads positions, publishes batches.

mod client;
mod failure;
mod publisher;
mod topic_reader;
mod topics;

pub use client::{Producer, connect, fence};
pub use failure::Failure;
pub use publisher::{CommitKind, Counts, Done, Job, Publisher, ended};
pub use topic_reader::{Reader, marks_deleted};
pub use topics::{ensure_topics, existing_topics};
