//! The first stage: the source's changes, as its replication slot sends them.
//!
//! [`ReplicationConnection`] logs in and runs replication commands; [`ReplicationConnection::start_replication`] turns
//! it into a [`ReplicationReader`] and a [`ReplicationWriter`]. What the reader hands on, [`pgoutput`] decodes.
//! The slot and the publication are looked after in [`slot`] and [`publication`].

mod auth;
mod commands;
mod connection;
mod error;
mod log;
pub mod pgoutput;
pub mod publication;
pub mod slot;
mod stream;
mod wire;

pub use connection::ReplicationConnection;
pub use error::CaptureError;
pub use log::{SourceLog, read_log};
pub use stream::{Frame, ReplicationReader, ReplicationWriter};
