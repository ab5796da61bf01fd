//! What talks to Kafka: topics are looked after, positions are read, batches are published.

mod client;
mod failure;
mod held;
mod publisher;
mod topics;

pub use client::{Producer, connect, fence};
pub use failure::Failure;
pub use held::{Reader, is_gone};
pub use publisher::{CommitKind, Counts, Done, Job, Publisher, ended};
pub use topics::{ensure_topics, existing_topics};
