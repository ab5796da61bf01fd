//! Keeps an older process from writing to a target that a newer one has taken over.

use super::target::{Target, TargetError};
use crate::model::{Epoch, TenantId};
use crate::pg::SqlStateClass;
use tokio_postgres::types::Type;

/// Whoever writes holds the checkpoint's table in a mode that this one conflicts with (manual: "Explicit Locking"), from
/// its first statement to its commit. A fresh target has no row that could be locked instead.
const RAISE_EPOCH: &str = "\
BEGIN; \
SET LOCAL lock_timeout = '1s'; \
LOCK TABLE users_sync.checkpoint IN EXCLUSIVE MODE";

/// Transactions of our own role that hold the checkpoint: an older process in the middle of a batch or a merge. Its
/// kernel may answer for it while it is frozen, so nothing but this ends them.
const TERMINATE_OLDER: &str = "\
SELECT count(pg_terminate_backend(l.pid)) FROM pg_catalog.pg_locks l \
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
WHERE l.relation = 'users_sync.checkpoint'::regclass AND l.granted AND l.pid <> pg_backend_pid() \
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
  AND a.usename = current_user AND l.mode IN ('RowShareLock', 'RowExclusiveLock', 'ExclusiveLock')";

/// So often at most an older process may be in the way.
const MAX_ATTEMPTS: usize = 5;

impl Target {
    /// From now on no process with a lower epoch commits anything here. One that is in the middle of a transaction loses
    /// it.
    pub async fn fence(&mut self, tenant: &TenantId, epoch: Epoch) -> Result<(), TargetError> {
        for _ in 1..MAX_ATTEMPTS {
            match self.raise_epoch(epoch).await {
                Err(TargetError::Sql(error))
                    if SqlStateClass::of_error(&error) == Some(SqlStateClass::LockNotAvailable) =>
                {
                    let ended: i64 = self.client_mut().query_typed_one(TERMINATE_OLDER, &[]).await?.get(0);
                    tracing::warn!(%tenant, ended, "an older process was in the middle of a transaction: it was ended");
                }
                raised => return raised,
            }
        }
        self.raise_epoch(epoch).await
    }

    async fn raise_epoch(&mut self, epoch: Epoch) -> Result<(), TargetError> {
        let raised = self.try_raise_epoch(epoch).await;
        if raised.is_err() {
            // What is left of the transaction; a connection that is gone has none.
            let _ = self.client_mut().batch_execute("ROLLBACK").await;
        }
        raised
    }

    async fn try_raise_epoch(&mut self, epoch: Epoch) -> Result<(), TargetError> {
        let client = self.client_mut();
        client.batch_execute(RAISE_EPOCH).await?;
        let raise = "UPDATE users_sync.checkpoint SET epoch = $1 WHERE epoch < $1";
        client.execute_typed(raise, &[(&epoch.0, Type::INT8)]).await?;
        Ok(client.batch_execute("COMMIT").await?)
    }
}
