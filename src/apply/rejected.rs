//! `users_sync.rejected`: the users that a target refuses, each with the reason.

use super::refusal::{RefusedUser, is_conflict};
use super::reject_reason::MAX_REJECTED;
use super::rejected_table::has_id_hash;
use super::statement;
use super::stored_id::Repertoire;
use super::target::{Target, TargetError};
use crate::model::{IdHash, UserId};
use crate::pg::Statements;
use std::collections::{BTreeMap, HashSet};
use tokio_postgres::types::Type;

/// A row of `users_sync.rejected`.
pub(crate) struct RecordedUser {
    pub(crate) key: IdHash,
    /// `None` for an id that is too long to be tried again, or that the target's encoding cannot express.
    pub(crate) id: Option<UserId>,
    /// Another user's row stands in the way.
    pub(crate) is_conflict: bool,
}

impl Target {
    /// The users in `users_sync.rejected`, at most [`MAX_REJECTED`].
    pub(crate) async fn read_rejected(&mut self) -> Result<Vec<RecordedUser>, TargetError> {
        let limit = i64::try_from(MAX_REJECTED).unwrap_or(i64::MAX);
        let rows = self.client_mut().query_typed(statement::READ_REJECTED, &[(&limit, Type::INT8)]).await?;
        let user = |row: &tokio_postgres::Row| {
            let Some(key) = row.try_get::<_, Option<&[u8]>>(0)?.and_then(IdHash::from_stored) else { return Ok(None) };
            let id = row.try_get::<_, Option<&str>>(1)?.filter(|id| IdHash::of(id) == key).map(UserId::from);
            let is_conflict = row.try_get::<_, Option<&str>>(2)?.is_some_and(is_conflict);
            Ok(Some(RecordedUser { key, id, is_conflict }))
        };
        rows.iter().map(user).filter_map(Result::transpose).collect()
    }

    /// Makes deferred constraints fail in the statement that violates them. At the commit it would be unknown
    /// which row is at fault.
    pub(crate) async fn check_constraints_immediately(&mut self) -> Result<(), TargetError> {
        Ok(self.client_mut().batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?)
    }

    /// Sets the savepoint that [`Target::roll_back_to_savepoint`] returns to.
    pub(crate) async fn set_savepoint(&mut self) -> Result<(), TargetError> {
        Ok(self.client_mut().batch_execute(statement::SAVEPOINT).await?)
    }

    /// Rolls back to the savepoint, which stays.
    pub(crate) async fn roll_back_to_savepoint(&mut self) -> Result<(), TargetError> {
        Ok(self.client_mut().batch_execute(statement::ROLLBACK_TO_SAVEPOINT).await?)
    }

    /// Adds refused users to `users_sync.rejected` and removes accepted ones, in the open transaction.
    pub(crate) async fn write_rejected(
        &mut self,
        refused: &[RefusedUser],
        accepted: &[&str],
    ) -> Result<(), TargetError> {
        let repertoire = self.repertoire();
        Ok(write_rejected(self.client_mut(), repertoire, refused, accepted).await?)
    }
}

/// The keys of the users in `users_sync.rejected`, at most [`MAX_REJECTED`]; none without a table of this version.
pub(crate) async fn read_rejected_keys(client: &impl Statements) -> Result<HashSet<IdHash>, tokio_postgres::Error> {
    if !has_id_hash(client).await? {
        return Ok(HashSet::new());
    }
    let limit = i64::try_from(MAX_REJECTED).unwrap_or(i64::MAX);
    let rows = client.query_typed(statement::READ_REJECTED_KEYS, &[(&limit, Type::INT8)]).await?;
    let key = |row: &tokio_postgres::Row| Ok(row.try_get::<_, Option<&[u8]>>(0)?.and_then(IdHash::from_stored));
    rows.iter().map(key).filter_map(Result::transpose).collect()
}

/// Like [`Target::write_rejected`], on any connection.
pub(crate) async fn write_rejected(
    client: &impl Statements,
    repertoire: Repertoire,
    refused: &[RefusedUser],
    accepted: &[&str],
) -> Result<(), tokio_postgres::Error> {
    if !accepted.is_empty() {
        let keys: Vec<IdHash> = accepted.iter().map(|id| IdHash::of(id)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(IdHash::as_bytes).collect();
        client.execute_typed(statement::DELETE_ACCEPTED, &[(&keys, Type::BYTEA_ARRAY)]).await?;
    }
    if !refused.is_empty() {
        // A statement may write a row only once.
        let refused: BTreeMap<IdHash, &RefusedUser> = refused.iter().map(|user| (IdHash::of(&user.id), user)).collect();
        let keys: Vec<&[u8]> = refused.keys().map(IdHash::as_bytes).collect();
        let ids: Vec<_> = refused.values().map(|user| repertoire.stored_id(&user.id)).collect();
        let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
        let reasons: Vec<String> = refused.values().map(|user| user.refusal.reason.to_string()).collect();
        let codes: Vec<&str> = refused.values().map(|user| &*user.refusal.sqlstate).collect();
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] = [
            (&keys, Type::BYTEA_ARRAY),
            (&ids, Type::TEXT_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&codes, Type::TEXT_ARRAY),
        ];
        client.execute_typed(statement::INSERT_REJECTED, &parameters).await?;
    }
    Ok(())
}
