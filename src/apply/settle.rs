//! Refused rows that fit after all: other rows of the same transaction may have given way in the meantime.
//!
//! Users who exchange unique values block each other: each row gets an interim value, then its final one. It is never
//! deleted and inserted, which would cascade into the application's rows.

use super::isolation::{Isolation, RefusedRow, Step};
use super::refusal::{Refusal, RefusedUser};
use super::reject_reason::MAX_REJECTED;
use super::target::TargetError;
use crate::model::{Change, User, UserId};
use crate::pg::{PgTimestamp, Statements};
use std::collections::HashSet;
use tokio_postgres::types::Type;

/// Passes over the refused rows. Each resolves at least one more link of a chain; what is left is tried again later.
const MAX_PASSES: usize = 16;
/// Exchanges. A second one is needed only for rows that a second index refuses.
const MAX_EXCHANGES: usize = 4;

const EXCHANGE: &str = "SAVEPOINT users_sync_exchange";
const KEEP_EXCHANGE: &str = "RELEASE SAVEPOINT users_sync_exchange";
const UNDO_EXCHANGE: &str = "ROLLBACK TO SAVEPOINT users_sync_exchange; RELEASE SAVEPOINT users_sync_exchange";

impl<S: Statements> Isolation<'_, S> {
    /// Tries refused rows again. Returns the users that stay refused, and deleted users whose rows gave way to live ones.
    pub(crate) async fn settle(&self, refused: Vec<RefusedRow<'_>>) -> Result<Vec<RefusedUser>, TargetError> {
        let (fixed, mut open): (Vec<_>, Vec<_>) = refused.into_iter().partition(|row| row.refusal.is_of_row());
        let mut gave_way: HashSet<UserId> = HashSet::new();
        if !open.is_empty() && fixed.len() + open.len() <= MAX_REJECTED {
            // Live users first: of two that want the same value, the live one gets it.
            open.sort_by_key(|row| row.change.deletes());
            open = self.retry(open).await?;
            for _ in 0..MAX_EXCHANGES {
                let before = open.len();
                open = self.exchange(open, &mut gave_way).await?;
                if open.len() == before || open.is_empty() {
                    break;
                }
                open = self.retry(open).await?;
            }
        }
        let rows = fixed.into_iter().chain(open);
        let mut users: Vec<RefusedUser> =
            rows.map(|row| RefusedUser { id: row.change.id().into(), refusal: row.refusal }).collect();
        users.iter().for_each(|user| _ = gave_way.remove(&user.id));
        users.extend(gave_way.into_iter().map(|id| RefusedUser { id, refusal: Refusal::gave_way() }));
        Ok(users)
    }

    /// Tries the rows until a pass makes no progress.
    async fn retry<'r>(&self, mut open: Vec<RefusedRow<'r>>) -> Result<Vec<RefusedRow<'r>>, TargetError> {
        for _ in 0..MAX_PASSES {
            let changes: Vec<&Change> = open.iter().map(|row| row.change).collect();
            let left = self.each(Step::Write(&changes)).await?;
            let is_done = left.is_empty() || left.len() == open.len();
            open = left.into_iter().map(|(at, refusal)| RefusedRow { change: open[at].change, refusal }).collect();
            if is_done {
                break;
            }
        }
        Ok(open)
    }

    /// Gives the rows of users who block each other an interim value, then writes the final ones: live users first. Deleted
    /// users who block a live one keep the interim value. Any other row that stays refused gets back what it had, if that
    /// is still free.
    async fn exchange<'r>(
        &self,
        open: Vec<RefusedRow<'r>>,
        gave_way: &mut HashSet<UserId>,
    ) -> Result<Vec<RefusedRow<'r>>, TargetError> {
        let conflicts = |row: &RefusedRow<'r>| row.refusal.is_conflict() && matches!(row.change, Change::Upsert(_));
        let (wanting, others): (Vec<_>, Vec<_>) = open.into_iter().partition(conflicts);
        let blockers = self.find_blockers(&wanting).await?;
        let mut ids: Vec<UserId> = wanting.iter().map(|row| row.change.id().into()).collect();
        ids.extend(blockers.iter().cloned());
        if ids.len() < 2 {
            return Ok(wanting.into_iter().chain(others).collect());
        }
        self.client.batch_execute(EXCHANGE).await?;
        let before = self.read_rows(&ids).await?;
        let held: Vec<UserId> = before.iter().map(|change| change.id().into()).collect();
        let unchanged: HashSet<usize> = self.each(Step::Interim(&held)).await?.into_iter().map(|(at, _)| at).collect();
        let count = wanting.len();
        let left = self.retry(wanting.clone()).await?;
        if unchanged.len() == held.len() || left.len() == count {
            self.client.batch_execute(UNDO_EXCHANGE).await?;
            return Ok(wanting.into_iter().chain(others).collect());
        }
        let refused: HashSet<&str> = left.iter().map(|row| row.change.id()).collect();
        let blocking: HashSet<&str> = blockers.iter().map(|id| &**id).collect();
        let written = |id: &str| !refused.contains(id) && !blocking.contains(id);
        let to_restore: Vec<&Change> = before
            .iter()
            .enumerate()
            .filter(|(at, change)| !unchanged.contains(at) && !written(change.id()))
            .map(|(_, change)| change)
            .collect();
        for (at, _) in self.each(Step::Write(&to_restore)).await? {
            let id = to_restore[at].id();
            if blocking.contains(id) && !refused.contains(id) {
                gave_way.insert(id.into());
            }
        }
        self.client.batch_execute(KEEP_EXCHANGE).await?;
        Ok(left.into_iter().chain(others).collect())
    }

    /// The rows of these users as the target holds them.
    async fn read_rows(&self, ids: &[UserId]) -> Result<Vec<Change>, TargetError> {
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let sql = "SELECT id::text, raw_json::text, name, email, created_at, updated_at, deleted_at \
                   FROM neon_auth.users_sync WHERE id = ANY($1)";
        let rows = self.client.query_typed(sql, &[(&ids, Type::TEXT_ARRAY)]).await?;
        let time = |row: &tokio_postgres::Row, column: usize| {
            Ok::<_, tokio_postgres::Error>(row.try_get::<_, Option<PgTimestamp>>(column)?.map(|time| time.0))
        };
        let user = |row: &tokio_postgres::Row| {
            Ok::<_, tokio_postgres::Error>(Change::Upsert(User {
                id: row.try_get::<_, &str>(0)?.into(),
                raw_json: row.try_get(1)?,
                name: row.try_get(2)?,
                email: row.try_get(3)?,
                created_at: time(row, 4)?,
                updated_at: time(row, 5)?,
                deleted_at: time(row, 6)?,
                updated_at_derived: false,
            }))
        };
        Ok(rows.iter().map(user).collect::<Result<_, _>>()?)
    }
}
