//! Loads a snapshot into a target: rows and checkpoint in one transaction, so that any failure leaves the
//! target unchanged.

use super::copy_text::write_user;
use super::isolate::isolate_rejected;
use super::outcome::{LoadError, Loaded};
use crate::apply::statement::Merge;
use crate::apply::{
    Identity, MAX_REJECTED, NOTIFY_WITHOUT_ID, Refusal, Shape, Target, TargetError, statement, write_rejected,
};
use crate::config::MaxDeletes;
use crate::model::{Deletes, Lsn, User};
use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use tokio::sync::mpsc;
use tokio_postgres::Transaction;
use tokio_postgres::types::{PgLsn, ToSql, Type};

/// Size of a COPY message: large enough that its header does not matter.
const COPY_BYTES: usize = 128 << 10;

/// The parameters of a load.
pub(crate) struct Loading<'a> {
    /// The writer, for the checkpoint.
    pub(crate) who: &'a Identity,
    /// The snapshot's position.
    pub(crate) position: Lsn,
    /// What is done with users that the snapshot does not have.
    pub(crate) deletes: Deletes,
    /// The limit for deleting such users.
    pub(crate) max_deletes: MaxDeletes,
    /// Whether rows that the target refuses are left out one by one. This needs a stage even if the target is
    /// empty.
    pub(crate) isolates_rejected_rows: bool,
}

/// Loads the rows of a snapshot until `None`; a channel that closes without it was interrupted. An empty
/// table is copied into directly; otherwise the rows are staged and merged.
pub(crate) async fn load(
    target: &mut Target,
    loading: &Loading<'_>,
    rows: &mut mpsc::Receiver<Option<Vec<User>>>,
) -> Result<Loaded, LoadError> {
    let (shape, notifies, key) = (target.shape().clone(), target.notifies(), target.key().cloned());
    let transaction = target.client_mut().transaction().await?;
    transaction
        .batch_execute(
            // A lock may be held forever in the target, and meanwhile the source retains its log for us.
            "SET LOCAL synchronous_commit = on; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'; \
             SET LOCAL idle_in_transaction_session_timeout = '60s'",
        )
        .await?;
    // A superseded process must neither wait here forever nor win.
    transaction.query_typed_opt("SELECT FROM users_sync.checkpoint FOR UPDATE", &[]).await?;
    let row = transaction.query_typed_one(statement::HAS_ROWS, &[]).await?;
    // It cannot be enabled later in this transaction, which has locked the table.
    if let Some(role) = row.try_get(2)? {
        return Err(TargetError::RowSecurity(role).into());
    }
    let empty = !row.try_get::<_, bool>(0)?;
    if loading.isolates_rejected_rows {
        transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    }
    let loaded = if empty && !loading.isolates_rejected_rows {
        let columns: Vec<&str> = shape.writable().collect();
        let read = copy(&transaction, "neon_auth.users_sync", &columns, rows).await?;
        Loaded { read, inserted: read, ..Loaded::default() }
    } else {
        transaction.batch_execute(statement::CREATE_STAGE).await?;
        let read = copy(&transaction, "pg_temp.users_sync_stage", &statement::STAGE_COLUMNS, rows).await?;
        transaction.batch_execute("ANALYZE pg_temp.users_sync_stage").await?;
        let counted: i64 =
            transaction.query_typed_one("SELECT count(*) FROM pg_temp.users_sync_stage", &[]).await?.try_get(0)?;
        if counted.unsigned_abs() != read {
            return Err(LoadError::Count { sent: read, counted: counted.unsigned_abs() });
        }
        merge(&transaction, loading, &shape, read).await?
    };
    // The load has tried all refused users again.
    transaction.execute_typed("DELETE FROM users_sync.rejected", &[]).await?;
    write_rejected(&transaction, &loaded.rejected, &[]).await?;
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
    transaction.commit().await?;
    Ok(loaded)
}

async fn merge(
    transaction: &Transaction<'_>,
    loading: &Loading<'_>,
    shape: &Shape,
    read: u64,
) -> Result<Loaded, LoadError> {
    let row = transaction.query_typed_one(statement::COUNT_ABSENT, &[]).await?;
    let (live, absent) = (row.try_get::<_, i64>(0)?.unsigned_abs(), row.try_get::<_, i64>(1)?.unsigned_abs());
    let allowed = loading.max_deletes.allowed(live);
    if absent > allowed {
        return Err(LoadError::TooManyDeletes { absent, live, allowed });
    }
    transaction.batch_execute(statement::SAVEPOINT).await?;
    let (absent, missing): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
    match merge_at_once(transaction, loading.deletes, shape, absent > 0, missing > 0).await {
        Err(error) if Refusal::of(&error).is_some() => {
            transaction.batch_execute(statement::ROLLBACK_TO_SAVEPOINT).await?;
            let loaded = isolate_rejected(transaction, loading.deletes, shape, read).await?;
            match loaded.rejected.len() {
                ..=MAX_REJECTED => Ok(loaded),
                count => Err(LoadError::TooManyRefused { count }),
            }
        }
        merged => Ok(Loaded { read, ..merged? }),
    }
}

async fn merge_at_once(
    transaction: &Transaction<'_>,
    deletes: Deletes,
    shape: &Shape,
    any_absent: bool,
    any_missing: bool,
) -> Result<Loaded, tokio_postgres::Error> {
    let Merge { update, insert } = statement::merge_statements(shape, "");
    let updated = transaction.execute_typed(&update, &[]).await?;
    // Each is a join of two wide tables, so it is skipped if it cannot find anything.
    let inserted = if any_missing { transaction.execute_typed(&insert, &[]).await? } else { 0 };
    let delete = statement::delete_absent(deletes);
    let deleted = if any_absent { transaction.execute_typed(delete, &[]).await? } else { 0 };
    Ok(Loaded { inserted, updated, deleted, ..Loaded::default() })
}

/// Copies rows until `None`. Returns their number as counted by the target.
pub(super) async fn copy(
    transaction: &Transaction<'_>,
    table: &str,
    columns: &[&str],
    rows: &mut mpsc::Receiver<Option<Vec<User>>>,
) -> Result<u64, LoadError> {
    let sink = transaction.copy_in(&format!("COPY {table} ({}) FROM STDIN", columns.join(", "))).await?;
    pin_mut!(sink);
    let mut sent = 0;
    let mut buffer = Vec::with_capacity(COPY_BYTES + 4096);
    loop {
        // Dropping an unfinished sink makes the target's COPY fail.
        let users = rows.recv().await.ok_or(LoadError::BrokenOff)?;
        let Some(users) = users else { break };
        sent += users.len() as u64;
        for user in &users {
            write_user(&mut buffer, columns.iter().copied(), user);
            if buffer.len() >= COPY_BYTES {
                let full = std::mem::replace(&mut buffer, Vec::with_capacity(COPY_BYTES + 4096));
                sink.send(Bytes::from(full)).await?;
            }
        }
    }
    sink.send(Bytes::from(buffer)).await?;
    let counted = sink.finish().await?;
    if counted == sent { Ok(counted) } else { Err(LoadError::Count { sent, counted }) }
}
