//! Why a tenant's task interrupts its work, and what it does then.

use crate::apply::{Refusal, TargetError};
use crate::replicator::error::ServiceError;
use crate::replicator::failure_policy;
use crate::replicator::failure_policy::{Cause, Fault};
use crate::route::Interrupt;

/// Why a stretch of work ended.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The session drains, and everything that waited is applied or will be sent again.
    Drained,
    /// Nothing waits: the connection was given up, and is made again once there is something.
    Idle,
    /// It passes by itself.
    Retry(String),
    /// Its target cannot go on from where it is.
    Rejoin(&'static str),
    Park {
        cause: Cause,
        reason: String,
        remedy: String,
    },
    /// Its target does not take a row.
    Refused(Refusal),
    /// This process has to end its session.
    Session(ServiceError),
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Halt {
        match fault {
            Fault::Retry(reason) => Halt::Retry(reason),
            Fault::Park { cause, reason, remedy } => Halt::Park { cause, reason, remedy },
            Fault::Refused(refusal) => Halt::Refused(refusal),
        }
    }
}

impl From<ServiceError> for Halt {
    fn from(error: ServiceError) -> Halt {
        Halt::Session(error)
    }
}

impl From<TargetError> for Halt {
    fn from(error: TargetError) -> Halt {
        failure_policy::of_target(&error).into()
    }
}

impl From<Interrupt> for Halt {
    fn from(why: Interrupt) -> Halt {
        match why {
            Interrupt::OverBudget => Halt::Park {
                cause: Cause::Memory,
                reason: "what waits for it outgrew limits.tenant_memory, or limits.memory".to_owned(),
                remedy: "it comes back by itself once its target takes rows; if it happens often, raise those limits"
                    .to_owned(),
            },
            Interrupt::HoldsLog => Halt::Park {
                cause: Cause::Log,
                reason: "it held back more of the source's log than limits.source_wal".to_owned(),
                remedy: "it comes back by itself once its target takes rows".to_owned(),
            },
            Interrupt::Truncated => Halt::Rejoin("the table was truncated at the source"),
            Interrupt::Altered => Halt::Rejoin("the table was altered at the source"),
            Interrupt::Unattributed => Halt::Rejoin("a delete at the source could not be attributed"),
            Interrupt::Requested => Halt::Rejoin("a resync was asked for"),
        }
    }
}
