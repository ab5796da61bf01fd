//! The part that the slot of the tenants, the slot of the Kafka output and the temporary slot of a snapshot share: found
//! and checked, or created together with a snapshot.

use crate::capture::slot::{self, CreatedSlot, SlotRow};
use crate::capture::{CaptureError, ReplicationConnection, SlotWait, read_waits};
use crate::pg::{PgClient, PgUrl, connect};
use crate::replicator::error::ServiceError;
use crate::snapshot::{Export, hold_export};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is checked what the creation of a slot waits for. Shorter waits are not worth a warning.
const WAIT_CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// How often a wait for the same transaction is logged.
const WAIT_REPEAT_INTERVAL: Duration = Duration::from_secs(60);

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

/// Creates a slot, and holds the snapshot that shows everything before the slot's position. `on_wait` learns what the
/// creation waits for.
pub(crate) async fn create_own_slot(
    connection: &mut ReplicationConnection,
    source: &PgUrl,
    name: &str,
    temporary: bool,
    on_wait: impl Fn(&SlotWait) + Send,
) -> Result<Export, ServiceError> {
    let created = tokio::select! {
        created = slot::create_slot(connection, name, temporary) => created?,
        never = watch_creation(source, name, on_wait) => match never {},
    };
    let CreatedSlot { consistent_point, snapshot_name } = created;
    Ok(hold_export(connect(source).await?, &snapshot_name, consistent_point).await?)
}

/// Reports the transactions that the creation of a slot waits for.
async fn watch_creation(source: &PgUrl, name: &str, on_wait: impl Fn(&SlotWait) + Send) -> Infallible {
    let mut reported: Option<(SlotWait, Instant)> = None;
    loop {
        sleep(WAIT_CHECK_INTERVAL).await;
        // The creation itself reports a source that cannot be reached.
        let Ok(client) = connect(source).await else { continue };
        let waits = read_waits(&client, &[name]).await.unwrap_or_default();
        for wait in waits.iter().filter(|wait| wait.slot == name) {
            let is_known =
                |(known, at): &(SlotWait, Instant)| known.holder == wait.holder && at.elapsed() < WAIT_REPEAT_INTERVAL;
            if !reported.as_ref().is_some_and(is_known) {
                tracing::warn!(%wait, remedy = wait.remedy(), "creation of a replication slot waits for a transaction");
                reported = Some((wait.clone(), Instant::now()));
            }
            on_wait(wait);
        }
    }
}
