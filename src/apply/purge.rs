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
                   ORDER BY EXISTS (SELECT FROM users_sync.rejected r WHERE r.id_hash = sha256(convert_to(u.id, 'UTF8'))), \
                   deleted_at LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&seconds(after), Type::FLOAT8), (&limit, Type::INT8)];
        let rows = self.client_mut().query_typed(sql, &parameters).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Time until the next user has been deleted for that long, at most `after`: a user that is deleted from now on
    /// is due then. Times in the future, and `infinity`, count as now.
    pub(crate) async fn next_expiry(&mut self, after: Duration) -> Result<Duration, TargetError> {
        let sql = "SELECT greatest(extract(epoch FROM least(min(deleted_at), now()) - now())::float8 + $1, 0) \
                   FROM neon_auth.users_sync WHERE deleted_at >= now() - $1 * interval '1 second'";
        let row = self.client_mut().query_typed_one(sql, &[(&seconds(after), Type::FLOAT8)]).await?;
        Ok(Duration::try_from_secs_f64(row.try_get(0)?).unwrap_or(after))
    }

    /// Deletes the rows that are still due, in the open transaction. Returns their number, and the ids of those that are
    /// there all the same: a trigger has skipped them.
    pub(crate) async fn delete_expired(
        &mut self,
        ids: &[String],
        after: Duration,
    ) -> Result<(u64, Vec<String>), TargetError> {
        let due = "FROM neon_auth.users_sync WHERE id = ANY($1) AND deleted_at < now() - $2 * interval '1 second'";
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&ids, Type::TEXT_ARRAY), (&seconds(after), Type::FLOAT8)];
        let client = self.client_mut();
        let deleted = client.execute_typed(&format!("DELETE {due}"), &parameters).await?;
        if deleted == ids.len() as u64 {
            return Ok((deleted, Vec::new()));
        }
        let left = client.query_typed(&format!("SELECT id::text {due}"), &parameters).await?;
        Ok((deleted, left.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?))
    }
}

/// A time in seconds that can be subtracted from the current one: PostgreSQL's times begin in 4714 BC.
fn seconds(after: Duration) -> f64 {
    const LONGEST: f64 = 5_000.0 * 365.0 * 86_400.0;
    after.as_secs_f64().min(LONGEST)
}
