//! What a mapped row refers to besides its user. Pure.

use crate::model::{Timestamp, Xid};
use std::borrow::Cow;

/// Why a column is not in `raw_json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithheldReason {
    /// `users.exclude` lists it.
    Excluded,
    LooksSecret,
    /// `users.allow` does not list it.
    NotAllowed,
    /// A mapped value has the same key.
    Replaced,
}

/// The commit of the transaction that a change belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// The time of the commit.
    pub commit_time: Timestamp,
    /// The transaction's id.
    pub xid: Xid,
}

/// The tenant that a row names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantRef<'a> {
    /// The mapping has no tenant column: there is exactly one tenant.
    Only,
    /// The value of the tenant column.
    Key(Cow<'a, str>),
    /// The tenant column is null or empty.
    NoTenant,
    /// The tenant depends on a value that was not sent. Comes only with [`Change::Reread`](crate::model::Change::Reread): the read also finds the
    /// tenant.
    Unsent,
}
