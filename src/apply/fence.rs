//! Keeps an older process from writing to a target after a newer one has taken over.

use super::checkpoint::Checkpoint;
use super::read_checkpoint::read_checkpoint_with;
use super::target::{Target, TargetError};
use crate::model::{Epoch, TenantId};
use crate::pg::{SqlStateClass, Statements};
use tokio_postgres::types::Type;

/// Every writer locks the checkpoint's table in a conflicting mode until its commit (manual: "Explicit
/// Locking"). A fresh target has no row that could be locked instead.
const RAISE_EPOCH: &str = "\
SET LOCAL lock_timeout = '1s'; \
LOCK TABLE users_sync.checkpoint IN EXCLUSIVE MODE";

/// Ends transactions of our own role that lock the checkpoint: an older process in the middle of a batch or
/// merge. If that process is frozen, its kernel keeps the connection open, and only this ends it.
const TERMINATE_OLDER: &str = "\
SELECT count(pg_terminate_backend(l.pid)) FROM pg_catalog.pg_locks l \
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
WHERE l.relation = 'users_sync.checkpoint'::regclass AND l.granted AND l.pid <> pg_backend_pid() \
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
  AND a.usename = current_user AND l.mode IN ('RowShareLock', 'RowExclusiveLock', 'ExclusiveLock')";

/// Attempts before giving up on fencing.
const MAX_ATTEMPTS: usize = 5;

/// What the fence does with the checkpoint that it finds under its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fencing {
    /// Writes nothing.
    Leave,
    /// Raises the epoch, and leaves the checkpoint without a signature: nothing vouches for its position.
    Raise,
    /// Raises the epoch, and signs the checkpoint.
    RaiseAndSign,
}

/// Decides that, without I/O.
pub(crate) type DecideFencing<'a> = &'a (dyn Fn(Option<&Checkpoint>) -> Fencing + Sync);

impl Target {
    /// Raises the epoch: processes with a lower epoch cannot commit here any more, and their open
    /// transactions are ended. Returns the checkpoint that was there before, as an older process may have
    /// committed since it was last read. What is written depends on that checkpoint.
    pub(crate) async fn fence(
        &mut self,
        tenant: &TenantId,
        epoch: Epoch,
        decide: DecideFencing<'_>,
    ) -> Result<Option<Checkpoint>, TargetError> {
        for _ in 1..MAX_ATTEMPTS {
            match self.raise_epoch(epoch, decide).await {
                Err(TargetError::Sql(error))
                    if SqlStateClass::of_error(&error) == Some(SqlStateClass::LockNotAvailable) =>
                {
                    let ended: i64 = self.client_mut().query_typed_one(TERMINATE_OLDER, &[]).await?.try_get(0)?;
                    tracing::warn!(%tenant, ended, "terminated open transactions of an older process");
                }
                raised => return raised,
            }
        }
        self.raise_epoch(epoch, decide).await
    }

    async fn raise_epoch(
        &mut self,
        epoch: Epoch,
        decide: DecideFencing<'_>,
    ) -> Result<Option<Checkpoint>, TargetError> {
        let raised = self.try_raise_epoch(epoch, decide).await;
        if raised.is_err() {
            // Ends what is left of the transaction. A lost connection has none.
            let _ = self.client_mut().rollback().await;
        }
        raised
    }

    async fn try_raise_epoch(
        &mut self,
        epoch: Epoch,
        decide: DecideFencing<'_>,
    ) -> Result<Option<Checkpoint>, TargetError> {
        let key = self.key().cloned();
        let client = self.client_mut();
        client.begin(RAISE_EPOCH).await?;
        let found = read_checkpoint_with(&*client, key.is_some()).await?;
        let decision = decide(found.as_ref());
        if let Some(found) = found.as_ref().filter(|found| decision != Fencing::Leave && found.epoch <= epoch) {
            let raised = Checkpoint { epoch, ..found.clone() };
            match &key {
                Some(key) => {
                    let mac = (decision == Fencing::RaiseAndSign).then(|| raised.sign(key));
                    let raise = "UPDATE users_sync.checkpoint SET epoch = $1, mac = $2";
                    client.execute_typed(raise, &[(&epoch.0, Type::INT8), (&mac, Type::BYTEA)]).await?;
                }
                None => {
                    let raise = "UPDATE users_sync.checkpoint SET epoch = $1";
                    client.execute_typed(raise, &[(&epoch.0, Type::INT8)]).await?;
                }
            }
        }
        client.commit().await?;
        Ok(found)
    }
}
