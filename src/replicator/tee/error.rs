//! Errors of the Kafka output, and the ways in which one of its sessions ends.

use crate::config::{TOPICS_REMEDY, TopicsError};
use crate::model::TopicTrouble;
use crate::replicator::error::ServiceError;
use crate::snapshot::Interruption;
use crate::state::StateError;
use crate::tee::kafka::Failure;
use std::time::Duration;

/// Remedy for a snapshot that exceeds `limits.snapshot_age`.
const INTERNAL_ERROR_REMEDY: &str =
    "report the log line \"internal error\" with its location; the Kafka output is tried again with growing pauses";
const SLOW_KAFKA_REMEDY: &str =
    "find out why Kafka accepts messages so slowly (quotas, disks), or raise limits.snapshot_age";

/// An error that ends a session of the Kafka output.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TeeError {
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("{0}")]
    Kafka(#[from] Failure),
    #[error("{0}")]
    Topics(#[from] TopicsError),
    /// A part of a snapshot's users was lost.
    #[error(transparent)]
    Spool(#[from] Interruption),
    #[error("the snapshot is older than limits.snapshot_age ({0:?}), and the source cannot vacuum behind it")]
    SnapshotAge(Duration),
    /// The Kafka output panicked.
    #[error("internal error, see the log")]
    Internal,
    #[error("slot {0} belongs to another database or plugin; choose another name for kafka.slot")]
    ForeignSlot(String),
}

impl From<crate::capture::CaptureError> for TeeError {
    fn from(error: crate::capture::CaptureError) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<crate::pg::ConnectError> for TeeError {
    fn from(error: crate::pg::ConnectError) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<tokio_postgres::Error> for TeeError {
    fn from(error: tokio_postgres::Error) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<crate::snapshot::SourceReadError> for TeeError {
    fn from(error: crate::snapshot::SourceReadError) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<StateError> for TeeError {
    fn from(error: StateError) -> Self {
        TeeError::Service(error.into())
    }
}

impl TeeError {
    /// The reason, its code if it has one, and how to fix it if a person has to.
    pub(crate) fn parts(&self) -> (String, Option<TopicTrouble>, Option<&'static str>) {
        match self {
            TeeError::Kafka(failure) => (failure.what.clone(), failure.code, failure.remedy),
            TeeError::Topics(_) => (self.to_string(), Some(TopicTrouble::Topic), Some(TOPICS_REMEDY)),
            TeeError::Internal => (self.to_string(), None, Some(INTERNAL_ERROR_REMEDY)),
            TeeError::SnapshotAge(_) => (self.to_string(), None, Some(SLOW_KAFKA_REMEDY)),
            error => (error.to_string(), None, None),
        }
    }
}

/// Why a session ended.
pub(crate) enum TeeExit {
    /// The process stops, and everything received is published or will be sent again.
    Drained,
    /// The configuration changed.
    Replaced,
    /// The slot retains this many bytes of WAL, more than `limits.kafka_wal`.
    HoldsLog(u64),
    /// An operator requested a snapshot of every tenant.
    Requested,
    Broken(TeeError),
}
