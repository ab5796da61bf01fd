//! Removes users permanently that were marked as deleted long ago.

use super::target::{Target, TargetError};
use crate::pg::Statements;
use std::time::Duration;
use tokio_postgres::types::Type;

impl Target {
    /// Ids of users that have been deleted for longer than `after`, at most `limit`; users whose row the
    /// target refused to remove come last.
    pub(crate) async fn expired(&mut self, after: Duration, limit: usize) -> Result<Vec<String>, TargetError> {
        // As text, so that the planner knows how few rows these are.
        let sql = format!(
            "SELECT id::text FROM neon_auth.users_sync u WHERE deleted_at < now() - {} * interval '1 second' \
             ORDER BY EXISTS (SELECT FROM users_sync.rejected r WHERE r.id_hash = sha256(convert_to(u.id, 'UTF8'))), \
             deleted_at LIMIT {limit}",
            seconds(after)
        );
        let rows = self.client_mut().query_typed(&sql, &[]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Time until the next user has been deleted for that long, at most `after`: a user that is deleted from now on
    /// is due then. Times in the future, and `infinity`, count as now.
    pub(crate) async fn next_expiry(&mut self, after: Duration) -> Result<Duration, TargetError> {
        let sql = format!(
            "SELECT greatest(extract(epoch FROM least(min(deleted_at), now()) - now())::float8 + {0}, 0) \
             FROM neon_auth.users_sync WHERE deleted_at >= now() - {0} * interval '1 second'",
            seconds(after)
        );
        let row = self.client_mut().query_typed_one(&sql, &[]).await?;
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
