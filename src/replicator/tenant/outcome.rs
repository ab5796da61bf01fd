//! Why the work of a phase stops.

use crate::apply::{Refusal, TargetError};
use crate::model::{ParkCause, Reason, RestartSignal, ResyncReason, RetryCause};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::failure_policy::FailureAction;
use crate::replicator::snapshotter::coordinator::JoinRefusal;

/// Why the work of a phase stopped.
#[derive(Debug)]
pub(crate) enum StopReason {
    /// The session drains, and what waited is applied or will be sent again.
    Drained,
    /// Nothing waits, so the connection was closed.
    Idle,
    /// The tenant is paused.
    Paused,
    /// A new configuration reaches the target in another way: the next connection uses it.
    Moved,
    /// A failure that passes without a person.
    Retry { cause: RetryCause, reason: String, remedy: Option<String> },
    /// The target needs a snapshot.
    Rejoin(ResyncReason),
    /// A failure that needs a person, or a limit that was exceeded.
    Park { cause: ParkCause, reason: String, remedy: String },
    /// The target refused a row.
    Refused(Refusal),
    /// The session has to end.
    Session(ServiceError),
}

impl StopReason {
    pub(super) fn retry(cause: RetryCause, reason: String) -> StopReason {
        StopReason::Retry { cause, reason, remedy: None }
    }

    /// The code of a failure.
    pub(super) fn code(&self) -> Option<&'static str> {
        match self {
            StopReason::Retry { cause, .. } => Some(cause.code()),
            StopReason::Rejoin(reason) => Some(reason.code()),
            StopReason::Park { cause, .. } => Some(cause.code()),
            StopReason::Refused(_) => Some(RetryCause::RowRefused.code()),
            StopReason::Session(error) => Some(error.trouble().code()),
            StopReason::Drained | StopReason::Idle | StopReason::Paused | StopReason::Moved => None,
        }
    }
}

impl From<FailureAction> for StopReason {
    fn from(action: FailureAction) -> StopReason {
        match action {
            FailureAction::Retry { cause, reason, remedy } => StopReason::Retry { cause, reason, remedy },
            FailureAction::Park { cause, reason, remedy } => StopReason::Park { cause, reason, remedy },
            FailureAction::Refused(refusal) => StopReason::Refused(refusal),
        }
    }
}

impl From<JoinRefusal> for StopReason {
    fn from(refusal: JoinRefusal) -> StopReason {
        let cause = match refusal {
            JoinRefusal::Failed(_) => RetryCause::SnapshotFailed,
            JoinRefusal::Paused(_) => RetryCause::ScanAborted,
        };
        StopReason::retry(cause, refusal.to_string())
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

impl From<RetryCause> for StopReason {
    fn from(cause: RetryCause) -> StopReason {
        StopReason::retry(cause, cause.to_string())
    }
}

impl From<RestartSignal> for StopReason {
    fn from(signal: RestartSignal) -> StopReason {
        match signal.reason() {
            Reason::Park(cause) => {
                StopReason::Park { cause, reason: cause.to_string(), remedy: remedy(cause).to_owned() }
            }
            Reason::Resync(reason) => StopReason::Rejoin(reason),
            Reason::Retry(cause) => cause.into(),
        }
    }
}

/// The remedy for a tenant that the reading side has parked.
fn remedy(cause: ParkCause) -> &'static str {
    match cause {
        ParkCause::Memory => {
            "it recovers on its own once the target accepts rows; if this happens often, raise limits.tenant_memory or limits.memory"
        }
        ParkCause::Login
        | ParkCause::Rights
        | ParkCause::Altered
        | ParkCause::Refuses
        | ParkCause::Deletes
        | ParkCause::Foreign
        | ParkCause::Log
        | ParkCause::Away
        | ParkCause::TooSlow
        | ParkCause::NotConfigured
        | ParkCause::Internal
        | ParkCause::Other => "it recovers on its own once the target accepts rows",
    }
}
