//! What a process remembers of the source's history. Pure.

use super::{Generation, Lsn, Xid};

/// The last transaction that was received. If the slot sends from before its end, it has to come again: otherwise the source
/// went back to an older point, and its history took another course.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The end of its commit record.
    pub end: Lsn,
    /// Its id.
    pub xid: Xid,
}

/// What a process has received, also in earlier sessions. The state may go back together with the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReceivedHistory {
    pub generation: Generation,
    /// The position up to which the log was received.
    pub received: Lsn,
    /// The last transaction.
    pub anchor: Anchor,
}
