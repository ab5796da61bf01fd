//! Errors of the state database.

use super::schema;
use crate::model::Epoch;
use crate::pg::{SqlStateClass, describe};

/// An operation on the state failed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state database returned an error, or the connection was lost.
    #[error("{}", describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// The tables are from an earlier version and lack columns.
    #[error(
        "its tables are from an earlier version, and this role may not alter them; run as their owner: {}",
        schema::UPGRADE
    )]
    Outdated,
    /// The key of the checkpoints is too short to be one that users-sync created.
    #[error(
        "the key of the checkpoints is damaged: restore users_sync.source.checkpoint_key from a backup, or set it to NULL"
    )]
    Key,
    /// A later process has raised the epoch.
    #[error("another process holds slot {slot} now; the epoch of this process was {epoch}")]
    Fenced {
        slot: String,
        /// The epoch of this process, which is no longer the newest.
        epoch: Epoch,
    },
}

impl StateError {
    /// The error of [`schema::UPGRADE`].
    pub(super) fn of_upgrade(error: tokio_postgres::Error) -> StateError {
        if SqlStateClass::of_error(&error) == Some(SqlStateClass::Privilege) {
            StateError::Outdated
        } else {
            StateError::Sql(error)
        }
    }
}
