//! Compares a target with the source's rows, with the conditions of a merge. Changes nothing in the target:
//! it uses temporary tables in a transaction that is rolled back.
//!
//! Users in `users_sync.rejected` are left out on both sides: the target is known not to have their rows.

use super::load::copy;
use super::outcome::LoadError;
use super::progress_watch::ProgressWatch;
use super::spool::RowReceiver;
use super::unstaged::{Staging, Unstaged};
use crate::apply::{Shape, read_checkpoint, read_rejected_keys, read_shape, statement};
use crate::model::{Deletes, IdHash, Lsn, User};
use crate::pg::NO_TRANSACTION_TIMEOUT;
use crate::pg::TargetClient;
use std::collections::HashSet;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

const STAGE: &str = "pg_temp.users_sync_stage";
const RECHECK_STAGE: &str = "pg_temp.users_sync_again";

/// The ways in which a user can differ.
pub(crate) const DIFFERENCE_KINDS: [&str; 3] = ["missing", "different", "extra"];

/// A running comparison.
pub(crate) struct Comparison<'a> {
    transaction: Transaction<'a>,
    shape: Shape,
    deletes: Deletes,
    rows: u64,
    /// Copies in parts, without the users that the stage cannot hold.
    isolates: bool,
    unstaged: Unstaged,
    watch: &'a ProgressWatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DifferingUser {
    /// `missing`, `different` or `extra`.
    pub kind: String,
    /// The user's id.
    pub id: String,
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differences {
    /// Users that only the source has.
    pub missing: u64,
    /// Users whose rows differ.
    pub different: u64,
    /// Users that only the target has.
    pub extra: u64,
    /// Users in `users_sync.rejected`, which were not compared.
    pub rejected: u64,
    /// Some of them.
    pub examples: Vec<DifferingUser>,
    /// Users that changed during every recheck.
    pub still_changing: u64,
}

impl<'a> Comparison<'a> {
    /// Starts a comparison. Needs the right to create temporary tables, as a resync does.
    ///
    /// Without `isolates` all rows are copied at once, and one that the stage cannot hold is an error.
    pub(crate) async fn begin(
        client: &'a mut TargetClient,
        deletes: Deletes,
        isolates: bool,
        watch: &'a ProgressWatch,
    ) -> Result<Comparison<'a>, LoadError> {
        let transaction = client.transaction().await?;
        transaction
            .batch_execute(&format!(
                "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '30s'; SET LOCAL synchronous_commit = off; \
                 {NO_TRANSACTION_TIMEOUT}"
            ))
            .await?;
        let shape = read_shape(&transaction).await.map_err(LoadError::Target)?;
        transaction.batch_execute(statement::CREATE_STAGE).await?;
        transaction
            .batch_execute(
                "CREATE TEMPORARY TABLE users_sync_again (LIKE pg_temp.users_sync_stage INCLUDING ALL) ON COMMIT DROP; \
                 CREATE TEMPORARY TABLE users_sync_differing \
                   (id text PRIMARY KEY, kind text, confirmed boolean NOT NULL DEFAULT false) ON COMMIT DROP",
            )
            .await?;
        watch.progressed();
        Ok(Comparison { transaction, shape, deletes, rows: 0, isolates, unstaged: Unstaged::default(), watch })
    }

    /// Stages the source's rows.
    pub(crate) async fn stage(&mut self, rows: &mut RowReceiver) -> Result<(), LoadError> {
        rows.leave_out(read_rejected_keys(&self.transaction).await?);
        if self.isolates {
            while let Some(users) = self.watch.pause(rows.next()).await? {
                self.rows += self.copy(STAGE, &users).await?;
            }
        } else {
            self.rows = copy(&self.transaction, STAGE, &statement::STAGE_COLUMNS, rows, self.watch).await?;
        }
        Ok(self.transaction.batch_execute("ANALYZE pg_temp.users_sync_stage").await?)
    }

    /// Copies users that were read again. Returns their number.
    async fn copy(&mut self, stage: &str, users: &[User]) -> Result<u64, LoadError> {
        let staging = Staging { transaction: &self.transaction, stage, watch: self.watch };
        if self.isolates {
            return staging.copy(users, &mut self.unstaged).await;
        }
        staging.copy_part(users).await
    }

    /// The target's current position.
    pub(crate) async fn position(&self) -> Result<Lsn, LoadError> {
        let checkpoint = read_checkpoint(&self.transaction).await?;
        Ok(checkpoint.map_or(Lsn::ZERO, |checkpoint| checkpoint.position))
    }

    /// Finds the users that differ now.
    pub(crate) async fn find_differences(&mut self) -> Result<(), LoadError> {
        let sql = format!(
            "INSERT INTO pg_temp.users_sync_differing (id, kind) SELECT id, kind FROM \
               (SELECT coalesce(v.id, u.id) AS id, {} AS kind FROM {STAGE} v FULL JOIN neon_auth.users_sync u ON u.id = v.id) d \
             WHERE kind IS NOT NULL",
            self.kind()
        );
        self.transaction.execute_typed(&sql, &[]).await?;
        self.leave_out().await
    }

    /// Compares the unconfirmed users again, and drops those that do not differ any more.
    pub(crate) async fn recheck(&mut self) -> Result<(), LoadError> {
        let again = format!(
            "UPDATE pg_temp.users_sync_differing d SET kind = {} FROM pg_temp.users_sync_differing o \
               LEFT JOIN {STAGE} v ON v.id = o.id LEFT JOIN neon_auth.users_sync u ON u.id = o.id \
             WHERE d.id = o.id AND NOT d.confirmed",
            self.kind()
        );
        self.transaction.execute_typed(&again, &[]).await?;
        self.transaction.execute_typed("DELETE FROM pg_temp.users_sync_differing WHERE kind IS NULL", &[]).await?;
        self.leave_out().await
    }

    /// Drops the users that are rejected by now, and those that are not staged.
    async fn leave_out(&mut self) -> Result<(), LoadError> {
        let rejected = read_rejected_keys(&self.transaction).await?;
        self.unstaged.retain(|key| !rejected.contains(key));
        let keys: Vec<&[u8]> = rejected.iter().chain(self.unstaged.keys()).map(IdHash::as_bytes).collect();
        if !keys.is_empty() {
            let sql = "DELETE FROM pg_temp.users_sync_differing WHERE NOT confirmed AND sha256(convert_to(id, 'UTF8')) = ANY($1)";
            self.transaction.execute_typed(sql, &[(&keys, Type::BYTEA_ARRAY)]).await?;
        }
        Ok(())
    }

    /// Users whose rows the stage cannot hold, and that are not known to be rejected.
    pub(crate) fn unstaged(&self) -> Vec<String> {
        self.unstaged.ids()
    }

    /// Takes the source's rows of such users, read again. Those that are staged now are compared in the next round.
    pub(crate) async fn stage_again(&mut self, now: &[User]) -> Result<(), LoadError> {
        let before = std::mem::take(&mut self.unstaged);
        self.rows += self.copy(STAGE, now).await?;
        let staged: Vec<&[u8]> =
            before.keys().filter(|key| !self.unstaged.contains(key)).map(IdHash::as_bytes).collect();
        let sql = format!(
            "INSERT INTO pg_temp.users_sync_differing (id, kind) SELECT id, 'different' FROM \
               (SELECT id FROM {STAGE} UNION ALL SELECT id FROM neon_auth.users_sync) d \
             WHERE sha256(convert_to(id, 'UTF8')) = ANY($1) ON CONFLICT DO NOTHING"
        );
        self.transaction.execute_typed(&sql, &[(&staged, Type::BYTEA_ARRAY)]).await?;
        Ok(())
    }

    /// SQL for the way in which the row `u` differs from `v`, or null.
    fn kind(&self) -> String {
        let there = match self.deletes {
            Deletes::Soft => "u.id IS NOT NULL AND u.deleted_at IS NULL",
            Deletes::Hard => "u.id IS NOT NULL",
        };
        format!(
            "CASE WHEN v.id IS NULL THEN CASE WHEN {there} THEN 'extra' END WHEN v.raw_json IS NULL THEN NULL WHEN u.id IS NULL THEN 'missing' \
             WHEN {} THEN 'different' END",
            self.shape.differs("v")
        )
    }

    /// The next unconfirmed users, by id.
    pub(crate) async fn unconfirmed(&self, after: &str, limit: i64) -> Result<Vec<String>, LoadError> {
        let sql = "SELECT id FROM pg_temp.users_sync_differing WHERE NOT confirmed AND id > $1 ORDER BY id LIMIT $2";
        let rows = self.transaction.query_typed(sql, &[(&after, Type::TEXT), (&limit, Type::INT8)]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }

    /// Takes the source's rows of these users, read after the target was compared. A user whose row has not
    /// changed differs; the others are compared again with their new row.
    pub(crate) async fn confirm(&mut self, ids: &[String], now: &[User]) -> Result<(), LoadError> {
        self.copy(RECHECK_STAGE, now).await?;
        // Without a row in the stage they would look absent at the source.
        self.leave_out().await?;
        let same = "(a.raw_json, a.name, a.email, a.created_at, a.deleted_at) IS NOT DISTINCT FROM \
                    (v.raw_json, v.name, v.email, v.created_at, v.deleted_at) \
                    AND (a.derived OR a.updated_at IS NOT DISTINCT FROM v.updated_at)";
        let confirm = format!(
            "UPDATE pg_temp.users_sync_differing d SET confirmed = true FROM unnest($1::text[]) AS i(id) \
               LEFT JOIN {STAGE} v ON v.id = i.id LEFT JOIN {RECHECK_STAGE} a ON a.id = i.id \
             WHERE d.id = i.id AND (v.id IS NULL AND a.id IS NULL OR v.id IS NOT NULL AND a.id IS NOT NULL AND {same})"
        );
        self.transaction.execute_typed(&confirm, &[(&ids, Type::TEXT_ARRAY)]).await?;
        let columns = statement::STAGE_COLUMNS.join(", ");
        let drop_old = format!("DELETE FROM {STAGE} WHERE id = ANY($1)");
        self.transaction.execute_typed(&drop_old, &[(&ids, Type::TEXT_ARRAY)]).await?;
        let take_new = format!(
            "INSERT INTO {STAGE} ({columns}) SELECT {columns} FROM {RECHECK_STAGE}; DELETE FROM {RECHECK_STAGE}"
        );
        Ok(self.transaction.batch_execute(&take_new).await?)
    }

    /// Counts users that are neither staged nor rejected: the target has another row of theirs, or none.
    async fn add_unstaged(&mut self, differences: &mut Differences, examples: i64) -> Result<(), LoadError> {
        self.leave_out().await?;
        let keys: Vec<&[u8]> = self.unstaged.keys().map(IdHash::as_bytes).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let sql = "SELECT sha256(convert_to(id, 'UTF8')) FROM neon_auth.users_sync \
                   WHERE sha256(convert_to(id, 'UTF8')) = ANY($1)";
        let held = self.transaction.query_typed(sql, &[(&keys, Type::BYTEA_ARRAY)]).await?;
        let held: HashSet<IdHash> =
            held.iter().filter_map(|row| row.try_get(0).ok().and_then(IdHash::from_stored)).collect();
        self.rows += keys.len() as u64;
        for (key, id) in self.unstaged.iter() {
            let (kind, count) = match held.contains(key) {
                true => ("different", &mut differences.different),
                false => ("missing", &mut differences.missing),
            };
            *count += 1;
            let shown = differences.examples.iter().filter(|user| user.kind == kind).count();
            if i64::try_from(shown).is_ok_and(|shown| shown < examples) {
                differences.examples.push(DifferingUser { kind: kind.to_owned(), id: id.to_string() });
            }
        }
        Ok(())
    }

    /// Ends the comparison. Returns the number of compared rows of the source, and at most `examples` ids of each kind.
    pub(crate) async fn outcome(mut self, examples: i64) -> Result<(u64, Differences), LoadError> {
        let rejected = read_rejected_keys(&self.transaction).await?.len() as u64;
        let mut differences = Differences { rejected, ..Differences::default() };
        let count = "SELECT kind, confirmed, count(*) FROM pg_temp.users_sync_differing GROUP BY kind, confirmed";
        for row in self.transaction.query_typed(count, &[]).await? {
            let (kind, confirmed, count): (&str, bool, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let place = match kind {
                "missing" if confirmed => &mut differences.missing,
                "different" if confirmed => &mut differences.different,
                "extra" if confirmed => &mut differences.extra,
                _ => &mut differences.still_changing,
            };
            *place += count.unsigned_abs();
        }
        let some = "SELECT kind, id FROM (SELECT kind, id, row_number() OVER (PARTITION BY kind ORDER BY id) AS n \
                    FROM pg_temp.users_sync_differing WHERE confirmed) d WHERE n <= $1 ORDER BY kind, id";
        let rows = self.transaction.query_typed(some, &[(&examples, Type::INT8)]).await?;
        let user = |row: &Row| Ok(DifferingUser { kind: row.try_get(0)?, id: row.try_get(1)? });
        differences.examples = rows.iter().map(user).collect::<Result<_, tokio_postgres::Error>>()?;
        self.add_unstaged(&mut differences, examples).await?;
        let rows = self.rows;
        self.transaction.rollback().await?;
        Ok((rows, differences))
    }
}
