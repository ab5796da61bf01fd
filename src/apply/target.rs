//! The connection to a tenant's target, and the transactions on it.

use super::assessment::ObservedTarget;
use super::batch::{Parts, STRAYED, batch_statement};
use super::batch_statements::BatchStatements;
use super::checkpoint::Checkpoint;
use super::columns::RowParameters;
use super::notify::{ADVANCE_QUEUE, MAX_NOTIFIED_USERS, Notify};
use super::plan::{Move, Rows};
use super::read_checkpoint::{has_mac, provide_mac, read_checkpoint_with};
use super::refusal::Refusal;
use super::reject_reason::{RejectReason, too_many_refused};
use super::rejected_table;
use super::shape::{Shape, ShapeError, TableColumn};
use super::statement;
use super::stored_id::Repertoire;
use super::wait;
use crate::model::{CheckpointKey, Deletes, Epoch, Generation, Lsn, Oid, TargetId, TenantId};
use crate::pg::{GuardError, NO_TRANSACTION_TIMEOUT, Statements, TargetClient, create_schema, describe, is_time_limit};
use std::sync::{Arc, OnceLock};
use tokio::join;
use tokio_postgres::error::Severity;
use tokio_postgres::types::{PgLsn, ToSql, Type};

/// Time limit for a chunked transaction whose process is frozen. The process's kernel keeps the connection
/// open, so its locks would stay.
const OPEN_TRANSACTION_TIMEOUT: &str = "60s";

/// Why an operation on a target failed.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The database refused, or the connection was lost.
    #[error("{}", describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// Something else has the name of a table.
    #[error("{0} is not a plain table")]
    NotATable(&'static str),
    /// Row security was enabled.
    #[error("row security would hide rows of neon_auth.users_sync from role {0}")]
    RowSecurity(String),
    /// `neon_auth.users_sync` has an unexpected shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Rows of a chunk were not written, without an error.
    #[error("a trigger skips {0} rows")]
    Skipped(i64),
    /// Rows of a chunk were written with another id.
    #[error("a trigger changes the ids of {0} rows")]
    Strayed(i64),
    /// More users are refused than may be left out.
    #[error("{reason}")]
    TooManyRefused {
        /// The limit, and why one of them is refused.
        reason: String,
        /// How to fix it.
        remedy: String,
    },
    /// The table of refused users is of an earlier version.
    #[error("users_sync.rejected has no key id_hash, and it cannot be added: {0}")]
    RejectedTable(String),
}

impl TargetError {
    pub(crate) fn too_many_refused(first: &RejectReason) -> TargetError {
        TargetError::TooManyRefused { reason: too_many_refused(first), remedy: first.remedy() }
    }

    /// The error in a count of rows that were not written, as a chunk's statement returns it.
    pub(super) fn of_count(skipped: i64) -> Result<(), TargetError> {
        match skipped {
            ..=0 => Ok(()),
            STRAYED.. => Err(TargetError::Strayed(skipped / STRAYED)),
            _ => Err(TargetError::Skipped(skipped)),
        }
    }

    /// Whether a time limit ended the statement, or the connection with it.
    pub(crate) fn is_too_slow(&self) -> bool {
        matches!(self, TargetError::Sql(error) if error.code().is_some_and(|code| is_time_limit(code.code())))
    }

    /// Whether the connection broke while the statement ran.
    pub(crate) fn is_lost(&self) -> bool {
        let TargetError::Sql(error) = self else { return false };
        error.as_db_error().is_none_or(|error| error.parsed_severity() == Some(Severity::Fatal))
    }

    /// Why the target refuses a row, if it does.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            TargetError::Sql(error) => Refusal::of(error),
            TargetError::Skipped(_) => Some(Refusal::skipped()),
            TargetError::Strayed(_) => Some(Refusal::strayed()),
            TargetError::NotATable(_)
            | TargetError::RowSecurity(_)
            | TargetError::Shape(_)
            | TargetError::TooManyRefused { .. }
            | TargetError::RejectedTable(_) => None,
        }
    }
}

/// The outcome of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Rows and checkpoint are committed; for a chunk, the rows are written.
    Yes,
    /// The checkpoint is not the expected one, or a row to patch is missing. Nothing was written.
    Refused,
}

/// The parts of a checkpoint that stay the same from batch to batch.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The target's tenant.
    pub tenant: TenantId,
    /// The target's id.
    pub target_id: TargetId,
    /// The current history.
    pub generation: Generation,
    /// The epoch of this process.
    pub epoch: Epoch,
    /// Fingerprint of the mapping that produced the target's rows.
    pub mapping: String,
}

impl Identity {
    /// The checkpoint that this process writes at a position, signed with `key`.
    pub fn checkpoint(&self, position: Lsn, key: Option<&CheckpointKey>) -> Checkpoint {
        let Identity { tenant, target_id, generation, epoch, mapping } = self.clone();
        let mut checkpoint = Checkpoint { tenant, target_id, generation, position, epoch, mapping, mac: None };
        checkpoint.mac = key.map(|key| checkpoint.sign(key));
        checkpoint
    }

    /// The condition of the guard (`GUARD_WHERE`) without the signature: whether a batch from `position` may be
    /// written.
    pub(crate) fn may_write(&self, checkpoint: &Checkpoint, position: Lsn) -> bool {
        checkpoint.tenant == self.tenant
            && checkpoint.target_id == self.target_id
            && checkpoint.generation == self.generation
            && checkpoint.epoch <= self.epoch
            && checkpoint.position == position
    }
}

/// An open connection to a target whose tables have been checked.
pub struct Target {
    client: TargetClient,
    /// Which characters the database can store.
    repertoire: Repertoire,
    shape: Shape,
    deletes: Deletes,
    /// Whether listeners are notified.
    notifies: bool,
    /// Users written by the open transaction.
    notified: usize,
    /// Why `users_sync.wait_for` could not be created.
    no_wait_for: Option<String>,
    /// Signs the checkpoint; `None` if its table has no column for that.
    key: Option<CheckpointKey>,
    /// Why that column could not be added.
    no_mac: Option<String>,
    /// The table's file.
    relation: Option<Oid>,
    is_replaced: bool,
    statements: BatchStatements,
}

impl Target {
    /// Opens a target and creates what is missing there.
    pub async fn open(
        client: TargetClient,
        deletes: Deletes,
        notifies: bool,
        key: &CheckpointKey,
    ) -> Result<(Target, ObservedTarget), TargetError> {
        // What is polled together is sent together: a target that has everything opens in two round trips.
        let (found, has_mac, has_id_hash, has_wait_for) = join!(
            find_tables(&client),
            has_mac(&client),
            rejected_table::has_id_hash(&client),
            wait::is_there(&client),
        );
        let FoundTables { has_checkpoint, has_users, has_rejected, encoding } = found?;
        let (has_mac, has_id_hash, has_wait_for) = (has_mac?, has_id_hash?, has_wait_for?);
        let repertoire = Repertoire::of_encoding(&encoding);
        if !has_checkpoint {
            create_schema(&client, "users_sync").await?;
            client.batch_execute(statement::CREATE_CHECKPOINT).await?;
        }
        let no_mac = if has_mac || !has_checkpoint { None } else { provide_mac(&client).await? };
        if !has_rejected {
            client.batch_execute(statement::CREATE_REJECTED).await?;
        } else if !has_id_hash && let Some(reason) = rejected_table::upgrade(&client).await? {
            return Err(TargetError::RejectedTable(reason));
        }
        if !has_users {
            create_schema(&client, "neon_auth").await?;
            client.batch_execute(&format!("{}; {}", statement::CREATE_TABLE, statement::CREATE_INDEX)).await?;
        }
        let no_wait_for = if has_wait_for { None } else { wait::create(&client).await? };
        if notifies {
            client.query_typed_one(ADVANCE_QUEUE, &[]).await?;
        }
        let (shape, row, checkpoint) = join!(
            read_shape(&client),
            client.query_typed_one(statement::HAS_ROWS, &[]),
            read_checkpoint_with(&client, no_mac.is_none()),
        );
        // Of several errors, the first of these is the one to fix first.
        let (shape, row) = (shape?, row?);
        let (has_rows, relation) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(role) = row.try_get(2)? {
            return Err(TargetError::RowSecurity(role));
        }
        let checkpoint = checkpoint?;
        let (notified, is_replaced) = (0, false);
        let key = no_mac.is_none().then(|| key.clone());
        let target = Target {
            client,
            repertoire,
            shape,
            deletes,
            notifies,
            notified,
            no_wait_for,
            key,
            no_mac,
            relation,
            is_replaced,
            statements: BatchStatements::new(),
        };
        Ok((target, ObservedTarget { checkpoint, created: !has_users, has_rows, relation }))
    }

    /// Reads the checkpoint.
    pub async fn checkpoint(&self) -> Result<Option<Checkpoint>, TargetError> {
        Ok(read_checkpoint_with(&self.client, self.key.is_some()).await?)
    }

    /// Writes rows and checkpoint in one statement: one transaction and one round trip.
    pub async fn apply(&mut self, who: &Identity, moving: Move, rows: &Rows<'_>) -> Result<Applied, TargetError> {
        let key = self.key.as_ref();
        let (before, after) = (who.checkpoint(moving.from, key), who.checkpoint(moving.to, key));
        let (tenant, target_id) = (who.tenant.as_str(), who.target_id.as_str());
        let (from, to) = (PgLsn::from(moving.from.0), PgLsn::from(moving.to.0));
        let expected = Guard { tenant, target_id, from, before: &before };
        let mut guard = expected.parameters();
        guard.push((&to, Type::PG_LSN));
        if after.mac.is_some() {
            guard.push((&after.mac, Type::BYTEA));
        }
        self.execute(&guard, rows, false).await
    }

    /// Opens a transaction for changes that are too large for one statement. Its first statement is the
    /// guard.
    pub async fn begin_chunks(&mut self, who: &Identity, from: Lsn) -> Result<Applied, TargetError> {
        // It cannot be asked within the transaction.
        self.client.keeps_statements().await?;
        self.client
            .begin(&format!(
                "SET LOCAL idle_in_transaction_session_timeout = '{OPEN_TRANSACTION_TIMEOUT}'; \
                 SET LOCAL synchronous_commit = on; {NO_TRANSACTION_TIMEOUT}"
            ))
            .await?;
        let before = who.checkpoint(from, self.key.as_ref());
        let (tenant, target_id) = (who.tenant.as_str(), who.target_id.as_str());
        let guard = Guard { tenant, target_id, from: PgLsn::from(from.0), before: &before };
        let locked =
            self.client.query_typed(&statement::lock_checkpoint(before.mac.is_some()), &guard.parameters()).await?;
        if locked.is_empty() {
            self.client.rollback().await?;
            return Ok(Applied::Refused);
        }
        self.notified = 0;
        Ok(Applied::Yes)
    }

    /// Writes the rows of a chunk in the open transaction.
    pub async fn apply_chunk(&mut self, rows: &Rows<'_>) -> Result<Applied, TargetError> {
        if rows.is_empty() {
            return Ok(Applied::Yes);
        }
        self.execute(&[], rows, true).await
    }

    /// Moves the checkpoint and commits the open transaction. If the connection is lost here, only the
    /// checkpoint shows whether it was committed.
    pub async fn commit_chunks(&mut self, who: &Identity, moving: Move) -> Result<Applied, TargetError> {
        let moved = self.apply(who, moving, &Rows::default()).await?;
        match moved {
            Applied::Yes => self.client.commit().await?,
            Applied::Refused => self.client.rollback().await?,
        }
        Ok(moved)
    }

    /// Rolls back the open transaction.
    pub async fn rollback(&mut self) -> Result<(), TargetError> {
        Ok(self.client.rollback().await?)
    }

    /// The file of `users_sync` when the target was opened.
    pub(crate) fn relation(&self) -> Option<Oid> {
        self.relation
    }

    /// Whether the last write went into another file: the table was emptied or replaced in the meantime.
    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced
    }

    /// Why `users_sync.wait_for` could not be created; `None` if it exists.
    pub(crate) fn no_wait_for(&self) -> Option<&str> {
        self.no_wait_for.as_deref()
    }

    /// Signs the checkpoint; `None` if the target has no column for that.
    pub(crate) fn key(&self) -> Option<&CheckpointKey> {
        self.key.as_ref()
    }

    /// Why the column of the signature could not be added; `None` if it exists.
    pub(crate) fn no_mac(&self) -> Option<&str> {
        self.no_mac.as_deref()
    }

    /// Whether listeners are notified.
    pub(crate) fn notifies(&self) -> bool {
        self.notifies
    }

    /// What the server sent that ended the connection, once it has.
    pub(crate) fn refused(&self) -> Arc<OnceLock<GuardError>> {
        self.client.refused()
    }

    /// Which characters the database can store.
    pub(crate) fn repertoire(&self) -> Repertoire {
        self.repertoire
    }

    /// The shape of `users_sync` in this target.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What is done with deleted users.
    pub(crate) fn deletes(&self) -> Deletes {
        self.deletes
    }

    /// Counts `rows` rows as written by the open transaction. Returns what their statement sends to listeners.
    pub(super) fn notify_more(&mut self, rows: usize) -> Notify {
        self.notified += rows;
        self.notify(rows)
    }

    /// What a statement with `rows` rows sends to listeners.
    fn notify(&self, rows: usize) -> Notify {
        match self.notified {
            _ if !self.notifies || rows == 0 => Notify::Off,
            ..=MAX_NOTIFIED_USERS => Notify::EachUser,
            _ => Notify::WithoutId,
        }
    }

    /// The connection, for the transaction of a snapshot. The table may have another size after it.
    pub(crate) fn client_to_load(&mut self) -> &mut TargetClient {
        self.statements.forget();
        &mut self.client
    }

    /// The connection, for other statements.
    pub(crate) fn client_mut(&mut self) -> &mut TargetClient {
        &mut self.client
    }

    async fn execute(
        &mut self,
        guard: &[(&(dyn ToSql + Sync), Type)],
        rows: &Rows<'_>,
        chunk: bool,
    ) -> Result<Applied, TargetError> {
        self.notified = rows.len() + if chunk { self.notified } else { 0 };
        let parts = Parts::of(rows, chunk, self.key.is_some(), self.notify(rows.len()));
        let (shape, deletes) = (&self.shape, self.deletes);
        let statement = self.statements.next(parts, rows.len(), || batch_statement(shape, deletes, parts));
        let arrays = RowParameters::of(rows);
        let mut parameters = guard.to_vec();
        arrays.append_to(&mut parameters);
        let answer = self.client.query_repeated(statement, &parameters).await?;
        let (guarded, relation, skipped): (i64, Option<Oid>, i64) = match answer.first() {
            Some(row) => (row.try_get(0)?, row.try_get(1)?, row.try_get(3)?),
            None => (0, None, 0),
        };
        self.is_replaced |= relation != self.relation;
        TargetError::of_count(skipped)?;
        Ok(if guarded == 1 { Applied::Yes } else { Applied::Refused })
    }
}

/// The checkpoint that a write expects.
struct Guard<'a> {
    tenant: &'a str,
    target_id: &'a str,
    from: PgLsn,
    before: &'a Checkpoint,
}

impl Guard<'_> {
    /// The parameters of [`statement::lock_checkpoint`].
    fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let Checkpoint { generation, epoch, mapping, mac, .. } = self.before;
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&self.tenant, Type::TEXT),
            (&self.target_id, Type::TEXT),
            (&generation.0, Type::INT8),
            (&epoch.0, Type::INT8),
            (&self.from, Type::PG_LSN),
        ];
        if mac.is_some() {
            parameters.extend([(mac as &(dyn ToSql + Sync), Type::BYTEA), (mapping, Type::TEXT)]);
        }
        parameters
    }
}

/// Which of the tables a target has.
pub(super) struct FoundTables {
    pub(super) has_checkpoint: bool,
    pub(super) has_users: bool,
    has_rejected: bool,
    /// The encoding of the database.
    encoding: String,
}

/// Finds the tables. A view or another object in the place of one is an error: it cannot hold what is written.
pub(super) async fn find_tables(client: &impl Statements) -> Result<FoundTables, TargetError> {
    let row = client.query_typed_one(statement::FIND_TABLES, &[]).await?;
    let is_there = |column: usize, name| match row.try_get::<_, Option<&str>>(column)? {
        None => Ok(false),
        Some("r") => Ok(true),
        Some(_) => Err(TargetError::NotATable(name)),
    };
    Ok(FoundTables {
        has_checkpoint: is_there(0, "users_sync.checkpoint")?,
        has_users: is_there(1, "neon_auth.users_sync")?,
        has_rejected: is_there(2, "users_sync.rejected")?,
        encoding: row.try_get(3)?,
    })
}

/// Reads the columns of `users_sync` and checks them.
pub(crate) async fn read_shape(client: &impl Statements) -> Result<Shape, TargetError> {
    let rows = client.query_typed(statement::COLUMNS_OF_USERS, &[]).await?;
    let columns = rows.iter().map(TableColumn::read).collect::<Result<Vec<_>, _>>()?;
    Ok(Shape::from_columns(&columns)?)
}
