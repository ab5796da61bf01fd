//! One change of one user, as the formats encode it. Pure.

use crate::model::{ConfiguredIdx, Lsn, Timestamp, User, Xid};

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The user is new to the tenant.
    Create,
    /// The tenant already had the user.
    Update,
    /// The user is marked deleted; the row stays.
    SoftDelete,
    /// The row of the user was deleted.
    Delete,
    /// A snapshot read the user.
    Read,
}

impl Op {
    /// The field `op` of Debezium's envelope.
    pub(super) fn code(self) -> &'static str {
        match self {
            Op::Create => "c",
            Op::Update | Op::SoftDelete => "u",
            Op::Delete => "d",
            Op::Read => "r",
        }
    }
}

/// Position and time of a change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventPosition {
    /// The start of the transaction's commit record. For a snapshot, the snapshot's position.
    pub position: Lsn,
    /// The number of the change in its transaction or snapshot, starting at 1.
    pub ordinal: u64,
    /// The transaction's id. `None` for a snapshot.
    pub xid: Option<Xid>,
    /// Commit time. For a snapshot, the time of the read.
    pub at: Timestamp,
    /// The user was read alone, not by a snapshot.
    pub is_single: bool,
    /// Time of publishing, in milliseconds since the Unix epoch.
    pub now: i64,
}

impl EventPosition {
    /// `at` in microseconds since the Unix epoch. A time that has none is that of publishing.
    pub(super) fn at_micros(&self) -> i64 {
        self.at.unix_micros().unwrap_or(self.now * 1_000)
    }
}

/// One change of one user.
#[derive(Clone, Copy)]
pub(crate) struct Event<'a> {
    /// The kind of the change.
    pub op: Op,
    /// The tenant.
    pub tenant: ConfiguredIdx,
    /// The tenant's id.
    pub tenant_id: &'a str,
    /// The user's id.
    pub id: &'a str,
    /// The user before the change, if the replica identity carries it.
    pub before: Option<&'a User>,
    /// The user after the change. `None` for a delete.
    pub after: Option<&'a User>,
    /// Position and time.
    pub place: EventPosition,
}

/// The key of a message.
#[derive(Debug)]
pub(crate) struct MessageKey {
    /// The tenant's id. `None` if each tenant has its own topic.
    pub(crate) tenant: Option<String>,
    /// The user's id.
    pub(crate) user: String,
}
