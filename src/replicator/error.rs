//! Why a session on the source ended, and whether the next one may succeed.

use crate::capture::pgoutput::DecodeError;
use crate::capture::{CaptureError, publication};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::map::CompileError;
#[cfg(feature = "kafka")]
use crate::model::Generation;
use crate::model::{Epoch, HistoryBreak, ResyncReason, SlotLoss, SourceTrouble, TableName};
use crate::pg::{ConnectError, SqlStateClass, describe};
use crate::snapshot::SourceReadError;
use crate::state::StateError;
#[cfg(feature = "kafka")]
use crate::tee::kafka::Failure;

/// An error that ends a session on the source, or the process.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Reading the slot failed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Connecting to the source or the state failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A query on the source failed.
    #[error("a query on the source failed: {}", describe(.0))]
    Source(#[from] tokio_postgres::Error),
    /// Reading rows of the source failed.
    #[error(transparent)]
    Read(#[from] SourceReadError),
    /// Connecting to the state failed.
    #[error("the state: {0}")]
    StateConnect(#[source] ConnectError),
    /// The state could not be read or written, or another process has taken over.
    #[error("the state: {0}")]
    State(#[from] StateError),
    /// Another session waited for a lock of a scan.
    #[error(
        "the scan of the source was aborted: another session waits for a lock that it blocks; it works once that session is done"
    )]
    LockAwaited,
    /// The lease was not renewed in time: another process may hold the slot by now.
    #[error("the lease has expired: another process may have taken over")]
    LeaseLapsed,
    /// A target was written by a later process than this one.
    #[error("a target was written by a later process (epoch {0})")]
    Superseded(Epoch),
    /// The source is a standby.
    #[error("the source is a standby that has not been promoted; if it stays one, point source.url at the primary")]
    InRecovery,
    /// Source or state went back to an older point. A new generation has begun.
    #[error("{0}")]
    WentBack(HistoryBreak),
    /// The source sent a message that cannot be decoded.
    #[error("the source sent a message that pgoutput version 1 does not have: {0}")]
    Decode(#[from] DecodeError),
    /// The mapping does not fit the table.
    #[error("{0}")]
    Mapping(#[from] CompileError),
    /// The mapping's query failed.
    #[error("users.query cannot be run on the source: {}; try it there with psql", describe(.0))]
    Query(tokio_postgres::Error),
    /// None of the preset's table layouts exists.
    #[error("none of the preset's tables exists: looked for {}; correct users.table", .0.join(", or "))]
    NoFamily(Vec<String>),
    /// A table does not exist.
    #[error("table {0} does not exist; correct users.table, or create it")]
    NoTable(TableName),
    /// The replica identity lacks columns, so old rows do not name their tenant.
    #[error("the replica identity of {table} lacks {columns}, so {effect}; {remedy}")]
    Identity {
        /// The mapped table.
        table: TableName,
        /// The missing columns.
        columns: String,
        /// What that means: [`crate::model::Relation::effect_of_gap`].
        effect: &'static str,
        /// The SQL that fixes it.
        remedy: String,
    },
    /// The publication does not exist, and the role may not create it.
    #[error("publication {publication} does not exist; run at the source, as the owner of its tables: {statement}")]
    NoPublication {
        /// The publication.
        publication: String,
        /// The SQL that creates it.
        statement: String,
    },
    /// The table is not published.
    #[error(
        "publication {publication} does not contain table {table}; run at the source: {}",
        publication::add_statement(publication, table)
    )]
    NotPublished {
        /// The publication.
        publication: String,
        /// The mapped table.
        table: TableName,
    },
    /// The publication was altered since the session began. The next session begins a new generation.
    #[error("{}", HistoryBreak::Republished)]
    Republished,
    /// A partition was attached or detached, and the slot would go on to publish it as before. The next session makes a new
    /// slot.
    #[error("a partition was attached or detached at the source, which needs a new slot before PostgreSQL 15")]
    SlotOutdated,
    /// The slot has another plugin or database.
    #[error("slot {slot} was not created by users-sync: {why}; choose another name for source.slot")]
    ForeignSlot {
        /// Its name.
        slot: String,
        /// The difference.
        why: String,
    },
    /// The slot was lost, and `on_slot_loss` is `stop`.
    #[error("slot {slot} {why}; with on_slot_loss: resync, users-sync creates a new slot and resyncs every tenant")]
    SlotLost {
        /// Its name.
        slot: String,
        /// How it was lost.
        why: SlotLoss,
    },
    /// The Kafka output cannot continue: every tenant takes a snapshot.
    #[error("Kafka output starts over: {0}")]
    StartOver(ResyncReason),
    /// The thread that publishes to Kafka has ended. It reports the reason itself.
    #[error("publishing to Kafka has ended")]
    NotPublishing,
    /// Reading the users' topic failed.
    #[cfg(feature = "kafka")]
    #[error("Kafka: {0}")]
    Kafka(String),
    /// The topic continues with another history of the source.
    #[cfg(feature = "kafka")]
    #[error("the topic continues with generation {0} of the source's history")]
    OtherGeneration(Generation),
    /// This process applies from Kafka and has no access to the source.
    #[error("this process has no access to the source")]
    WithoutSource,
    /// The source has to be fixed first.
    #[error("{what}; {remedy}")]
    Unready {
        /// The fault.
        what: String,
        /// The SQL that fixes it.
        remedy: String,
    },
}

impl ServiceError {
    /// Whether a person can fix it at the source or the state alone, so that no restart is needed: a login, a privilege, a
    /// table that is being restored. False for errors that are configured to stop the process, and for unknown protocols.
    pub(crate) fn is_fixed_without_restart(&self) -> bool {
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

    /// What the state and the status say about it.
    pub(crate) fn trouble(&self) -> SourceTrouble {
        match self {
            ServiceError::Capture(CaptureError::Connect(error)) | ServiceError::Connect(error) => {
                trouble_of_connect(error)
            }
            ServiceError::Capture(CaptureError::Io(_) | CaptureError::Closed) => SourceTrouble::ConnectionLost,
            ServiceError::Capture(CaptureError::Protocol(_)) | ServiceError::Decode(_) => SourceTrouble::Protocol,
            ServiceError::Capture(error @ (CaptureError::Server(_) | CaptureError::Query(_))) => {
                of_code(error.sqlstate())
            }
            ServiceError::Source(error) | ServiceError::Read(SourceReadError::Sql(error)) => {
                of_code(error.code().map(|code| code.code()))
            }
            ServiceError::State(StateError::Fenced { .. })
            | ServiceError::Superseded(_)
            | ServiceError::LeaseLapsed => SourceTrouble::Superseded,
            ServiceError::StateConnect(_)
            | ServiceError::State(StateError::Sql(_) | StateError::Outdated | StateError::Key) => SourceTrouble::State,
            ServiceError::InRecovery => SourceTrouble::Standby,
            ServiceError::Mapping(_)
            | ServiceError::Query(_)
            | ServiceError::NoFamily(_)
            | ServiceError::NoTable(_)
            | ServiceError::Read(SourceReadError::Columns) => SourceTrouble::Mapping,
            ServiceError::Identity { .. } => SourceTrouble::ReplicaIdentity,
            ServiceError::NotPublished { .. } | ServiceError::Unready { .. } => SourceTrouble::Unready,
            ServiceError::NoPublication { .. } => SourceTrouble::PublicationMissing,
            ServiceError::ForeignSlot { .. } => SourceTrouble::SlotForeign,
            ServiceError::SlotLost { .. } => SourceTrouble::SlotLost,
            #[cfg(feature = "kafka")]
            ServiceError::Kafka(_) => SourceTrouble::KafkaUnread,
            #[cfg(feature = "kafka")]
            ServiceError::OtherGeneration(_) => SourceTrouble::StartsOver,
            ServiceError::LockAwaited
            | ServiceError::WentBack(_)
            | ServiceError::Republished
            | ServiceError::SlotOutdated
            | ServiceError::StartOver(_)
            | ServiceError::NotPublishing
            | ServiceError::WithoutSource
            | ServiceError::Read(SourceReadError::Rewritten(_)) => SourceTrouble::StartsOver,
        }
    }

    /// Whether a retry can succeed only after a person has fixed something.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            ServiceError::Capture(error) => {
                is_final_code(error.sqlstate()) || matches!(error, CaptureError::Protocol(_))
            }
            ServiceError::Connect(error) | ServiceError::StateConnect(error) => match error {
                ConnectError::Unreachable { .. } | ConnectError::Timeout { .. } => false,
                ConnectError::Tls { .. }
                | ConnectError::Auth { .. }
                | ConnectError::Password { .. }
                | ConnectError::Protocol { .. } => true,
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
            | ServiceError::LockAwaited
            | ServiceError::WentBack(_)
            | ServiceError::Republished
            | ServiceError::SlotOutdated
            | ServiceError::InRecovery
            | ServiceError::StartOver(_)
            | ServiceError::NotPublishing
            | ServiceError::WithoutSource
            | ServiceError::Read(SourceReadError::Columns | SourceReadError::Rewritten(_)) => false,
            #[cfg(feature = "kafka")]
            ServiceError::Kafka(_) | ServiceError::OtherGeneration(_) => false,
            ServiceError::Decode(_)
            | ServiceError::Mapping(_)
            | ServiceError::NoFamily(_)
            | ServiceError::NoTable(_)
            | ServiceError::Identity { .. }
            | ServiceError::NoPublication { .. }
            | ServiceError::NotPublished { .. }
            | ServiceError::ForeignSlot { .. }
            | ServiceError::SlotLost { .. }
            | ServiceError::State(StateError::Outdated | StateError::Key)
            | ServiceError::Unready { .. } => true,
        }
    }
}

#[cfg(feature = "kafka")]
impl From<Failure> for ServiceError {
    fn from(failure: Failure) -> ServiceError {
        ServiceError::Kafka(failure.to_string())
    }
}

impl From<ServiceError> for Diagnostic {
    fn from(error: ServiceError) -> Diagnostic {
        diagnostic!("{error}").with_code(error.trouble())
    }
}

/// What a failed connection to the source means.
pub(crate) fn trouble_of_connect(error: &ConnectError) -> SourceTrouble {
    match error {
        ConnectError::Unreachable { .. } | ConnectError::Timeout { .. } => SourceTrouble::Unreachable,
        ConnectError::Tls { .. } | ConnectError::Auth { .. } | ConnectError::Password { .. } => SourceTrouble::Login,
        ConnectError::Protocol { .. } => SourceTrouble::Protocol,
        ConnectError::Server { error, .. } => match SqlStateClass::of(&error.sqlstate) {
            SqlStateClass::InvalidPassword | SqlStateClass::Login | SqlStateClass::MissingDatabase => {
                SourceTrouble::Login
            }
            SqlStateClass::Privilege => SourceTrouble::Rights,
            _ => SourceTrouble::Unreachable,
        },
    }
}

/// The server's answer to a statement; without a code the connection broke.
fn of_code(sqlstate: Option<&str>) -> SourceTrouble {
    match sqlstate.map(SqlStateClass::of) {
        None | Some(SqlStateClass::Transient) => SourceTrouble::ConnectionLost,
        Some(SqlStateClass::Privilege) => SourceTrouble::Rights,
        Some(SqlStateClass::MissingColumn | SqlStateClass::MissingTable) => SourceTrouble::Mapping,
        Some(_) => SourceTrouble::QueryFailed,
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
        assert!(lost.is_final() && !lost.is_fixed_without_restart());
        let no_table = ServiceError::NoTable(TableName { schema: "auth".into(), name: "users".into() });
        assert!(no_table.is_final() && no_table.is_fixed_without_restart());
        assert!(!ServiceError::InRecovery.is_fixed_without_restart());
    }
}
