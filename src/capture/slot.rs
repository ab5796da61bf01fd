//! Creates, reads and drops the replication slot, and identifies the server.

pub(crate) use super::commands::PLUGIN;
use super::commands::create_command;
use super::synchronous::SynchronousFacts;
use super::{CaptureError, ReplicationConnection};
use crate::model::Lsn;
use crate::pg::quote_ident;
use tokio_postgres::types::Type;

/// The answer to IDENTIFY_SYSTEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Identifies the cluster together with its physical copies.
    pub system_identifier: String,
    /// Grows with every promotion.
    pub timeline: i32,
    /// End of the flushed log.
    pub flushed: Lsn,
    /// The connection's database.
    pub database: Option<String>,
}

/// The answer to CREATE_REPLICATION_SLOT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot sends every transaction that commits after this position.
    pub consistent_point: Lsn,
    /// The exported snapshot of everything before that position. It ends with the connection's next command.
    pub snapshot_name: String,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRow {
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// The decoded database; `None` for a physical slot.
    pub database: Option<String>,
    /// Whether the slot ends with the session that created it.
    pub temporary: bool,
    /// The server process that uses it.
    pub active_pid: Option<i32>,
    /// The confirmed position; `None` while the slot is being created.
    pub confirmed_flush: Option<Lsn>,
    /// The slot is unusable: its log was removed, or a standby invalidated it.
    pub invalid: bool,
}

/// Reads the server's identity and the end of its log.
pub async fn identify_system(connection: &mut ReplicationConnection) -> Result<SystemIdentity, CaptureError> {
    let rows = connection.simple_query("IDENTIFY_SYSTEM").await?;
    let mut row = only_row(rows, "IDENTIFY_SYSTEM")?;
    let (Some(system_identifier), Some(timeline), Some(flushed)) = (row.text(0), row.parsed(1), row.parsed(2)) else {
        return Err(CaptureError::protocol("IDENTIFY_SYSTEM returned no system, timeline and position"));
    };
    Ok(SystemIdentity { system_identifier, timeline, flushed, database: row.text(3) })
}

/// Creates a slot and exports its snapshot, after all running transactions of every database have ended. A
/// permanent slot is marked for failover if the server supports it (17 and later).
pub async fn create_slot(
    connection: &mut ReplicationConnection,
    name: &str,
    temporary: bool,
) -> Result<CreatedSlot, CaptureError> {
    let command = create_command(name, temporary, connection.server_version());
    let rows = connection.simple_query(&command).await?;
    let mut row = only_row(rows, "CREATE_REPLICATION_SLOT")?;
    let (Some(consistent_point), Some(snapshot_name)) = (row.parsed(1), row.text(2)) else {
        return Err(CaptureError::protocol("CREATE_REPLICATION_SLOT returned no position and snapshot"));
    };
    Ok(CreatedSlot { consistent_point, snapshot_name })
}

/// Drops a slot. Fails with 55006 while a process uses it.
pub async fn drop_slot(connection: &mut ReplicationConnection, name: &str) -> Result<(), CaptureError> {
    connection.simple_query(&format!("DROP_REPLICATION_SLOT {}", quote_ident(name))).await.map(drop)
}

/// Reads a slot; `None` if it does not exist.
pub async fn read_slot(client: &tokio_postgres::Client, name: &str) -> Result<Option<SlotRow>, CaptureError> {
    // Read through jsonb because conflicting and invalidation_reason do not exist before 16 and 17.
    const QUERY: &str = "
        SELECT s.plugin::text, s.database::text, s.temporary, s.active_pid, s.confirmed_flush_lsn::text,
               coalesce(s.wal_status = 'lost', false)
                   OR coalesce((to_jsonb(s) ->> 'conflicting')::boolean, false)
                   OR to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL
        FROM pg_catalog.pg_replication_slots AS s
        WHERE s.slot_name = $1::text::name";
    let Some(row) = client.query_typed_opt(QUERY, &[(&name, Type::TEXT)]).await? else { return Ok(None) };
    let confirmed_flush: Option<&str> = row.try_get(4)?;
    let confirmed_flush = confirmed_flush.map(str::parse).transpose();
    let confirmed_flush = confirmed_flush.map_err(|error| CaptureError::Protocol(format!("{error}")))?;
    Ok(Some(SlotRow {
        plugin: row.try_get(0)?,
        database: row.try_get(1)?,
        temporary: row.try_get(2)?,
        active_pid: row.try_get(3)?,
        confirmed_flush,
        invalid: row.try_get(5)?,
    }))
}

/// Reads what decides whether the server takes our walsender for a synchronous standby. Logical walsenders have a
/// database, physical standbys have none.
pub(crate) async fn read_synchronous(client: &tokio_postgres::Client) -> Result<SynchronousFacts, CaptureError> {
    const QUERY: &str = "
        SELECT current_setting('synchronous_standby_names'), current_setting('application_name'),
               array(SELECT DISTINCT a.application_name FROM pg_catalog.pg_stat_get_wal_senders() w
                     JOIN pg_catalog.pg_stat_activity a ON a.pid = w.pid
                     WHERE a.datid IS NULL AND a.application_name NOT IN ('', 'pg_basebackup'))";
    let row = client.query_typed_one(QUERY, &[]).await?;
    Ok(SynchronousFacts { setting: row.try_get(0)?, application_name: row.try_get(1)?, standbys: row.try_get(2)? })
}

struct Row(Vec<Option<String>>);

impl Row {
    fn text(&mut self, index: usize) -> Option<String> {
        self.0.get_mut(index)?.take()
    }

    fn parsed<T: std::str::FromStr>(&mut self, index: usize) -> Option<T> {
        self.text(index)?.parse().ok()
    }
}

fn only_row(rows: Vec<Vec<Option<String>>>, command: &str) -> Result<Row, CaptureError> {
    match <[_; 1]>::try_from(rows) {
        Ok([row]) => Ok(Row(row)),
        Err(rows) => Err(CaptureError::Protocol(format!("{command} returned {} rows", rows.len()))),
    }
}
