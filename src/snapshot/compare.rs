//! Compares a target with the source's rows, with the conditions of a merge. Changes nothing in the target:
//! it uses temporary tables in a transaction that is rolled back.

use super::load::copy;
use super::outcome::LoadError;
use super::progress_watch::ProgressWatch;
use super::spool::RowReceiver;
use crate::apply::{Shape, read_checkpoint, read_shape, statement};
use crate::model::{Deletes, Lsn, User};
use crate::pg::NO_TRANSACTION_TIMEOUT;
use crate::pg::TargetClient;
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
    /// Some of them.
    pub examples: Vec<DifferingUser>,
    /// Users that changed during every recheck.
    pub still_changing: u64,
}

impl<'a> Comparison<'a> {
    /// Starts a comparison. Needs the right to create temporary tables, as a resync does.
    pub(crate) async fn begin(
        client: &'a mut TargetClient,
        deletes: Deletes,
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
        Ok(Comparison { transaction, shape, deletes, rows: 0, watch })
    }

    /// Stages the source's rows.
    pub(crate) async fn stage(&mut self, rows: &mut RowReceiver) -> Result<(), LoadError> {
        self.rows = copy(&self.transaction, STAGE, &statement::STAGE_COLUMNS, rows, self.watch).await?;
        Ok(self.transaction.batch_execute("ANALYZE pg_temp.users_sync_stage").await?)
    }

    /// Number of rows at the source.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// The target's current position.
    pub(crate) async fn position(&self) -> Result<Lsn, LoadError> {
        let checkpoint = read_checkpoint(&self.transaction).await?;
        Ok(checkpoint.map_or(Lsn::ZERO, |checkpoint| checkpoint.position))
    }

    /// Finds the users that differ now.
    pub(crate) async fn find_differences(&self) -> Result<(), LoadError> {
        let sql = format!(
            "INSERT INTO pg_temp.users_sync_differing (id, kind) SELECT id, kind FROM \
               (SELECT coalesce(v.id, u.id) AS id, {} AS kind FROM {STAGE} v FULL JOIN neon_auth.users_sync u ON u.id = v.id) d \
             WHERE kind IS NOT NULL",
            self.kind()
        );
        self.transaction.execute_typed(&sql, &[]).await?;
        Ok(())
    }

    /// Compares the unconfirmed users again, and drops those that do not differ any more.
    pub(crate) async fn recheck(&self) -> Result<(), LoadError> {
        let again = format!(
            "UPDATE pg_temp.users_sync_differing d SET kind = {} FROM pg_temp.users_sync_differing o \
               LEFT JOIN {STAGE} v ON v.id = o.id LEFT JOIN neon_auth.users_sync u ON u.id = o.id \
             WHERE d.id = o.id AND NOT d.confirmed",
            self.kind()
        );
        self.transaction.execute_typed(&again, &[]).await?;
        self.transaction.execute_typed("DELETE FROM pg_temp.users_sync_differing WHERE kind IS NULL", &[]).await?;
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
    pub(crate) async fn confirm(&self, ids: &[String], now: Vec<User>) -> Result<(), LoadError> {
        let mut rows = RowReceiver::of(now);
        copy(&self.transaction, RECHECK_STAGE, &statement::STAGE_COLUMNS, &mut rows, self.watch).await?;
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

    /// Ends the comparison. Returns at most `examples` ids of each kind.
    pub(crate) async fn outcome(self, examples: i64) -> Result<Differences, LoadError> {
        let mut differences = Differences::default();
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
        self.transaction.rollback().await?;
        Ok(differences)
    }
}
