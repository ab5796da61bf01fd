//! Loads a snapshot into a target: rows and checkpoint in one transaction, so that any failure leaves the
//! target unchanged.

use super::copy_binary::{HEADER, TRAILER, write_user};
use super::isolate::IsolatedLoad;
use super::kept::{self, Known};
use super::loading::Loading;
use super::outcome::{LoadError, Loaded};
use super::progress_watch::ProgressWatch;
use super::spool::RowReceiver;
use crate::apply::statement::Merge;
use crate::apply::{
    MAX_REJECTED, NOTIFY_WITHOUT_ID, Refusal, RefusedUser, Shape, Target, TargetError, count_skipped, may_skip,
    statement, write_rejected,
};
use crate::model::Deletes;
use crate::pg::NO_TRANSACTION_TIMEOUT;
use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use tokio_postgres::Transaction;
use tokio_postgres::types::{PgLsn, ToSql, Type};

/// Size of a COPY message: large enough that its header does not matter.
const COPY_BYTES: usize = 128 << 10;
/// Rows that one statement of a merge goes through: a large merge shows progress, however long it takes as a whole.
const MERGE_PART: u64 = 100_000;

/// The target's [`RowReceiver::mark`]; null without rows.
const MARK: &str = "\
SELECT bit_xor(('x' || encode(substr(sha256(convert_to(id, 'UTF8')), 1, 8), 'hex'))::bit(64)::int8) \
FROM neon_auth.users_sync";

/// Loads the rows of a snapshot. An empty
/// table is copied into directly; otherwise the rows are staged and merged.
pub(crate) async fn load(
    target: &mut Target,
    loading: &Loading<'_>,
    rows: &mut RowReceiver,
) -> Result<Loaded, LoadError> {
    let watch = ProgressWatch::new(loading.park_after);
    watch.bound(load_watched(target, loading, rows, &watch)).await
}

async fn load_watched(
    target: &mut Target,
    loading: &Loading<'_>,
    rows: &mut RowReceiver,
    watch: &ProgressWatch,
) -> Result<Loaded, LoadError> {
    let (shape, notifies, key) = (target.shape().clone(), target.notifies(), target.key().cloned());
    let repertoire = target.repertoire();
    let transaction = target.client_to_load().transaction().await?;
    transaction
        .batch_execute(&format!(
            // A lock may be held forever in the target, and meanwhile the source retains its log for us.
            "SET LOCAL synchronous_commit = on; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'; \
             SET LOCAL idle_in_transaction_session_timeout = '60s'; SET LOCAL plan_cache_mode = auto; {NO_TRANSACTION_TIMEOUT}"
        ))
        .await?;
    // A superseded process must neither wait here forever nor win.
    transaction.query_typed_opt("SELECT FROM users_sync.checkpoint FOR UPDATE", &[]).await?;
    if let Some(found) = loading.adoption.as_ref().and_then(|adoption| adoption.replaces.as_ref()) {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] =
            [(&found.target_id.as_str(), Type::TEXT), (&found.epoch.0, Type::INT8)];
        if transaction.execute_typed(statement::REMOVE_CHECKPOINT, &parameters).await? != 1 {
            return Err(LoadError::Fenced);
        }
    }
    let row = transaction.query_typed_one(statement::HAS_ROWS, &[]).await?;
    // It cannot be enabled later in this transaction, which has locked the table.
    if let Some(role) = row.try_get(2)? {
        return Err(TargetError::RowSecurity(role).into());
    }
    let empty = !row.try_get::<_, bool>(0)?;
    if loading.isolates_rejected_rows {
        transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    }
    let mut loaded = if loading.isolates_rejected_rows {
        IsolatedLoad { transaction: &transaction, loading, shape: &shape, watch }.load(rows).await?
    } else if empty {
        let columns: Vec<&str> = shape.writable().collect();
        let may_skip: bool = transaction.query_typed_one(&may_skip(), &[]).await?.try_get(0)?;
        rows.compute_mark(may_skip);
        let read = match copy(&transaction, "neon_auth.users_sync", &columns, rows, watch).await {
            // A trigger skips rows: they have to be found.
            Err(LoadError::Count { sent, counted }) if sent > counted => {
                return Err(TargetError::Skipped((sent - counted) as i64).into());
            }
            copied => copied?,
        };
        if let Some(mark) = rows.mark() {
            let stored: Option<i64> = transaction.query_typed_one(MARK, &[]).await?.try_get(0)?;
            watch.progressed();
            if stored.unwrap_or_default() != mark {
                return Err(TargetError::Strayed(1).into());
            }
        }
        Loaded { read, inserted: read, ..Loaded::default() }
    } else {
        transaction.batch_execute(statement::CREATE_STAGE).await?;
        let read = copy(&transaction, "pg_temp.users_sync_stage", &statement::STAGE_COLUMNS, rows, watch).await?;
        transaction.batch_execute("ANALYZE pg_temp.users_sync_stage").await?;
        watch.progressed();
        let counted: i64 =
            transaction.query_typed_one("SELECT count(*) FROM pg_temp.users_sync_stage", &[]).await?.try_get(0)?;
        if counted.unsigned_abs() != read {
            return Err(LoadError::Count { sent: read, counted: counted.unsigned_abs() });
        }
        kept::spare(&transaction, loading, Known::Stage).await?;
        let merged = merge(&transaction, loading, &shape, read, watch).await?;
        kept::remember_marked(&transaction, loading, Known::Stage).await?;
        merged
    };
    watch.progressed();
    let unmappable = rows.take_unmappable().into_iter();
    loaded.rejected.extend(unmappable.map(|(id, why)| RefusedUser { id, refusal: Refusal::unmappable(&why) }));
    if let Some(first) = loaded.rejected.first().filter(|_| loaded.rejected.len() > MAX_REJECTED) {
        return Err(TargetError::too_many_refused(&first.refusal.reason).into());
    }
    // The load has tried all refused users again.
    transaction.execute_typed("DELETE FROM users_sync.rejected", &[]).await?;
    write_rejected(&transaction, repertoire, &loaded.rejected, &[]).await?;
    let who = loading.who;
    let checkpoint = who.checkpoint(loading.position, key.as_ref());
    let (tenant, target_id, position) = (who.tenant.as_str(), who.target_id.as_str(), PgLsn::from(loading.position.0));
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
        (&tenant, Type::TEXT),
        (&target_id, Type::TEXT),
        (&who.generation.0, Type::INT8),
        (&who.epoch.0, Type::INT8),
        (&position, Type::PG_LSN),
        (&who.mapping, Type::TEXT),
    ];
    if checkpoint.mac.is_some() {
        parameters.push((&checkpoint.mac, Type::BYTEA));
    }
    let replace = statement::replace_checkpoint(checkpoint.mac.is_some());
    if transaction.execute_typed(&replace, &parameters).await? != 1 {
        return Err(LoadError::Fenced);
    }
    if notifies && loaded.inserted + loaded.updated + loaded.deleted > 0 {
        transaction.batch_execute(NOTIFY_WITHOUT_ID).await?;
    }
    watch.progressed();
    transaction.commit().await?;
    Ok(loaded)
}

async fn merge(
    transaction: &Transaction<'_>,
    loading: &Loading<'_>,
    shape: &Shape,
    read: u64,
    watch: &ProgressWatch,
) -> Result<Loaded, LoadError> {
    let row = transaction.query_typed_one(statement::COUNT_ABSENT, &[]).await?;
    let (live, absent) = (row.try_get::<_, i64>(0)?.unsigned_abs(), row.try_get::<_, i64>(1)?.unsigned_abs());
    let allowed = loading.max_deletes.map_or(live, |limit| limit.allowed(live, read, loading.deletes));
    if absent > allowed {
        return Err(LoadError::TooManyDeletes { absent, live, allowed });
    }
    let (absent, missing) = (row.try_get::<_, i64>(2)?.unsigned_abs(), row.try_get::<_, i64>(3)?.unsigned_abs());
    watch.progressed();
    let merging = Merging { transaction, shape, deletes: loading.deletes, watch };
    let merged = merging.merge(read, absent, missing).await?;
    let left: i64 = transaction.query_typed_one(&count_skipped(shape), &[]).await?.try_get(0)?;
    watch.progressed();
    if left > 0 {
        return Err(TargetError::Skipped(left).into());
    }
    Ok(Loaded { read, ..merged })
}

/// A merge without refused rows.
struct Merging<'a> {
    transaction: &'a Transaction<'a>,
    shape: &'a Shape,
    deletes: Deletes,
    watch: &'a ProgressWatch,
}

impl Merging<'_> {
    /// Merges the stage of `read` rows: deletes, then updates, then inserts, as in a batch. Each statement is a join of two
    /// wide tables, so it is skipped if it cannot find anything.
    async fn merge(&self, read: u64, absent: u64, missing: u64) -> Result<Loaded, tokio_postgres::Error> {
        let in_parts = read > MERGE_PART;
        if in_parts {
            self.transaction.batch_execute(statement::INDEX_STAGE).await?;
            self.watch.progressed();
        }
        let Merge { update, insert } =
            statement::merge_statements(self.shape, if in_parts { statement::PART_OF_STAGE } else { "" });
        let deleted = match absent {
            0 => 0,
            1..=MERGE_PART => self.run(statement::delete_absent(self.deletes), absent).await?,
            _ => {
                self.transaction.batch_execute(&statement::create_absent(self.deletes)).await?;
                self.watch.progressed();
                self.run(statement::delete_part_of_absent(self.deletes), absent).await?
            }
        };
        let updated = self.run(&update, read).await?;
        let inserted = if missing > 0 { self.run(&insert, read).await? } else { 0 };
        Ok(Loaded { inserted, updated, deleted, ..Loaded::default() })
    }

    /// Runs a statement over `rows` rows, in parts if there are more than [`MERGE_PART`].
    async fn run(&self, sql: &str, rows: u64) -> Result<u64, tokio_postgres::Error> {
        if rows <= MERGE_PART {
            let written = self.transaction.execute_typed(sql, &[]).await?;
            self.watch.progressed();
            return Ok(written);
        }
        let mut written = 0;
        for from in (0..rows).step_by(MERGE_PART as usize) {
            let bounds = [from as i64, (from + MERGE_PART) as i64];
            written +=
                self.transaction.execute_typed(sql, &[(&bounds[0], Type::INT8), (&bounds[1], Type::INT8)]).await?;
            self.watch.progressed();
        }
        Ok(written)
    }
}

/// Copies all rows. Returns their number as counted by the target.
pub(super) async fn copy(
    transaction: &Transaction<'_>,
    table: &str,
    columns: &[&str],
    rows: &mut RowReceiver,
    watch: &ProgressWatch,
) -> Result<u64, LoadError> {
    let sink =
        transaction.copy_in(&format!("COPY {table} ({}) FROM STDIN (FORMAT binary)", columns.join(", "))).await?;
    pin_mut!(sink);
    let mut sent = 0;
    // A stage also has the users whose rows cannot be mapped, so that they do not look absent.
    let is_stage = columns == statement::STAGE_COLUMNS;
    let mut buffer = Vec::with_capacity(COPY_BYTES + 4096);
    buffer.extend_from_slice(HEADER);
    loop {
        // Dropping an unfinished sink makes the target's COPY fail.
        let Some(mut users) = watch.pause(rows.next()).await? else { break };
        if !is_stage {
            users.retain(|user| user.why_unmappable().is_none());
        }
        sent += users.len() as u64;
        for user in &users {
            write_user(&mut buffer, columns, user);
            if buffer.len() >= COPY_BYTES {
                let full = std::mem::replace(&mut buffer, Vec::with_capacity(COPY_BYTES + 4096));
                sink.send(Bytes::from(full)).await?;
                watch.progressed();
            }
        }
    }
    buffer.extend_from_slice(TRAILER);
    sink.send(Bytes::from(buffer)).await?;
    watch.progressed();
    let counted = sink.finish().await?;
    if counted == sent { Ok(counted) } else { Err(LoadError::Count { sent, counted }) }
}
