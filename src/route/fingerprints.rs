//! Hashes of the last change sent for each user, to skip changes that repeat it. Pure.
//!
//! A bounded table in which a newer user replaces an older one. A user that is not in it counts as changed.

use crate::model::{ByTenant, Change, TenantIdx, User};
use foldhash::quality::RandomState;
use std::hash::BuildHasher;

/// Slots per bucket. The least recently used one is replaced.
const WAYS: usize = 8;
/// With 8 slots each: a quarter of a million users of 16 bytes.
const BUCKETS: usize = 1 << 15;

/// The content after the last change is unknown.
const UNKNOWN: u64 = 1;
const DELETED: u64 = 2;
/// The smallest hash of a user.
const MIN_HASH: u64 = 3;

/// A hash of the last change per user and tenant.
pub(crate) struct Fingerprints {
    /// In each bucket the most recently used slot comes first, and free slots last. Pages that no user is in take no memory:
    /// `vec!` asks the system for zeroed pages if the elements are integers and zero.
    buckets: Vec<[Slot; WAYS]>,
    hasher: RandomState,
    /// How often each tenant was reset. It is part of the hash, so entries from before a reset are not found.
    resets: ByTenant<u32>,
}

/// The hashes of the user and of the content. Both zero: free.
type Slot = [u64; 2];

impl Default for Fingerprints {
    fn default() -> Self {
        Fingerprints {
            buckets: vec![[[0; 2]; WAYS]; BUCKETS],
            hasher: RandomState::default(),
            resets: ByTenant::default(),
        }
    }
}

impl Fingerprints {
    /// Whether the change differs from the last one of this tenant's user. Remembers it.
    pub(crate) fn is_new(&mut self, tenant: TenantIdx, change: &Change) -> bool {
        let content = match change {
            Change::Upsert(user) if user.why_unmappable().is_some() => UNKNOWN,
            Change::Upsert(user) => self.content(user),
            Change::Delete { .. } => DELETED,
            Change::Patch(_) | Change::Reread { .. } => UNKNOWN,
        };
        let (user, bucket) = self.bucket(tenant, change.id());
        let found = bucket.iter().position(|[known, _]| *known == user);
        let is_new = content == UNKNOWN || found.is_none_or(|at| bucket[at][1] != content);
        bucket[..=found.unwrap_or(WAYS - 1)].rotate_right(1);
        bucket[0] = [user, content];
        is_new
    }

    /// The last change did not arrive. A query reads users ahead of the stream, so a target that has the change may lack
    /// what was read.
    pub(crate) fn forget(&mut self, tenant: TenantIdx, id: &str) {
        let (user, bucket) = self.bucket(tenant, id);
        if let Some([_, content]) = bucket.iter_mut().find(|[known, _]| *known == user) {
            *content = UNKNOWN;
        }
    }

    /// The tenant takes a snapshot: its target has the snapshot and the changes after it.
    pub(crate) fn reset_tenant(&mut self, tenant: TenantIdx) {
        *self.resets.entry(tenant) += 1;
    }

    /// Remembers a user of a snapshot, unless the user or a replaced slot is known: the stream may be ahead of the snapshot.
    pub(crate) fn learn(&mut self, tenant: TenantIdx, user: &User) {
        let content = self.content(user);
        let (user, bucket) = self.bucket(tenant, &user.id);
        if bucket.iter().any(|[known, _]| *known == user) {
            return;
        }
        if let Some(free) = bucket.iter_mut().find(|[_, content]| *content == 0) {
            *free = [user, content];
        }
    }

    fn bucket(&mut self, tenant: TenantIdx, id: &str) -> (u64, &mut [Slot; WAYS]) {
        let hash = self.hasher.hash_one((tenant, self.resets.get(tenant).copied().unwrap_or_default(), id));
        (hash, &mut self.buckets[hash as usize % BUCKETS])
    }

    /// A derived time is ignored.
    fn content(&self, user: &User) -> u64 {
        let updated_at = (!user.updated_at_derived).then_some(user.updated_at);
        // Name and e-mail are in the document. The sign-up time is, too, but only in milliseconds.
        self.hasher.hash_one((&user.raw_json, user.created_at, updated_at, user.deleted_at)).max(MIN_HASH)
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

    fn tenant(number: usize) -> TenantIdx {
        let tenants: ByTenant<()> = std::iter::repeat_n((), 3).collect();
        tenants.indexes().nth(number).unwrap()
    }

    fn upsert(json: &str) -> Change {
        Change::Upsert(user("u", json))
    }

    #[test]
    fn an_identical_change_is_recognised() {
        let mut known = Fingerprints::default();
        let delete = Change::Delete { id: "u".into(), at: Timestamp(1) };
        let reread = Change::Reread { id: "u".into(), xid: Xid(1), at: Timestamp(1), deleted_if_absent: false };
        for (change, is_new) in [
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
            assert_eq!(known.is_new(tenant(1), &change), is_new);
        }
        assert!(known.is_new(tenant(2), &upsert("a")), "another tenant's user");
    }

    #[test]
    fn fingerprints_cover_every_column_except_a_derived_time() {
        let at = Some(Timestamp(5));
        let cases = [
            (User { created_at: at, ..user("u", "a") }, true),
            (User { deleted_at: at, ..user("u", "a") }, true),
            (User { updated_at: at, ..user("u", "a") }, true),
        ];
        for (changed, is_new) in cases {
            let mut known = Fingerprints::default();
            known.is_new(tenant(0), &upsert("a"));
            assert_eq!(known.is_new(tenant(0), &Change::Upsert(changed)), is_new);
        }
        let derived = |at| Change::Upsert(User { updated_at: at, updated_at_derived: true, ..user("u", "a") });
        let mut known = Fingerprints::default();
        assert!(known.is_new(tenant(0), &derived(None)));
        assert!(!known.is_new(tenant(0), &derived(at)));
    }

    #[test]
    fn fingerprints_hold_many_users_and_evict_beyond_their_capacity() {
        let mut known = Fingerprints::default();
        let change = |n: usize| Change::Upsert(user(&n.to_string(), "a"));
        let news = |known: &mut Fingerprints, users: usize| {
            (0..users).filter(|n| known.is_new(tenant(0), &change(*n))).count()
        };
        assert_eq!(news(&mut known, 20_000), 20_000);
        assert_eq!(news(&mut known, 20_000), 0);
        news(&mut known, 4 * WAYS * BUCKETS);
        assert!(news(&mut known, 20_000) > 19_000, "they were replaced");
        // After replacements a snapshot is not trusted: it may be older than the replaced entry.
        known.learn(tenant(0), &user("u", "a"));
        assert!(known.is_new(tenant(0), &upsert("a")));
    }

    #[test]
    fn a_forgotten_user_is_news_again() {
        let mut known = Fingerprints::default();
        known.is_new(tenant(0), &upsert("a"));
        known.forget(tenant(0), "another user");
        assert!(!known.is_new(tenant(0), &upsert("a")));
        known.forget(tenant(0), "u");
        known.learn(tenant(0), &user("u", "a"));
        assert!(known.is_new(tenant(0), &upsert("a")));
        assert!(!known.is_new(tenant(0), &upsert("a")));
    }

    #[test]
    fn a_snapshot_never_overrides_a_fingerprint_from_the_stream() {
        let mut known = Fingerprints::default();
        known.learn(tenant(0), &user("u", "a"));
        assert!(!known.is_new(tenant(0), &upsert("a")));
        assert!(known.is_new(tenant(0), &upsert("b")));
        known.learn(tenant(0), &user("u", "a"));
        assert!(known.is_new(tenant(0), &upsert("a")), "the stream was ahead");
    }
}
