//! Why the demo failed.

use crate::config::ConfigError;
use crate::replicator::error::ServiceError;
use crate::throwaway::ThrowawayError;
use std::io;

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The servers.
    #[error(transparent)]
    Server(#[from] ThrowawayError),
    /// A statement on one of them.
    #[error("a query of the demo failed: {}", crate::pg::describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// The embedded configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Replication itself.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Replication ended, or did not begin.
    #[error("{0}")]
    Stalled(&'static str),
    /// What arrived is not what the source has.
    #[error("source and targets differ: {0}")]
    Different(String),
    /// The terminal.
    #[error("cannot write to the terminal: {0}")]
    Output(#[from] io::Error),
}
