//! What left last for each user, in a few bytes: a change that says the same again is no news. Pure.
//!
//! Bounded: a table in which a newer user takes an older one's place. What it does not know is news.

use crate::model::{Change, User};
use foldhash::quality::RandomState;
use std::hash::BuildHasher;

/// Places in the table, 16 bytes each; pages that nobody touches take no memory.
const SLOTS: usize = 1 << 18;

/// A change came by of which it is not known what it makes of the user.
const UNKNOWN: u64 = 1;
const DELETED: u64 = 2;
/// What users are like begins here.
const FIRST: u64 = 3;

/// Per user and tenant, a hash of what left last.
pub struct Fingerprints {
    slots: Vec<Slot>,
    hasher: RandomState,
}

/// All zero: free.
#[derive(Clone, Copy, Default)]
struct Slot {
    user: u64,
    content: u64,
}

impl Default for Fingerprints {
    fn default() -> Self {
        Fingerprints { slots: vec![Slot::default(); SLOTS], hasher: RandomState::default() }
    }
}

impl Fingerprints {
    /// Whether the change of this tenant's user says something that the one before did not. From now on it is known.
    pub fn is_news(&mut self, tenant: usize, change: &Change) -> bool {
        let content = match change {
            Change::Upsert(user) => self.content(user),
            Change::Delete { .. } => DELETED,
            Change::Patch(_) | Change::Reread { .. } => UNKNOWN,
        };
        let (user, at) = self.place(tenant, change.id());
        let slot = &mut self.slots[at];
        let is_news = slot.user != user || slot.content != content || content == UNKNOWN;
        *slot = Slot { user, content };
        is_news
    }

    /// What left last did not arrive. A query reads users ahead of the stream: that the target has the change does not say
    /// that it has what was read.
    pub fn forget(&mut self, tenant: usize, id: &str) {
        let (user, at) = self.place(tenant, id);
        if self.slots[at].user == user {
            self.slots[at].content = UNKNOWN;
        }
    }

    /// What a snapshot says of a user. Only where nothing is known: the stream may be ahead of the snapshot.
    pub fn learn(&mut self, tenant: usize, user: &User) {
        let (place, at) = self.place(tenant, &user.id);
        if self.slots[at].content == 0 {
            self.slots[at] = Slot { user: place, content: self.content(user) };
        }
    }

    fn place(&self, tenant: usize, id: &str) -> (u64, usize) {
        let hash = self.hasher.hash_one((tenant, id));
        (hash, hash as usize % SLOTS)
    }

    /// A derived time is no difference.
    fn content(&self, user: &User) -> u64 {
        let updated_at = (!user.updated_at_derived).then_some(user.updated_at);
        // Name, e-mail and sign-up are in the document; that one has milliseconds only.
        self.hasher.hash_one((&user.raw_json, user.created_at, updated_at, user.deleted_at)).max(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Timestamp, Xid};

    fn user(id: &str, json: &str) -> User {
        User {
            id: id.into(),
            raw_json: json.into(),
            name: None,
            email: None,
            created_at: None,
            updated_at: None,
            deleted_at: None,
            updated_at_derived: false,
        }
    }

    fn upsert(json: &str) -> Change {
        Change::Upsert(user("u", json))
    }

    #[test]
    fn the_same_again_is_no_news() {
        let mut known = Fingerprints::default();
        let delete = Change::Delete { id: "u".into(), at: Timestamp(1) };
        let reread = Change::Reread { id: "u".into(), xid: Xid(1), at: Timestamp(1) };
        for (change, is_news) in [
            (upsert("a"), true),
            (upsert("a"), false),
            (upsert("b"), true),
            (upsert("a"), true),
            (delete.clone(), true),
            (delete, false),
            (upsert("a"), true),
            (reread.clone(), true),
            (reread, true),
            (upsert("a"), true),
            (upsert("a"), false),
        ] {
            assert_eq!(known.is_news(1, &change), is_news);
        }
        assert!(known.is_news(2, &upsert("a")), "another tenant's user");
    }

    #[test]
    fn every_column_counts_and_a_derived_time_does_not() {
        let at = Some(Timestamp(5));
        let cases = [
            (User { created_at: at, ..user("u", "a") }, true),
            (User { deleted_at: at, ..user("u", "a") }, true),
            (User { updated_at: at, ..user("u", "a") }, true),
        ];
        for (changed, is_news) in cases {
            let mut known = Fingerprints::default();
            known.is_news(0, &upsert("a"));
            assert_eq!(known.is_news(0, &Change::Upsert(changed)), is_news);
        }
        let derived = |at| Change::Upsert(User { updated_at: at, updated_at_derived: true, ..user("u", "a") });
        let mut known = Fingerprints::default();
        assert!(known.is_news(0, &derived(None)));
        assert!(!known.is_news(0, &derived(at)));
    }

    #[test]
    fn what_did_not_arrive_is_news_again() {
        let mut known = Fingerprints::default();
        known.is_news(0, &upsert("a"));
        known.forget(0, "someone else");
        assert!(!known.is_news(0, &upsert("a")));
        known.forget(0, "u");
        known.learn(0, &user("u", "a"));
        assert!(known.is_news(0, &upsert("a")));
        assert!(!known.is_news(0, &upsert("a")));
    }

    #[test]
    fn a_snapshot_teaches_only_what_the_stream_has_not_said() {
        let mut known = Fingerprints::default();
        known.learn(0, &user("u", "a"));
        assert!(!known.is_news(0, &upsert("a")));
        assert!(known.is_news(0, &upsert("b")));
        known.learn(0, &user("u", "a"));
        assert!(known.is_news(0, &upsert("a")), "the stream was ahead");
    }
}
