//! Removes users permanently that were marked as deleted long ago.

use super::target::{Target, TargetError};
use crate::pg::Statements;
use std::time::Duration;
use tokio_postgres::types::Type;

impl Target {
    /// Ids of users that have been deleted for longer than `after`, at most `limit`; users whose row the
    /// target refused to remove come last.
    pub(crate) async fn expired(&mut self, after: Duration, limit: usize) -> Result<Vec<String>, TargetError> {
        let sql = "SELECT id::text FROM neon_auth.users_sync u WHERE deleted_at < now() - $1 * interval '1 second' \
                   ORDER BY EXISTS (SELECT FROM users_sync.rejected r WHERE r.id = u.id), deleted_at LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&after.as_secs_f64(), Type::FLOAT8), (&limit, Type::INT8)];
        let rows = self.client_mut().query_typed(sql, &parameters).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Time until the next user has been deleted for that long; `None` if there is none.
    pub(crate) async fn next_expiry(&mut self, after: Duration) -> Result<Option<Duration>, TargetError> {
        let sql = "SELECT greatest(extract(epoch FROM min(deleted_at) - now())::float8 + $1, 0) \
                   FROM neon_auth.users_sync WHERE deleted_at >= now() - $1 * interval '1 second'";
        let row = self.client_mut().query_typed_one(sql, &[(&after.as_secs_f64(), Type::FLOAT8)]).await?;
        Ok(row.try_get::<_, Option<f64>>(0)?.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
    }

    /// Deletes rows, in the open transaction.
    pub(crate) async fn delete_rows(&mut self, ids: &[String]) -> Result<(), TargetError> {
        let sql = "DELETE FROM neon_auth.users_sync WHERE id = ANY($1)";
        self.client_mut().execute_typed(sql, &[(&ids, Type::TEXT_ARRAY)]).await?;
        Ok(())
    }
}
