//! Routes mapped changes to the sink. Changes whose tenant is unknown wait for a point read.

use crate::map::TenantRef;
use crate::model::Change;
use crate::replicator::reader::sink::{IsCreate, Sink, Transaction};

pub(crate) struct ChangeOutput<S> {
    pub(crate) sink: S,
    /// Changes of the current transaction whose tenant is unknown.
    pub(crate) unsent: Vec<Change>,
}

impl<S: Sink> ChangeOutput<S> {
    pub(crate) fn new(sink: S) -> ChangeOutput<S> {
        ChangeOutput { sink, unsent: Vec::new() }
    }

    pub(crate) fn add(&mut self, transaction: Transaction, tenant: TenantRef<'_>, change: Change, is_create: IsCreate) {
        match tenant {
            TenantRef::NoTenant => {}
            TenantRef::Unsent => self.unsent.push(change),
            TenantRef::Only => self.sink.add(transaction, None, change, is_create),
            TenantRef::Key(key) => self.sink.add(transaction, Some(&key), change, is_create),
        }
    }
}
