//! The receiver of a stream's changes: the tenants' mailboxes, or Kafka.

use crate::map::CommitInfo;
use crate::model::{Change, Lsn, RestartSignal, Timestamp, User};
use crate::replicator::error::ServiceError;
use std::sync::Arc;

/// A transaction that is being received.
#[derive(Clone, Copy)]
pub(crate) struct Transaction {
    pub(crate) commit_lsn: Lsn,
    pub(crate) commit: CommitInfo,
}

/// Whether a change adds its user to the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IsCreate {
    No,
    Unknown,
    Yes,
}

impl IsCreate {
    pub(crate) fn known(is_create: bool) -> IsCreate {
        if is_create { IsCreate::Yes } else { IsCreate::No }
    }
}

/// Takes mapped changes in the order of the stream.
pub(crate) trait Sink: Send {
    /// Whether [`Sink::begin_row`] is called.
    const WANTS_ROWS: bool;

    /// A row of a user table was received. `before` is the user before the change, if the replica identity carries it.
    fn begin_row(&mut self, before: Option<User>);

    /// Takes a change for the tenant with this key; `None` is the only tenant.
    fn add(&mut self, transaction: Transaction, tenant: Option<&str>, change: Change, is_create: IsCreate);

    /// A user without a tenant changed.
    fn without_tenant(&mut self) {}

    /// Takes a change for every tenant. Tenants without the user ignore it.
    fn add_to_all(&mut self, transaction: Transaction, change: &Change);

    /// The transaction is complete; `end` is the position after its commit record.
    fn commit(&mut self, transaction: Transaction, end: Lsn);

    /// A commit was received. `sent`: when the source sent it, by its clock.
    fn received(&mut self, _commit: CommitInfo, _sent: Timestamp) {}

    /// The source has sent everything before `wal_end`. Called between transactions only.
    fn idle(&mut self, wal_end: Lsn);

    /// The source asked for a status update.
    fn reply_requested(&self);

    /// Whether [`Sink::wait_for_capacity`] has to be called before the next frame is taken.
    fn needs_capacity(&self) -> bool;

    /// Waits until the sink can take more changes.
    fn wait_for_capacity(&mut self) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// All received frames have been taken. Sends what the sink has collected, if that is due.
    fn flush_if_due(&mut self) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// The source has nothing more to send.
    fn on_caught_up(&mut self) {}

    /// Completes when the sink has work to do between two frames: [`Sink::on_ready`].
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Runs the work that [`Sink::ready`] announced.
    fn on_ready(&mut self) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Fingerprint of the mapping that made the rows so far.
    fn mapping(&self) -> Arc<str>;

    /// The mapping has this new fingerprint from now on.
    fn altered(&mut self, mapping: &str);

    /// Every tenant that does not hold what `position` of the stream brings has to start over. Returns whether one does.
    fn interrupt(&mut self, position: Lsn, signal: RestartSignal) -> bool;
}
