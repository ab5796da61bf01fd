//! Why a tenant's task interrupts its work, and what it does then.

use crate::apply::{Refusal, TargetError};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::failure_policy::{FailureAction, ParkCause};
use crate::route::RestartSignal;

/// Why a stretch of work ended.
#[derive(Debug)]
pub(crate) enum StopReason {
    /// The session drains, and everything that waited is applied or will be sent again.
    Drained,
    /// Nothing waits: the connection was given up, and is made again once there is something.
    Idle,
    /// It passes by itself.
    Retry(String),
    /// Its target cannot go on from where it is.
    Rejoin(&'static str),
    Park {
        cause: ParkCause,
        reason: String,
        remedy: String,
    },
    /// Its target does not take a row.
    Refused(Refusal),
    /// This process has to end its session.
    Session(ServiceError),
}

impl From<FailureAction> for StopReason {
    fn from(fault: FailureAction) -> StopReason {
        match fault {
            FailureAction::Retry(reason) => StopReason::Retry(reason),
            FailureAction::Park { cause, reason, remedy } => StopReason::Park { cause, reason, remedy },
            FailureAction::Refused(refusal) => StopReason::Refused(refusal),
        }
    }
}

impl From<ServiceError> for StopReason {
    fn from(error: ServiceError) -> StopReason {
        StopReason::Session(error)
    }
}

impl From<TargetError> for StopReason {
    fn from(error: TargetError) -> StopReason {
        failure_policy::of_target(&error).into()
    }
}

impl From<RestartSignal> for StopReason {
    fn from(why: RestartSignal) -> StopReason {
        match why {
            RestartSignal::OverBudget => StopReason::Park {
                cause: ParkCause::Memory,
                reason: "what waits for it outgrew limits.tenant_memory, or limits.memory".to_owned(),
                remedy: "it comes back by itself once its target takes rows; if it happens often, raise those limits"
                    .to_owned(),
            },
            RestartSignal::HoldsLog => StopReason::Park {
                cause: ParkCause::Log,
                reason: "it held back more of the source's log than limits.source_wal".to_owned(),
                remedy: "it comes back by itself once its target takes rows".to_owned(),
            },
            RestartSignal::Truncated => StopReason::Rejoin("the table was truncated at the source"),
            RestartSignal::Altered => StopReason::Rejoin("the table was altered at the source"),
            RestartSignal::Unattributed => StopReason::Rejoin("a delete at the source could not be attributed"),
            RestartSignal::Requested => StopReason::Rejoin("a resync was asked for"),
        }
    }
}
