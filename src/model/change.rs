//! What a target is told of one user: the whole row, a part of it, or that it is gone.

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
    /// `updated_at` was not said by the row but derived (null at an insert, the commit time at an update):
    /// a target that differs in nothing else keeps its own.
    pub updated_at_derived: bool,
}

/// Whether a patch sets a value or leaves the target's.
#[derive(Clone, PartialEq, Eq)]
pub enum Set<T> {
    /// None of the value's inputs was sent: it stays as it is in the target.
    Keep,
    /// The new value.
    To(T),
}

/// An update of which some out-of-line values were not sent because they did not change.
#[derive(Clone, PartialEq, Eq)]
pub struct Patch {
    /// Whom it is about.
    pub id: UserId,
    /// A JSON object's text with the known keys only, merged over the target's.
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
    /// The transaction that changed it: where the target has no live row to patch, the row is read from the
    /// source once this is visible there.
    pub xid: Xid,
    /// When that was committed.
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
    /// The user is as given, whatever it was.
    Upsert(User),
    /// The live row takes the given parts.
    Patch(Patch),
    /// The user is gone from this tenant: deleted, or moved away.
    Delete {
        /// Whom it is about.
        id: UserId,
        /// The commit time of the deleting transaction.
        at: Timestamp,
    },
    /// The stream did not carry enough: read the row from the source, once `xid` is visible there.
    Reread {
        /// Whom it is about.
        id: UserId,
        /// The transaction that changed it.
        xid: Xid,
        /// When that was committed: a derived `updated_at` takes it.
        at: Timestamp,
    },
}

impl Change {
    /// Whether the user is gone by it, also where the row stays.
    pub fn deletes(&self) -> bool {
        match self {
            Change::Delete { .. } => true,
            Change::Upsert(user) => user.deleted_at.is_some(),
            Change::Patch(patch) => matches!(patch.deleted_at, Set::To(Some(_))),
            Change::Reread { .. } => false,
        }
    }

    /// Whom the change is about.
    pub fn id(&self) -> &str {
        match self {
            Change::Upsert(user) => &user.id,
            Change::Patch(patch) => &patch.id,
            Change::Delete { id, .. } | Change::Reread { id, .. } => id,
        }
    }

    /// The memory that the change holds on the heap, in bytes: what the budgets count.
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
        assert_eq!(Change::Reread { id: text(7).into(), xid: Xid(1), at: Timestamp(1) }.heap_bytes(), 7);
    }
}
