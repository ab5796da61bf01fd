//! Observes a target without changing it, for `run --plan` and `check`.

use super::assessment::ObservedTarget;
use super::read_checkpoint::read_checkpoint;
use super::statement;
use super::target::{FoundTables, TargetError, find_tables};
use crate::pg::Statements;

/// What [`super::Target::open`] would find.
pub(crate) async fn observe(client: &impl Statements) -> Result<ObservedTarget, TargetError> {
    let FoundTables { has_checkpoint, has_users, .. } = find_tables(client).await?;
    let checkpoint = if has_checkpoint { read_checkpoint(client).await? } else { None };
    let (mut has_rows, mut relation) = (false, None);
    if has_users {
        let row = client.query_typed_one(statement::HAS_ROWS, &[]).await?;
        (has_rows, relation) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(role) = row.try_get(2)? {
            return Err(TargetError::RowSecurity(role));
        }
    }
    Ok(ObservedTarget { checkpoint, created: !has_users, has_rows, relation })
}
