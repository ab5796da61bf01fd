//! The tee: the same changes, for consumers of Kafka. `capture -> map -> encode -> publish`, on a slot of its own.
//!
//! What a message says is decided here without I/O ([`Encoder`], [`Positions`], [`Topics`]); `kafka` does what is decided.

mod batch;
mod debezium;
mod encode;
#[cfg(feature = "kafka")]
pub mod kafka;
mod messages;
mod positions;
mod upsert;

pub use batch::{Batch, Message, Text};
pub use encode::{Encoder, Event, Op, Place};
pub use messages::{Said, messages};
pub use positions::{Held, Positions, Resume, Source, Split, StreamPosition, TenantPosition, decide_resume};
