//! `users_sync.rejected`: the users that a target refuses, each with the reason.

use super::refusal::{Refusal, RefusedUser};
use super::statement;
use super::target::{Target, TargetError};
use crate::model::UserId;
use crate::pg::Statements;
use tokio_postgres::types::Type;

/// A tenant with more refused users than this is parked: the cause is not in single rows.
pub(crate) const MAX_REJECTED: usize = 10_000;

impl Target {
    /// The ids in `users_sync.rejected`, at most [`MAX_REJECTED`]. An id of more than 1000 characters is cut, so
    /// the record of that user stays when its row is accepted.
    pub(crate) async fn read_rejected(&mut self) -> Result<Vec<UserId>, TargetError> {
        let sql = "SELECT left(id::text, 1000) FROM users_sync.rejected LIMIT $1";
        let limit = i64::try_from(MAX_REJECTED).unwrap_or(i64::MAX);
        let rows = self.client_mut().query_typed(sql, &[(&limit, Type::INT8)]).await?;
        Ok(rows.iter().map(|row| row.try_get::<_, &str>(0).map(Into::into)).collect::<Result<_, _>>()?)
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
        Ok(write_rejected(self.client_mut(), refused, accepted).await?)
    }
}

/// Like [`Target::write_rejected`], on any connection.
pub(crate) async fn write_rejected(
    client: &impl Statements,
    refused: &[RefusedUser],
    accepted: &[&str],
) -> Result<(), tokio_postgres::Error> {
    if !accepted.is_empty() {
        client.execute_typed(statement::DELETE_ACCEPTED, &[(&accepted, Type::TEXT_ARRAY)]).await?;
    }
    if !refused.is_empty() {
        let ids: Vec<&str> = refused.iter().map(|user| &*user.id).collect();
        let reasons: Vec<String> = refused.iter().map(|user| reason(&user.refusal)).collect();
        let codes: Vec<&str> = refused.iter().map(|user| &*user.refusal.sqlstate).collect();
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&ids, Type::TEXT_ARRAY), (&reasons, Type::TEXT_ARRAY), (&codes, Type::TEXT_ARRAY)];
        client.execute_typed(statement::INSERT_REJECTED, &parameters).await?;
    }
    Ok(())
}

fn reason(refusal: &Refusal) -> String {
    match &refusal.constraint {
        Some(constraint) => format!("{} (constraint {constraint})", refusal.message),
        None => refusal.message.clone(),
    }
}
