//! Why the demo failed.

use crate::admin::ServerError;
use crate::config::ConfigError;
use crate::replicator::error::ServiceError;
use crate::throwaway::ThrowawayError;
use std::io;

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A throwaway server.
    #[error(transparent)]
    Server(#[from] ThrowawayError),
    /// A statement on a throwaway server.
    #[error("a query of the demo failed: {}", crate::pg::describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// The embedded configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Replication itself.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The page's address cannot be used.
    #[error("{}", .0.of_address())]
    Listen(ServerError),
    /// Replication stopped, or did not start in time.
    #[error("{0}")]
    Stalled(&'static str),
    /// The targets' rows differ from the source's.
    #[error("source and targets differ: {0}")]
    Different(String),
    /// Writing to the terminal.
    #[error("cannot write to the terminal: {0}")]
    Output(#[from] io::Error),
}
