//! The Kafka output (tee): the same changes as messages, `capture -> map -> encode -> publish`, on a slot of its own.
//!
//! Messages and positions are decided here without I/O ([`Encoder`], [`Positions`]). `kafka` does the I/O.

mod batch;
mod debezium;
mod encode;
mod event;
mod json;
#[cfg(feature = "kafka")]
pub mod kafka;
mod messages;
mod positions;
mod upsert;

pub use batch::{Batch, Message, Text};
pub use encode::{Encoder, MessageKey};
pub use event::{Event, EventPosition, Op};
pub use messages::{CompleteChange, messages};
pub use positions::{PositionRecord, Positions, Resume, Source, Split, StreamPosition, TenantPosition, decide_resume};
