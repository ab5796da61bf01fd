//! Errors of the capture stage, in kinds that a policy can match on.

use crate::pg::{ConnectError, ServerError};
use std::io;

/// Why capturing stopped or could not start.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No session: unreachable, too slow, TLS, login, or another refusal by the server.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the connection to the source broke: {0}")]
    Io(#[from] io::Error),
    /// The server closed the connection without an error: a restart, a failover, or a proxy in between.
    #[error("the source closed the connection")]
    Closed,
    /// The server reported an error; match on its SQLSTATE.
    #[error("the source reports {0}")]
    Server(Box<ServerError>),
    /// The server's bytes violate the protocol: a bug on either side.
    #[error("unexpected answer from the source: {0}")]
    Protocol(String),
    /// A query on the source failed without an error from the server.
    #[error("a query on the source failed: {}", crate::pg::describe(.0))]
    Query(#[source] tokio_postgres::Error),
}

impl CaptureError {
    /// The server's error code, if the server refused.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            CaptureError::Server(error) => Some(&error.sqlstate),
            CaptureError::Connect(ConnectError::Server { error, .. }) => Some(&error.sqlstate),
            CaptureError::Connect(ConnectError::Auth { sqlstate, .. }) => sqlstate.as_deref(),
            CaptureError::Connect(
                ConnectError::Unreachable { .. }
                | ConnectError::Timeout { .. }
                | ConnectError::Tls { .. }
                | ConnectError::Password { .. }
                | ConnectError::Protocol { .. },
            )
            | CaptureError::Io(_)
            | CaptureError::Closed
            | CaptureError::Protocol(_)
            | CaptureError::Query(_) => None,
        }
    }

    pub(super) fn protocol(what: impl Into<String>) -> Self {
        CaptureError::Protocol(what.into())
    }
}

impl From<tokio_postgres::Error> for CaptureError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(refusal) => CaptureError::Server(Box::new(refusal.into())),
            None if error.is_closed() => CaptureError::Closed,
            None => CaptureError::Query(error),
        }
    }
}
