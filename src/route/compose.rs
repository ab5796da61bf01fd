//! Combines two changes of one user into one with the same outcome. Pure.

use crate::model::{Change, Patch, Set, User};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// One change with the effect of `earlier` followed by `later`.
pub(crate) fn compose(earlier: Change, later: Change) -> Change {
    match (earlier, later) {
        // The row could not be mapped, and may be now.
        (Change::Upsert(user), Change::Patch(Patch { xid, at, .. })) if user.why_unmappable().is_some() => {
            Change::Reread { id: user.id, xid, at, deleted_if_absent: false }
        }
        (Change::Upsert(user), Change::Patch(patch)) => Change::Upsert(patch_user(user, patch)),
        (Change::Patch(first), Change::Patch(second)) => Change::Patch(patch_patch(first, second)),
        // The whole row will be read, at the later of the two.
        (Change::Reread { id, deleted_if_absent, .. }, Change::Patch(patch)) => {
            Change::Reread { id, xid: patch.xid, at: patch.at, deleted_if_absent }
        }
        // The user was deleted before; the first time counts.
        (earlier @ Change::Delete { .. }, Change::Delete { .. }) => earlier,
        (_, later @ (Change::Upsert(_) | Change::Patch(_) | Change::Delete { .. } | Change::Reread { .. })) => later,
    }
}

fn patch_user(user: User, patch: Patch) -> User {
    User {
        raw_json: merge_objects(&user.raw_json, &patch.raw_json),
        name: patch.name.over(user.name),
        email: patch.email.over(user.email),
        created_at: patch.created_at.over(user.created_at),
        updated_at: patch.updated_at.over(user.updated_at),
        deleted_at: patch.deleted_at.over(user.deleted_at),
        updated_at_derived: patch.updated_at_derived,
        id: user.id,
    }
}

fn patch_patch(first: Patch, second: Patch) -> Patch {
    Patch {
        raw_json: merge_objects(&first.raw_json, &second.raw_json),
        name: second.name.after(first.name),
        email: second.email.after(first.email),
        created_at: second.created_at.after(first.created_at),
        updated_at: second.updated_at.after(first.updated_at),
        deleted_at: second.deleted_at.after(first.deleted_at),
        updated_at_derived: second.updated_at_derived,
        xid: second.xid,
        at: second.at,
        id: first.id,
    }
}

impl<T> Set<T> {
    /// The value after this is applied to `old`.
    fn over(self, old: T) -> T {
        match self {
            Set::Keep => old,
            Set::To(new) => new,
        }
    }

    /// This, applied after `earlier`.
    fn after(self, earlier: Set<T>) -> Set<T> {
        match self {
            Set::Keep => earlier,
            set @ Set::To(_) => set,
        }
    }
}

/// `base || patch` as in jsonb: the patch's keys replace whole values.
///
/// # Panics
/// If one of them is not a JSON object. The mapping wrote both from valid JSON, so that would be a bug.
fn merge_objects(base: &str, patch: &str) -> String {
    let mut merged = keys(base);
    merged.extend(keys(patch));
    serde_json::to_string(&merged).expect("a map of raw values is always writable")
}

fn keys(object: &str) -> BTreeMap<Cow<'_, str>, &RawValue> {
    serde_json::from_str(object).expect("raw_json is a JSON object")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Timestamp, Xid};

    fn user(raw_json: &str, name: &str) -> User {
        User {
            id: "u".into(),
            raw_json: raw_json.into(),
            name: Some(name.into()),
            email: Some("e".into()),
            created_at: Some(Timestamp(1)),
            updated_at: None,
            deleted_at: None,
            updated_at_derived: true,
        }
    }

    fn patch(raw_json: &str, name: Set<Option<String>>, at: i64) -> Patch {
        Patch {
            id: "u".into(),
            raw_json: raw_json.into(),
            name,
            email: Set::Keep,
            created_at: Set::Keep,
            updated_at: Set::To(Some(Timestamp(at))),
            deleted_at: Set::To(None),
            updated_at_derived: true,
            xid: Xid(at as u32),
            at: Timestamp(at),
        }
    }

    #[test]
    fn a_patch_over_a_user_is_a_user() {
        let both = compose(
            Change::Upsert(user(r#"{"a":1,"big":"\u00e4"}"#, "old")),
            Change::Patch(patch(r#"{"a":2,"b":null}"#, Set::Keep, 5)),
        );
        let Change::Upsert(user) = both else { panic!("not an upsert") };
        assert_eq!(user.raw_json, r#"{"a":2,"b":null,"big":"\u00e4"}"#);
        assert_eq!((user.name.as_deref(), user.email.as_deref()), (Some("old"), Some("e")));
        assert_eq!((user.created_at, user.updated_at), (Some(Timestamp(1)), Some(Timestamp(5))));
    }

    #[test]
    fn patches_add_up_and_the_later_value_wins() {
        let both = compose(
            Change::Patch(patch(r#"{"a":1,"b":1}"#, Set::To(Some("n".into())), 5)),
            Change::Patch(patch(r#"{"b":2}"#, Set::Keep, 6)),
        );
        let Change::Patch(both) = both else { panic!("not a patch") };
        assert_eq!(both.raw_json, r#"{"a":1,"b":2}"#);
        assert!(both.name == Set::To(Some("n".into())) && both.email == Set::Keep);
        assert!(both.updated_at == Set::To(Some(Timestamp(6))) && both.xid == Xid(6));
    }

    #[test]
    fn a_whole_row_a_delete_or_a_reread_replaces_earlier_changes() {
        let delete = |at| Change::Delete { id: "u".into(), at: Timestamp(at) };
        let reread =
            |xid| Change::Reread { id: "u".into(), xid: Xid(xid), at: Timestamp(xid.into()), deleted_if_absent: false };
        let upsert = || Change::Upsert(user("{}", "n"));
        assert!(compose(upsert(), delete(3)) == delete(3));
        assert!(compose(delete(3), upsert()) == upsert());
        assert!(compose(delete(3), delete(4)) == delete(3));
        assert!(compose(upsert(), reread(8)) == reread(8));
        assert!(compose(reread(8), upsert()) == upsert());
        assert!(compose(reread(8), Change::Patch(patch("{}", Set::Keep, 9))) == reread(9));
    }
}
