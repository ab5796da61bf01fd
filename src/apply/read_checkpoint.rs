//! Reads the checkpoint of a target, and provides the column of its signature.

use super::checkpoint::Checkpoint;
use super::statement;
use crate::model::{Epoch, Generation, Lsn, TargetId, TenantId};
use crate::pg::{Statements, describe};
use tokio_postgres::types::PgLsn;

/// Reads the checkpoint of a target that has the checkpoint's table.
pub(crate) async fn read_checkpoint(client: &impl Statements) -> Result<Option<Checkpoint>, tokio_postgres::Error> {
    let has_mac = has_mac(client).await?;
    read_checkpoint_with(client, has_mac).await
}

/// The same, where it is known whether the table has the column of the signature.
pub(super) async fn read_checkpoint_with(
    client: &impl Statements,
    has_mac: bool,
) -> Result<Option<Checkpoint>, tokio_postgres::Error> {
    let sql = statement::read_checkpoint(has_mac);
    let Some(row) = client.query_typed_opt(&sql, &[]).await? else { return Ok(None) };
    // The table may have been altered, so its types are not certain.
    Ok(Some(Checkpoint {
        tenant: TenantId::new(row.try_get(0)?),
        target_id: TargetId::new(row.try_get(1)?),
        generation: Generation(row.try_get(2)?),
        position: Lsn(u64::from(row.try_get::<_, PgLsn>(3)?)),
        epoch: Epoch(row.try_get(4)?),
        mapping: row.try_get(5)?,
        mac: row.try_get(6)?,
    }))
}

/// Adds the column of the signature to the checkpoint's table. Returns why it cannot be added: users are written without it.
pub(super) async fn provide_mac(client: &impl Statements) -> Result<Option<String>, tokio_postgres::Error> {
    match client.batch_execute(statement::ADD_MAC).await {
        Ok(()) if has_mac(client).await? => Ok(None),
        Ok(()) => Ok(Some("users_sync.checkpoint has another column mac".to_owned())),
        Err(error) if error.as_db_error().is_some() => Ok(Some(describe(&error))),
        Err(error) => Err(error),
    }
}

/// Whether the checkpoint's table has the column of the signature.
pub(super) async fn has_mac(client: &impl Statements) -> Result<bool, tokio_postgres::Error> {
    client.query_typed_one(statement::HAS_MAC, &[]).await?.try_get(0)
}
