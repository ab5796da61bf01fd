//! The reason that the state stores beside a tenant's state.

use crate::model::{ParkCause, Reason, ResyncReason, RetryCause};

/// The reason for a tenant's state: its code, its text, and the remedy if a person has to act.
pub(super) struct RecordedReason {
    pub(super) code: Reason,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

impl RecordedReason {
    /// A failure, described by a text of its own.
    pub(super) fn of(cause: RetryCause, text: String) -> RecordedReason {
        RecordedReason { code: Reason::Retry(cause), text, remedy: None }
    }

    /// A park, with a text of its own and its remedy.
    pub(super) fn of_park(cause: ParkCause, text: &str, remedy: &str) -> RecordedReason {
        RecordedReason { code: Reason::Park(cause), text: text.to_owned(), remedy: Some(remedy.to_owned()) }
    }
}

impl From<ResyncReason> for RecordedReason {
    fn from(reason: ResyncReason) -> RecordedReason {
        RecordedReason { code: Reason::Resync(reason), text: reason.to_string(), remedy: None }
    }
}

impl From<ParkCause> for RecordedReason {
    fn from(cause: ParkCause) -> RecordedReason {
        RecordedReason { code: Reason::Park(cause), text: cause.to_string(), remedy: None }
    }
}
