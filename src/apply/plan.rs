//! A batch, sorted into the arrays that one statement takes. Pure.

use crate::model::{Change, Lsn, Patch, Set, Timestamp, User};

/// From which position to which the checkpoint moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where the target is, as far as we know.
    pub from: Lsn,
    /// Where it will be.
    pub to: Lsn,
}

/// The rows of a statement, column by column.
#[derive(Default)]
pub struct Rows<'a> {
    /// Whole rows.
    pub upserts: Vec<&'a User>,
    /// Parts of live rows.
    pub patches: Vec<&'a Patch>,
    /// Who is gone, and since when.
    pub deletes: Vec<(&'a str, Timestamp)>,
}

/// Sorts changes by what is done with them. Rereads must have been resolved; those that are left are given back.
pub fn plan_rows<'a>(changes: impl IntoIterator<Item = &'a Change>) -> (Rows<'a>, Vec<&'a str>) {
    let mut rows = Rows::default();
    let mut unresolved = Vec::new();
    for change in changes {
        match change {
            Change::Upsert(user) => rows.upserts.push(user),
            Change::Patch(patch) => rows.patches.push(patch),
            Change::Delete { id, at } => rows.deletes.push((id, *at)),
            Change::Reread { id, .. } => unresolved.push(&**id),
        }
    }
    (rows, unresolved)
}

impl Rows<'_> {
    /// Whether there is nothing to do but to move the checkpoint.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.patches.is_empty() && self.deletes.is_empty()
    }
}

impl<T> Set<Option<T>> {
    /// Whether the value is set, and to what: two columns of a statement.
    pub(super) fn split(&self) -> (bool, Option<&T>) {
        match self {
            Set::Keep => (false, None),
            Set::To(value) => (true, value.as_ref()),
        }
    }
}
