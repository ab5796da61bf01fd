//! Creates `users_sync.rejected`, and upgrades the table of an earlier version.

use super::statement;
use crate::pg::{Statements, describe};

/// Ensures that the table exists, with the hash of the id as its key. Returns why the key cannot be added.
pub(super) async fn provide(client: &impl Statements, exists: bool) -> Result<Option<String>, tokio_postgres::Error> {
    if !exists {
        client.batch_execute(statement::CREATE_REJECTED).await?;
        return Ok(None);
    }
    if client.query_typed_one(statement::HAS_ID_HASH, &[]).await?.try_get(0)? {
        return Ok(None);
    }
    match client.batch_execute(statement::ADD_ID_HASH).await {
        Ok(()) => Ok(None),
        Err(error) if error.as_db_error().is_some() => Ok(Some(describe(&error))),
        Err(error) => Err(error),
    }
}
