//! The first stage: receives the source's changes from its replication slot.
//!
//! [`ReplicationConnection`] runs commands; START_REPLICATION splits it into a [`ReplicationReader`] and a
//! [`ReplicationWriter`]. [`pgoutput`] decodes what is read; [`slot`] and [`publication`] read and create the
//! two.

mod auth;
mod commands;
mod connection;
mod error;
mod log;
pub mod pgoutput;
pub mod publication;
pub(crate) mod shape;
pub mod slot;
mod stream;
pub(crate) mod synchronous;
mod waits;
mod wire;

pub use connection::ReplicationConnection;
pub use error::CaptureError;
pub(crate) use log::read_log;
pub(crate) use log::{SlotState, SourceLog};
pub use stream::{Frame, ReplicationReader, ReplicationWriter, StatusUpdate};
pub use waits::SlotWait;
pub(crate) use waits::{join_slot_prefix, read_waits};
