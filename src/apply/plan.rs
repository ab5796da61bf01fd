//! Sorts a batch by kind: upserts, patches and deletes. Pure.

use crate::model::{Change, Lsn, Patch, Set, Timestamp, User};

/// The checkpoint's change of position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The target's position, as far as we know.
    pub from: Lsn,
    /// Its new position.
    pub to: Lsn,
}

/// The rows of a statement, by kind.
#[derive(Default)]
pub struct Rows<'a> {
    /// Whole rows.
    pub upserts: Vec<&'a User>,
    /// Columns of live rows.
    pub patches: Vec<&'a Patch>,
    /// Ids of deleted users, with the time of deletion.
    pub deletes: Vec<(&'a str, Timestamp)>,
}

/// Changes sorted by kind.
pub struct PlannedRows<'a> {
    /// The rows to write.
    pub rows: Rows<'a>,
    /// The ids of rereads, which should have been resolved.
    pub unresolved: Vec<&'a str>,
}

/// Sorts changes by kind.
pub fn plan_rows<'a>(changes: impl IntoIterator<Item = &'a Change>) -> PlannedRows<'a> {
    let mut rows = Rows::default();
    let mut unresolved = Vec::new();
    for change in changes {
        match change {
            // The target keeps its row.
            Change::Upsert(user) if user.why_unmappable().is_some() => {}
            Change::Upsert(user) => rows.upserts.push(user),
            Change::Patch(patch) => rows.patches.push(patch),
            Change::Delete { id, at } => rows.deletes.push((id, *at)),
            Change::Reread { id, .. } => unresolved.push(&**id),
        }
    }
    PlannedRows { rows, unresolved }
}

impl<'a> Rows<'a> {
    /// The only row, if it is a whole row.
    pub(super) fn single(&self) -> Option<&'a User> {
        match *self.upserts {
            [user] if self.len() == 1 => Some(user),
            _ => None,
        }
    }

    /// Whether only the checkpoint moves.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.upserts.len() + self.patches.len() + self.deletes.len()
    }
}

impl<T> Set<Option<T>> {
    /// Whether the value is set, and its value: two columns of a statement.
    pub(super) fn split(&self) -> (bool, Option<&T>) {
        match self {
            Set::Keep => (false, None),
            Set::To(value) => (true, value.as_ref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Xid;

    fn user() -> User {
        User {
            id: "u".into(),
            raw_json: "{}".into(),
            name: None,
            email: None,
            created_at: None,
            updated_at: None,
            deleted_at: None,
            updated_at_derived: true,
        }
    }

    fn patch() -> Patch {
        Patch {
            id: "p".into(),
            raw_json: "{}".into(),
            name: Set::Keep,
            email: Set::Keep,
            created_at: Set::Keep,
            updated_at: Set::Keep,
            deleted_at: Set::Keep,
            updated_at_derived: true,
            xid: Xid(1),
            at: Timestamp(1),
        }
    }

    #[test]
    fn changes_are_sorted_by_kind_and_unresolved_rereads_are_returned() {
        let changes = [
            Change::Delete { id: "d".into(), at: Timestamp(7) },
            Change::Upsert(user()),
            Change::Reread { id: "r".into(), xid: Xid(1), at: Timestamp(1), deleted_if_absent: false },
            Change::Patch(patch()),
        ];
        let PlannedRows { rows, unresolved } = plan_rows(&changes);
        assert!(rows.upserts == [&user()] && rows.patches == [&patch()]);
        assert_eq!((rows.deletes, unresolved), (vec![("d", Timestamp(7))], vec!["r"]));
    }

    #[test]
    fn only_a_batch_without_rows_is_empty() {
        assert!(Rows::default().is_empty());
        for change in
            [Change::Upsert(user()), Change::Patch(patch()), Change::Delete { id: "d".into(), at: Timestamp(7) }]
        {
            assert!(!plan_rows([&change]).rows.is_empty());
        }
    }

    #[test]
    fn keeping_a_value_differs_from_setting_it_to_null() {
        assert_eq!(Set::<Option<i32>>::Keep.split(), (false, None));
        assert_eq!(Set::<Option<i32>>::To(None).split(), (true, None));
        assert_eq!(Set::To(Some(1)).split(), (true, Some(&1)));
    }
}
