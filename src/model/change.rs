//! A change of one user as a target receives it: the whole row, some of its columns, or its deletion. Pure.

use super::{Timestamp, UserId, Xid};
use schemars::JsonSchema;
use serde::Deserialize;

/// A user as `neon_auth.users_sync` holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Unique within the tenant.
    pub id: UserId,
    /// A JSON object's text: the allowed columns plus the four mapped keys.
    pub raw_json: String,
    /// Display name; never empty.
    pub name: Option<String>,
    /// Primary e-mail; never empty.
    pub email: Option<String>,
    /// When the user signed up.
    pub created_at: Option<Timestamp>,
    /// Last update, null while never updated.
    pub updated_at: Option<Timestamp>,
    /// When the source marked the user deleted.
    pub deleted_at: Option<Timestamp>,
    /// Whether `updated_at` was derived (null for an insert, the commit time for an update) instead of
    /// mapped. A row that differs in nothing else is not written.
    pub updated_at_derived: bool,
}

/// A user counts as new if it was created at most an hour before the commit that brought it.
const NEW_FOR_MICROS: u64 = 3_600_000_000;
/// `created_at` and `updated_at` of a row that was only inserted may differ by this.
const INSERTED_WITHIN_MICROS: u64 = 1_000_000;

impl User {
    /// Whether the row is that of a sign-up: created just before `committed`, and not changed since.
    pub(crate) fn is_sign_up(&self, committed: Timestamp) -> bool {
        let Some(created) = self.created_at else { return false };
        let is_near = |at: Timestamp, micros: u64| at.0.abs_diff(created.0) < micros;
        let is_unchanged = self.updated_at.is_none_or(|updated| is_near(updated, INSERTED_WITHIN_MICROS));
        is_near(committed, NEW_FOR_MICROS) && is_unchanged && self.deleted_at.is_none()
    }

    /// A user whose row the source has, but that cannot be mapped: it takes the user's way to its target, where the row
    /// stays as it was. Its document is empty, which no other user's is.
    pub(crate) fn unmappable(id: &str, reason: String) -> User {
        User {
            id: id.into(),
            raw_json: String::new(),
            name: Some(reason),
            email: None,
            created_at: None,
            updated_at: None,
            deleted_at: None,
            updated_at_derived: false,
        }
    }

    /// Why the row cannot be mapped; `None` for a user that can be written.
    pub(crate) fn why_unmappable(&self) -> Option<&str> {
        if self.raw_json.is_empty() { self.name.as_deref() } else { None }
    }
}

/// Whether a patch sets a value.
#[derive(Clone, PartialEq, Eq)]
pub enum Set<T> {
    /// No input of the value was sent: the target's value stays.
    Keep,
    /// The new value.
    To(T),
}

impl<T> Set<Option<T>> {
    /// Changes a value that is set and not null.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Set<Option<U>> {
        match self {
            Set::Keep => Set::Keep,
            Set::To(value) => Set::To(value.map(change)),
        }
    }
}

/// An update whose unchanged out-of-line (TOAST) values were not sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Patch {
    /// The user's id.
    pub id: UserId,
    /// A JSON object's text with the columns that were sent; merged over the target's document.
    pub raw_json: String,
    /// Display name.
    pub name: Set<Option<String>>,
    /// Primary e-mail.
    pub email: Set<Option<String>>,
    /// When the user signed up.
    pub created_at: Set<Option<Timestamp>>,
    /// Last update.
    pub updated_at: Set<Option<Timestamp>>,
    /// When the source marked the user deleted.
    pub deleted_at: Set<Option<Timestamp>>,
    /// As in [`User`].
    pub updated_at_derived: bool,
    /// The transaction that made the change. If the target has no live row to patch, the row is read from the
    /// source once this transaction is visible there.
    pub xid: Xid,
    /// Commit time of that transaction.
    pub at: Timestamp,
}

/// What a delete at the source means in a target (`deletes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deletes {
    /// The row stays, and its `deleted_at` is set.
    Soft,
    /// The row is deleted.
    Hard,
}

/// One tenant's view of one change.
#[derive(Clone, PartialEq, Eq)]
pub enum Change {
    /// The user's whole row.
    Upsert(User),
    /// Columns of a live row.
    Patch(Patch),
    /// The user left this tenant: deleted, or moved to another one.
    Delete {
        /// The user's id.
        id: UserId,
        /// Commit time of the transaction that deleted it.
        at: Timestamp,
    },
    /// The stream did not carry the whole row: read it from the source once `xid` is visible there.
    Reread {
        /// The user's id.
        id: UserId,
        /// The transaction that made the change.
        xid: Xid,
        /// Commit time of that transaction; becomes a derived `updated_at`.
        at: Timestamp,
        /// If the source has no such row, the transaction deleted the user. Otherwise a later change does.
        deleted_if_absent: bool,
    },
}

impl Change {
    /// Whether the user is or may be deleted by this change, also where the row stays with its `deleted_at`.
    pub fn deletes(&self) -> bool {
        match self {
            Change::Delete { .. } => true,
            Change::Upsert(user) => user.deleted_at.is_some(),
            Change::Patch(patch) => matches!(patch.deleted_at, Set::To(Some(_))),
            Change::Reread { deleted_if_absent, .. } => *deleted_if_absent,
        }
    }

    /// Why the row of the change cannot be mapped; `None` if it can be written.
    pub(crate) fn why_unmappable(&self) -> Option<&str> {
        match self {
            Change::Upsert(user) => user.why_unmappable(),
            Change::Patch(_) | Change::Delete { .. } | Change::Reread { .. } => None,
        }
    }

    /// The id of the user that changed.
    pub fn id(&self) -> &str {
        match self {
            Change::Upsert(user) => &user.id,
            Change::Patch(patch) => &patch.id,
            Change::Delete { id, .. } | Change::Reread { id, .. } => id,
        }
    }

    /// Bytes that the change holds on the heap. The memory budgets count these.
    pub fn heap_bytes(&self) -> usize {
        let text = |value: &Option<String>| value.as_ref().map_or(0, String::len);
        let set = |value: &Set<Option<String>>| match value {
            Set::Keep => 0,
            Set::To(value) => text(value),
        };
        match self {
            Change::Upsert(u) => u.id.len() + u.raw_json.len() + text(&u.name) + text(&u.email),
            Change::Patch(p) => p.id.len() + p.raw_json.len() + set(&p.name) + set(&p.email),
            Change::Delete { id, .. } | Change::Reread { id, .. } => id.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_change_is_the_size_of_its_texts() {
        let text = |length: usize| "x".repeat(length);
        let user = User {
            id: text(1).into(),
            raw_json: text(20),
            name: Some(text(300)),
            email: Some(text(4000)),
            created_at: None,
            updated_at: None,
            deleted_at: None,
            updated_at_derived: false,
        };
        assert_eq!(Change::Upsert(user).heap_bytes(), 4321);
        let patch = |name, email| Patch {
            id: text(1).into(),
            raw_json: text(20),
            name,
            email,
            created_at: Set::Keep,
            updated_at: Set::Keep,
            deleted_at: Set::Keep,
            updated_at_derived: false,
            xid: Xid(1),
            at: Timestamp(1),
        };
        let whole = patch(Set::To(Some(text(300))), Set::To(Some(text(4000))));
        assert_eq!(Change::Patch(whole).heap_bytes(), 4321);
        assert_eq!(Change::Patch(patch(Set::Keep, Set::To(None))).heap_bytes(), 21);
        assert_eq!(Change::Delete { id: text(7).into(), at: Timestamp(0) }.heap_bytes(), 7);
        assert_eq!(
            Change::Reread { id: text(7).into(), xid: Xid(1), at: Timestamp(1), deleted_if_absent: false }.heap_bytes(),
            7
        );
    }
}
