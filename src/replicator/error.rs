//! Why a session ended, and whether the next one may do better.

use crate::capture::pgoutput::DecodeError;
use crate::capture::{CaptureError, publication};
use crate::map::CompileError;
use crate::model::{Epoch, HistoryBreak, ResyncReason, SlotLoss, TableName};
use crate::pg::{ConnectError, SqlStateClass, describe};
use crate::snapshot::SourceReadError;
use crate::state::StateError;

/// What ends a session on the source, or the service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Reading the slot.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Reaching the source or the state.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Asking the source.
    #[error("a query on the source failed: {}", describe(.0))]
    Source(#[from] tokio_postgres::Error),
    /// Reading rows of the source.
    #[error(transparent)]
    Read(#[from] SourceReadError),
    /// The state, or another process that has taken over.
    #[error("the state: {0}")]
    State(#[from] StateError),
    /// The lease was not renewed in time: another process may hold the slot by now.
    #[error("the lease has lapsed: another process may have taken over")]
    LeaseLapsed,
    /// A target was written by a later process than this one.
    #[error("a target was written by a later process (epoch {0})")]
    Superseded(Epoch),
    /// The source takes no writes yet, or is not meant to.
    #[error("the source is a standby that has not been promoted; if it stays one, point source.url at the primary")]
    InRecovery,
    /// Source or state went back to an older point; a new history has been begun.
    #[error("{0}")]
    WentBack(HistoryBreak),
    /// The source sends what we do not understand.
    #[error("the source sent a message that pgoutput version 1 does not have: {0}")]
    Decode(#[from] DecodeError),
    /// The mapping does not fit the table.
    #[error("{0}")]
    Mapping(#[from] CompileError),
    /// The mapping's query.
    #[error("users.query cannot be run on the source: {}; try it there with psql", describe(.0))]
    Query(tokio_postgres::Error),
    /// None of the preset's families of tables is there.
    #[error("none of the preset's tables is there: looked for {}; correct users.table", .0.join(", or "))]
    NoFamily(Vec<String>),
    /// There is no such table.
    #[error("table {0} is not there; correct users.table, or create it")]
    NoTable(TableName),
    /// Old rows do not say whose users they were.
    #[error("the replica identity of {table} lacks {columns}, so deleted and moved users could not be found; {remedy}")]
    Identity {
        /// The mapped table.
        table: TableName,
        /// What is missing.
        columns: String,
        /// The SQL that mends it.
        remedy: String,
    },
    /// The table is not published.
    #[error(
        "publication {publication} does not hold table {table}; run at the source: {}",
        publication::add_statement(publication, table)
    )]
    NotPublished {
        /// The publication.
        publication: String,
        /// The mapped table.
        table: TableName,
    },
    /// The publication is not the one that the session began with; a new history begins.
    #[error("{}", HistoryBreak::Republished)]
    Republished,
    /// Somebody else's slot.
    #[error("slot {slot} is not ours: {why}; choose another name for source.slot")]
    ForeignSlot {
        /// Its name.
        slot: String,
        /// What is different.
        why: String,
    },
    /// The slot was lost, and the configuration says to stop then.
    #[error("slot {slot} {why}; with on_slot_loss: resync a new one is made and every tenant is resynced")]
    SlotLost {
        /// Its name.
        slot: String,
        /// How it was lost.
        why: SlotLoss,
    },
    /// The tee cannot go on from here: every tenant takes a snapshot.
    #[error("the tee starts over: {0}")]
    StartOver(ResyncReason),
    /// The thread that publishes to Kafka has ended; it has said why.
    #[error("publishing to Kafka has ended")]
    NotPublishing,
    /// Something at the source has to be mended first.
    #[error("{what}; {remedy}")]
    Unready {
        /// What is wrong.
        what: String,
        /// The SQL that mends it.
        remedy: String,
    },
}

impl ServiceError {
    /// Whether it is mended at the source or the state alone (a login, a privilege, a table that is being restored), after
    /// which everything goes on as before. Not what we were told to stop for, and nothing that we do not understand.
    pub fn is_mended_without_us(&self) -> bool {
        let stops = matches!(
            self,
            ServiceError::SlotLost { .. }
                | ServiceError::ForeignSlot { .. }
                | ServiceError::Decode(_)
                | ServiceError::Capture(CaptureError::Protocol(_))
                | ServiceError::Connect(ConnectError::Protocol { .. })
        );
        self.is_final() && !stops
    }

    /// Whether trying again is of no use before a person has mended something.
    pub fn is_final(&self) -> bool {
        match self {
            ServiceError::Capture(error) => {
                is_final_code(error.sqlstate()) || matches!(error, CaptureError::Protocol(_))
            }
            ServiceError::Connect(error) => match error {
                ConnectError::Unreachable { .. } | ConnectError::Timeout { .. } => false,
                ConnectError::Tls { .. } | ConnectError::Auth { .. } | ConnectError::Protocol { .. } => true,
                ConnectError::Server { error, .. } => is_final_code(Some(&error.sqlstate)),
            },
            ServiceError::Source(error) | ServiceError::Read(SourceReadError::Sql(error)) => {
                is_final_code(error.code().map(|code| code.code()))
            }
            ServiceError::Query(error) => {
                use SqlStateClass::{MissingColumn, MissingTable, Privilege, Statement};
                let class = SqlStateClass::of_error(error);
                matches!(class, Some(Privilege | MissingTable | MissingColumn | Statement))
            }
            ServiceError::State(StateError::Sql(error)) => is_final_code(error.code().map(|code| code.code())),
            ServiceError::State(StateError::Fenced { .. })
            | ServiceError::Superseded(_)
            | ServiceError::LeaseLapsed
            | ServiceError::WentBack(_)
            | ServiceError::Republished
            | ServiceError::InRecovery
            | ServiceError::StartOver(_)
            | ServiceError::NotPublishing
            | ServiceError::Read(SourceReadError::Columns) => false,
            ServiceError::Decode(_)
            | ServiceError::Mapping(_)
            | ServiceError::NoFamily(_)
            | ServiceError::NoTable(_)
            | ServiceError::Identity { .. }
            | ServiceError::NotPublished { .. }
            | ServiceError::ForeignSlot { .. }
            | ServiceError::SlotLost { .. }
            | ServiceError::State(StateError::Outdated)
            | ServiceError::Unready { .. } => true,
        }
    }
}

/// Whether a code needs a person. A missing slot (42704) does not: the next session creates it.
fn is_final_code(sqlstate: Option<&str>) -> bool {
    use SqlStateClass::*;
    let Some(code) = sqlstate else { return false };
    match SqlStateClass::of(code) {
        Privilege | InvalidPassword | Login | MissingDatabase | ConfigurationLimit => true,
        RowRefused
        | Transient
        | LockNotAvailable
        | InsufficientResources
        | TooManyConnections
        | ProgramLimit
        | ComplexityLimit
        | ReadOnly
        | MissingSchema
        | MissingTable
        | MissingColumn
        | Statement
        | RoutineFailure
        | Other
        | ApplicationDefined => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_need_a_person_are_final() {
        for code in ["42501", "28P01", "28000", "3D000", "53400"] {
            assert!(is_final_code(Some(code)), "{code}");
        }
        for code in [None, Some("42704"), Some("55006"), Some("57P03"), Some("53300"), Some("55000")] {
            assert!(!is_final_code(code), "{code:?}");
        }
        assert!(!ServiceError::Superseded(Epoch(3)).is_final());
        let lost = ServiceError::SlotLost { slot: "s".into(), why: SlotLoss::Gone };
        assert!(lost.is_final() && !lost.is_mended_without_us());
        let no_table = ServiceError::NoTable(TableName { schema: "auth".into(), name: "users".into() });
        assert!(no_table.is_final() && no_table.is_mended_without_us());
        assert!(!ServiceError::InRecovery.is_mended_without_us());
    }
}
