//! The end of the source's log, and how much of the log slots retain.

use super::CaptureError;
use super::waits::{SlotWait, read_waits};
use crate::model::Lsn;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio_postgres::types::{PgLsn, Type};

/// State of the source's log.
#[derive(Clone, Debug, Default)]
pub struct SourceLog {
    /// Its end.
    pub end: Option<Lsn>,
    /// Bytes of log after the confirmed position, by slot. Slots that do not exist are left out.
    pub held_back: BTreeMap<String, u64>,
    /// The slots that exist, as their server describes them.
    pub slots: BTreeMap<String, SlotState>,
    /// The slots whose creation waits for a transaction.
    pub waits: Vec<SlotWait>,
}

/// A replication slot that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotState {
    /// A process reads it.
    Active,
    /// No process reads it.
    Inactive,
    /// The WAL that it needs was removed.
    Lost,
}

/// Reads it, for these slots and the temporary slots of their snapshots.
pub(crate) async fn read_log(client: &tokio_postgres::Client, slots: &[&str]) -> Result<SourceLog, CaptureError> {
    let sql = "SELECT l.flushed, s.slot_name::text, \
                 greatest(pg_wal_lsn_diff(l.flushed, s.confirmed_flush_lsn), 0)::int8, s.active, \
                 coalesce(s.wal_status = 'lost', false) \
               FROM (SELECT pg_current_wal_flush_lsn() AS flushed) l \
               LEFT JOIN pg_catalog.pg_replication_slots s \
                 ON s.slot_name::text = ANY($1) AND s.confirmed_flush_lsn IS NOT NULL";
    let rows = client.query_typed(sql, &[(&slots, Type::TEXT_ARRAY)]).await?;
    let mut log = SourceLog::default();
    for row in &rows {
        log.end = Some(Lsn(u64::from(row.try_get::<_, PgLsn>(0)?)));
        if let Some(slot) = row.try_get::<_, Option<String>>(1)? {
            let state = match (row.try_get(4)?, row.try_get(3)?) {
                (true, _) => SlotState::Lost,
                (false, true) => SlotState::Active,
                (false, false) => SlotState::Inactive,
            };
            log.slots.insert(slot.clone(), state);
            log.held_back.insert(slot, row.try_get::<_, i64>(2)?.unsigned_abs());
        }
    }
    log.waits = read_waits(client, slots).await?;
    Ok(log)
}
