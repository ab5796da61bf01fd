//! `users_sync.rejected`: its key, and the upgrade of the table of an earlier version.

use super::statement;
use crate::pg::{Statements, describe};

/// Whether the table exists with the hash of the id as its key.
pub(super) async fn has_id_hash(client: &impl Statements) -> Result<bool, tokio_postgres::Error> {
    client.query_typed_one(statement::HAS_ID_HASH, &[]).await?.try_get(0)
}

/// Adds the hash of the id as the key. Returns why it cannot be added.
pub(super) async fn upgrade(client: &impl Statements) -> Result<Option<String>, tokio_postgres::Error> {
    match client.batch_execute(statement::ADD_ID_HASH).await {
        Ok(()) => Ok(None),
        Err(error) if error.as_db_error().is_some() => Ok(Some(describe(&error))),
        Err(error) => Err(error),
    }
}
