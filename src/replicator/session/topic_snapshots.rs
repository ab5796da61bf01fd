//! The tenants' snapshots in the topic that a session applies from. The locks are held for a few map operations.

use crate::model::{ByTenant, Generation, Lsn, TenantIdx};
use crate::sync::lock;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// A complete snapshot of a tenant in its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedSnapshot {
    pub(crate) generation: Generation,
    pub(crate) position: Lsn,
    /// Its first message has this offset or a later one. Everything before it is superseded.
    pub(crate) offset: i64,
    /// Fingerprint of the mapping that made its rows.
    pub(crate) mapping: Arc<str>,
}

#[derive(Default)]
struct Known {
    published: Option<PublishedSnapshot>,
    /// The target holds this snapshot, or a later state.
    included: Lsn,
    /// The topic has messages of this snapshot, which may not be complete yet.
    awaited: Lsn,
    /// Messages before this offset are in the rows from which the tenant is rebuilt.
    rebuilt_to: i64,
}

/// What is known of each tenant of the session.
#[derive(Default)]
pub(crate) struct TopicSnapshots {
    known: Mutex<ByTenant<Known>>,
    /// Notified when a snapshot has become complete.
    pub(crate) completed: Notify,
}

impl TopicSnapshots {
    fn with<T>(&self, tenant: TenantIdx, change: impl FnOnce(&mut Known) -> T) -> T {
        change(lock(&self.known).entry(tenant))
    }

    /// The tenant's last complete snapshot is this one. Returns whether the tenant must be rebuilt from it.
    pub(crate) fn published(&self, tenant: TenantIdx, snapshot: PublishedSnapshot) -> bool {
        self.with(tenant, |known| {
            let starts_over = snapshot.position > known.included && snapshot.position > known.awaited;
            known.awaited = known.awaited.max(snapshot.position);
            known.published = Some(snapshot);
            starts_over
        })
    }

    /// A further snapshot of the tenant is being published.
    pub(crate) fn withdrawn(&self, tenant: TenantIdx) {
        self.with(tenant, |known| known.published = None);
    }

    /// A message of the tenant's snapshot at `position` was read. Returns whether the tenant must be rebuilt from it.
    pub(crate) fn seen(&self, tenant: TenantIdx, position: Lsn) -> bool {
        self.with(tenant, |known| {
            let starts_over = position > known.included && position > known.awaited;
            known.awaited = known.awaited.max(position);
            starts_over
        })
    }

    /// The target holds the snapshot at `position`.
    pub(crate) fn includes(&self, tenant: TenantIdx, position: Lsn) {
        self.with(tenant, |known| known.included = known.included.max(position));
    }

    /// The snapshot from which the tenant can be rebuilt now: the newest one, if it is complete and of this generation.
    pub(crate) fn complete(&self, tenant: TenantIdx, generation: Generation) -> Option<PublishedSnapshot> {
        self.with(tenant, |known| {
            let is_usable =
                |found: &&PublishedSnapshot| found.generation == generation && found.position >= known.awaited;
            known.published.as_ref().filter(is_usable).cloned()
        })
    }

    /// Fingerprint of the mapping that made the tenant's last complete snapshot; `None` before the first one.
    pub(crate) fn mapping(&self, tenant: TenantIdx) -> Option<Arc<str>> {
        self.with(tenant, |known| known.published.as_ref().map(|found| found.mapping.clone()))
    }

    /// Messages before `offset` are in the rows from which the tenant is rebuilt.
    pub(crate) fn rebuild_to(&self, tenant: TenantIdx, offset: i64) {
        self.with(tenant, |known| known.rebuilt_to = offset);
    }

    /// Whether a message at `offset` is in those rows.
    pub(crate) fn is_rebuilt(&self, tenant: TenantIdx, offset: i64) -> bool {
        self.with(tenant, |known| offset < known.rebuilt_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(position: u64) -> PublishedSnapshot {
        PublishedSnapshot { generation: Generation(1), position: Lsn(position), offset: 0, mapping: "m".into() }
    }

    #[test]
    fn a_tenant_starts_over_once_for_each_snapshot_that_it_does_not_hold() {
        let tenant = ByTenant::<()>::default().push(());
        let known = TopicSnapshots::default();
        assert!(known.published(tenant, snapshot(10)));
        known.includes(tenant, Lsn(10));
        assert!(!known.published(tenant, snapshot(10)), "written again");
        assert!(!known.seen(tenant, Lsn(10)), "read again");
        assert!(known.seen(tenant, Lsn(20)) && !known.seen(tenant, Lsn(20)));
        assert_eq!(known.complete(tenant, Generation(1)), None, "the snapshot at 20 is not complete");
        assert!(!known.published(tenant, snapshot(20)), "it has started over");
        assert_eq!(known.complete(tenant, Generation(1)), Some(snapshot(20)));
        assert_eq!(known.complete(tenant, Generation(2)), None);
        known.includes(tenant, Lsn(20));
        assert!(known.published(tenant, snapshot(30)), "without messages: a tenant without users");
    }

    #[test]
    fn messages_before_the_end_of_a_rebuild_are_part_of_it() {
        let tenant = ByTenant::<()>::default().push(());
        let known = TopicSnapshots::default();
        assert!(!known.is_rebuilt(tenant, 0));
        known.rebuild_to(tenant, 5);
        assert!(known.is_rebuilt(tenant, 4) && !known.is_rebuilt(tenant, 5));
    }
}
