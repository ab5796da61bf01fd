//! Finds the tenant of a user by the value of the tenant column. Pure.

use crate::model::{TenantId, TenantKey};
use std::collections::{HashMap, HashSet};

/// Unmapped keys that are remembered, so that each is logged once. Bounds memory only; all changes are counted.
const REMEMBERED_KEYS: usize = 10_000;

/// The tenants by their keys.
#[derive(Debug)]
pub(crate) struct Directory<T> {
    by_key: HashMap<TenantKey, T>,
    only: Option<T>,
    unmapped: HashSet<Box<str>>,
    unmapped_changes: u64,
}

/// No tenant has the key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unmapped {
    /// Seen for the first time, so it should be logged.
    New,
    /// Seen before, or too many keys to remember.
    Known,
}

impl<T: Copy> Directory<T> {
    /// With a single tenant, a row needs no key.
    pub(crate) fn new<'a>(tenants: impl IntoIterator<Item = (&'a TenantId, &'a TenantKey, T)>) -> Self {
        let mut all: Vec<T> = Vec::new();
        let mut by_key = HashMap::new();
        for (_, key, tenant) in tenants {
            by_key.insert(key.clone(), tenant);
            all.push(tenant);
        }
        let only = if let [only] = all[..] { Some(only) } else { None };
        Directory { by_key, only, unmapped: HashSet::new(), unmapped_changes: 0 }
    }

    /// The only tenant, for a mapping without a tenant column.
    pub(crate) fn only(&self) -> Option<T> {
        self.only
    }

    /// The tenant with this key; without one, the change is counted.
    pub(crate) fn find(&mut self, key: &str) -> Result<T, Unmapped> {
        if let Some(tenant) = self.by_key.get(key) {
            return Ok(*tenant);
        }
        self.unmapped_changes += 1;
        if self.unmapped.len() < REMEMBERED_KEYS && self.unmapped.insert(key.into()) {
            Err(Unmapped::New)
        } else {
            Err(Unmapped::Known)
        }
    }

    /// The number of changes without a tenant.
    pub(crate) fn unmapped_changes(&self) -> u64 {
        self.unmapped_changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_tenant_and_an_unknown_key_is_new_once() {
        let (a, b) = (TenantId::new("a"), TenantId::new("b"));
        let (ka, kb) = (TenantKey::new("1"), TenantKey::new("2"));
        let mut directory = Directory::new([(&a, &ka, 10), (&b, &kb, 20)]);
        assert_eq!(directory.find("2"), Ok(20));
        assert_eq!(directory.find("a"), Err(Unmapped::New));
        assert_eq!(directory.find("a"), Err(Unmapped::Known));
        assert_eq!(directory.unmapped_changes(), 2);
        assert_eq!(directory.only(), None);
    }

    #[test]
    fn unknown_keys_take_bounded_memory_and_are_still_counted() {
        let mut directory = Directory::<()>::new([]);
        for key in 0..REMEMBERED_KEYS {
            assert_eq!(directory.find(&key.to_string()), Err(Unmapped::New));
        }
        assert_eq!(directory.find("one too many"), Err(Unmapped::Known));
        assert_eq!(directory.unmapped_changes(), REMEMBERED_KEYS as u64 + 1);
    }

    #[test]
    fn one_tenant_alone_needs_no_key() {
        let (id, key) = (TenantId::new("a"), TenantKey::new("1"));
        assert_eq!(Directory::new([(&id, &key, 7)]).only(), Some(7));
    }
}
