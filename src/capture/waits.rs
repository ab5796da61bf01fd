//! What the creation of a slot waits for: it needs the end of every transaction that has written anything, in any
//! database of the server.

use super::CaptureError;
use std::fmt;
use tokio_postgres::types::Type;

/// The creation of a slot waits for a transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotWait {
    /// The slot that is being created.
    pub slot: String,
    pub(crate) holder: TransactionHolder,
    /// The transaction's database; `None` if it has ended meanwhile.
    pub(crate) database: Option<String>,
    /// Seconds since its start, or since the slot waits if the role may not see that.
    pub(crate) seconds: f64,
}

/// What keeps a transaction open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TransactionHolder {
    Prepared {
        gid: String,
    },
    Session {
        pid: i32,
        /// As in `pg_stat_activity`; `None` if the role may not see it.
        state: Option<String>,
    },
}

impl fmt::Display for SlotWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slot, seconds, database) = (&self.slot, self.seconds.max(0.0), self.database.as_deref().unwrap_or("?"));
        match &self.holder {
            TransactionHolder::Prepared { gid } => {
                write!(
                    f,
                    "slot {slot} waits for prepared transaction '{gid}' (database {database}, {seconds:.0} s old)"
                )
            }
            TransactionHolder::Session { pid, state } => {
                let state = state.as_ref().map(|state| format!("{state}, ")).unwrap_or_default();
                write!(
                    f,
                    "slot {slot} waits for the transaction of process {pid} (database {database}, {state}{seconds:.0} s old)"
                )
            }
        }
    }
}

impl SlotWait {
    /// How to end the transaction.
    pub(crate) fn remedy(&self) -> String {
        match &self.holder {
            TransactionHolder::Prepared { gid } => {
                let (gid, database) = (crate::pg::quote_literal(gid), self.database.as_deref().unwrap_or("?"));
                format!("COMMIT PREPARED {gid}; or ROLLBACK PREPARED {gid}; in database {database}")
            }
            TransactionHolder::Session { pid, .. } => {
                format!("let its client commit or roll back, or end it: SELECT pg_terminate_backend({pid});")
            }
        }
    }
}

/// Prefix of the temporary slots that an installation uses for snapshots. `slot` is its own slot.
pub(crate) fn join_slot_prefix(slot: &str) -> String {
    /// The rest of a slot's name of 63 bytes is for the process id.
    const LONGEST: usize = 48;
    // Slot names are ASCII.
    format!("{}_join_", slot.get(..LONGEST).unwrap_or(slot))
}

/// The waiting creations among these slots and their temporary ones.
pub(crate) async fn read_waits(client: &tokio_postgres::Client, slots: &[&str]) -> Result<Vec<SlotWait>, CaptureError> {
    // A slot has no confirmed position until it is created.
    const CREATING: &str = "SELECT slot_name::text, active_pid FROM pg_catalog.pg_replication_slots \
        WHERE slot_type = 'logical' AND active_pid IS NOT NULL AND confirmed_flush_lsn IS NULL";
    // A role without pg_read_all_stats sees neither state nor start of other roles' transactions.
    const HOLDER: &str = "
        SELECT p.gid, h.pid, a.state, coalesce(p.database::text, a.datname::text),
               extract(epoch FROM clock_timestamp() - coalesce(p.prepared, a.xact_start, c.query_start))::float8
        FROM pg_catalog.pg_locks w
        LEFT JOIN pg_catalog.pg_locks h
          ON h.locktype = 'transactionid' AND h.transactionid = w.transactionid AND h.granted
        LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = h.pid
        LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = w.transactionid
        LEFT JOIN pg_catalog.pg_stat_activity c ON c.pid = w.pid
        WHERE w.pid = $1 AND w.locktype = 'transactionid' AND NOT w.granted AND coalesce(p.gid, h.pid::text) IS NOT NULL
        LIMIT 1";
    let prefixes: Vec<String> = slots.iter().map(|slot| join_slot_prefix(slot)).collect();
    let mut waits = Vec::new();
    for row in client.query_typed(CREATING, &[]).await? {
        let (slot, pid): (String, i32) = (row.try_get(0)?, row.try_get(1)?);
        if !slots.contains(&&*slot) && !prefixes.iter().any(|prefix| slot.starts_with(prefix.as_str())) {
            continue;
        }
        let Some(row) = client.query_typed_opt(HOLDER, &[(&pid, Type::INT4)]).await? else { continue };
        let holder = match (row.try_get(0)?, row.try_get(1)?) {
            (Some(gid), _) => TransactionHolder::Prepared { gid },
            (None, Some(pid)) => TransactionHolder::Session { pid, state: row.try_get(2)? },
            (None, None) => continue,
        };
        let seconds = row.try_get::<_, Option<f64>>(4)?.unwrap_or(0.0);
        waits.push(SlotWait { slot, holder, database: row.try_get(3)?, seconds });
    }
    Ok(waits)
}
