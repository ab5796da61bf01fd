//! Routes mapped changes to the sink. Changes whose tenant is unknown wait for a point read.

use crate::map::TenantRef;
use crate::model::{Change, Lsn};
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};
use std::collections::HashSet;
use std::hash::BuildHasher;

/// Ids that are remembered of one transaction. Past them, each of its deletes is checked by a point read.
const MAX_ARRIVED: usize = 1 << 16;

pub(crate) struct ChangeOutput<S> {
    pub(crate) sink: S,
    /// Changes of the current transaction whose tenant is unknown.
    pub(crate) unsent: Vec<Change>,
    arrived: Arrived,
}

/// The ids that rows of one transaction were inserted with or changed to. With a deferrable key, another row may still
/// have the id: when that row leaves the id later in the transaction, the user stays.
#[derive(Default)]
struct Arrived {
    commit_lsn: Lsn,
    /// Of tenant and id.
    hashes: HashSet<u64, foldhash::quality::RandomState>,
}

impl Arrived {
    fn hash(&mut self, transaction: Transaction, tenant: &TenantRef<'_>, id: &str) -> u64 {
        if self.commit_lsn != transaction.commit_lsn {
            *self = Arrived { commit_lsn: transaction.commit_lsn, ..Arrived::default() };
        }
        let key = match tenant {
            TenantRef::Key(key) => Some(&**key),
            TenantRef::Only | TenantRef::NoTenant | TenantRef::Unsent => None,
        };
        self.hashes.hasher().hash_one((key, id))
    }

    fn add(&mut self, transaction: Transaction, tenant: &TenantRef<'_>, id: &str) {
        let hash = self.hash(transaction, tenant, id);
        if self.hashes.len() < MAX_ARRIVED {
            self.hashes.insert(hash);
        }
    }

    /// Whether a row of the transaction may have come to the id. Ids with the same hash are not told apart.
    fn may_have(&mut self, transaction: Transaction, tenant: &TenantRef<'_>, id: &str) -> bool {
        let hash = self.hash(transaction, tenant, id);
        self.hashes.len() >= MAX_ARRIVED || self.hashes.contains(&hash)
    }
}

impl<S: Sink> ChangeOutput<S> {
    pub(crate) fn new(sink: S) -> ChangeOutput<S> {
        ChangeOutput { sink, unsent: Vec::new(), arrived: Arrived::default() }
    }

    /// Passes on a change of a row that came to its id in this transaction.
    pub(crate) fn add_arrived(
        &mut self,
        transaction: Transaction,
        tenant: TenantRef<'_>,
        change: Change,
        is_create: IsCreate,
    ) {
        self.arrived.add(transaction, &tenant, change.id());
        self.add(transaction, tenant, change, is_create);
    }

    /// Passes on the delete of a user whose row was deleted or left the id. Two rows of a transaction may have had the
    /// id, and the stream does not tell which of them left: the source is read.
    pub(crate) fn add_delete(&mut self, transaction: Transaction, tenant: TenantRef<'_>, change: Change) {
        let change = match change {
            Change::Delete { id, at } if self.arrived.may_have(transaction, &tenant, &id) => {
                Change::Reread { id, xid: transaction.commit.xid, at, deleted_if_absent: true }
            }
            change => change,
        };
        self.add(transaction, tenant, change, IsCreate::No);
    }

    pub(crate) fn add(&mut self, transaction: Transaction, tenant: TenantRef<'_>, change: Change, is_create: IsCreate) {
        match tenant {
            TenantRef::NoTenant => self.sink.without_tenant(),
            TenantRef::Unsent => self.unsent.push(change),
            TenantRef::Only => self.sink.add(transaction, None, change, is_create),
            TenantRef::Key(key) => self.sink.add(transaction, Some(&key), change, is_create),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::CommitInfo;
    use crate::model::{Timestamp, Xid};

    fn transaction(number: u32) -> Transaction {
        let commit = CommitInfo { commit_time: Timestamp(0), xid: Xid(number) };
        Transaction { commit_lsn: Lsn(number.into()), commit }
    }

    #[test]
    fn ids_are_remembered_by_tenant_until_the_next_transaction() {
        let (acme, globex) = (TenantRef::Key("acme".into()), TenantRef::Key("globex".into()));
        let mut arrived = Arrived::default();
        arrived.add(transaction(1), &acme, "u1");
        assert!(arrived.may_have(transaction(1), &acme, "u1"));
        assert!(!arrived.may_have(transaction(1), &globex, "u1"));
        assert!(!arrived.may_have(transaction(1), &acme, "u2"));
        assert!(!arrived.may_have(transaction(2), &acme, "u1"));
    }

    #[test]
    fn past_the_limit_any_id_may_have_come() {
        let mut arrived = Arrived::default();
        for id in 0..=MAX_ARRIVED {
            arrived.add(transaction(1), &TenantRef::Only, &id.to_string());
        }
        assert!(arrived.hashes.len() <= MAX_ARRIVED);
        assert!(arrived.may_have(transaction(1), &TenantRef::Only, "never added"));
        assert!(!arrived.may_have(transaction(2), &TenantRef::Only, "never added"));
    }
}
