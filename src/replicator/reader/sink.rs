//! Where the changes of a stream go: into the tenants' mailboxes, or out to Kafka.

use crate::map::CommitInfo;
use crate::model::{Change, Lsn, RestartSignal, User};
use crate::replicator::error::ServiceError;
use std::sync::Arc;

/// The transaction that is being received.
#[derive(Clone, Copy)]
pub(crate) struct Transaction {
    pub(crate) commit_lsn: Lsn,
    pub(crate) commit: CommitInfo,
}

/// Whether a change brings its user to the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IsCreate {
    No,
    /// Nobody can tell.
    Unknown,
    Yes,
}

impl IsCreate {
    /// Where it is known.
    pub(crate) fn known(is_create: bool) -> IsCreate {
        if is_create { IsCreate::Yes } else { IsCreate::No }
    }
}

/// Takes mapped changes in the order of the stream.
pub(crate) trait Sink: Send {
    /// Whether it wants to hear of rows: [`Sink::begin_row`].
    const WANTS_ROWS: bool;

    /// A row of users arrives, whatever becomes of it; with the user as it was before, where the replica identity carries that.
    fn begin_row(&mut self, before: Option<User>);

    /// Takes a change of the tenant with this key; `None`: of the only one.
    fn add(&mut self, transaction: Transaction, tenant: Option<&str>, change: Change, is_create: IsCreate);

    /// Takes a change for every tenant: whoever does not have the user has nothing to do.
    fn add_everywhere(&mut self, transaction: Transaction, change: &Change);

    /// The transaction is complete.
    fn commit(&mut self, transaction: Transaction, end: Lsn);

    /// There was nothing for us up to here.
    fn idle(&mut self, wal_end: Lsn);

    /// The source wants to hear from us.
    fn reply_requested(&self);

    /// Whether [`Sink::wait_for_capacity`] has something to do before the next frame is taken.
    fn needs_capacity(&self) -> bool;

    /// Waits until there is room.
    fn wait_for_capacity(&mut self) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// What was received so far is all that there is for now.
    fn flush_if_due(&mut self) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// The source has nothing more to send.
    fn on_caught_up(&mut self) {}

    /// Ends when the sink has something to do between two frames: [`Sink::on_ready`].
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Does it.
    fn on_ready(&mut self) -> impl Future<Output = Result<(), ServiceError>> + Send;

    /// Fingerprint of the mapping that rows are made with now.
    fn mapping(&self) -> Arc<str>;

    /// Rows are made in another way from now on.
    fn altered(&mut self, mapping: &str);

    /// Every tenant has to start over, because of something at this place of the stream.
    fn interrupt(&mut self, why: RestartSignal);
}
