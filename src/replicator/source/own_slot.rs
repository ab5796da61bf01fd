//! The part that the slot of the tenants, the slot of the Kafka output and the temporary slot of a snapshot share: found
//! and checked, or created together with a snapshot.

use crate::capture::slot::{self, CreatedSlot, SlotRow};
use crate::capture::{CaptureError, ReplicationConnection};
use crate::pg::{PgClient, PgUrl, connect};
use crate::replicator::error::ServiceError;
use crate::snapshot::{Export, hold_export};

/// Reads a slot. `None` if it does not exist.
///
/// # Errors
/// `foreign`, with the difference, if the slot has another plugin or belongs to another database than `source`.
pub(crate) async fn read_own_slot<E: From<CaptureError>>(
    client: &PgClient,
    source: &PgUrl,
    name: &str,
    foreign: impl Fn(String) -> E,
) -> Result<Option<SlotRow>, E> {
    let Some(row) = slot::read_slot(client, name).await? else { return Ok(None) };
    if row.plugin.as_deref() != Some(slot::PLUGIN) {
        return Err(foreign(format!("its plugin is {}", row.plugin.as_deref().unwrap_or("none (it is physical)"))));
    }
    if row.database.as_deref() != Some(&*source.database) {
        return Err(foreign(format!("it belongs to database {}", row.database.unwrap_or_default())));
    }
    Ok(Some(row))
}

/// Creates a slot, and holds the snapshot that shows everything before the slot's position.
pub(crate) async fn create_own_slot(
    connection: &mut ReplicationConnection,
    source: &PgUrl,
    name: &str,
    temporary: bool,
) -> Result<Export, ServiceError> {
    let CreatedSlot { consistent_point, snapshot_name } = slot::create_slot(connection, name, temporary).await?;
    Ok(hold_export(connect(source).await?, &snapshot_name, consistent_point).await?)
}
