//! Watches how much WAL the slot of the Kafka output retains, and whether a resync is requested.

use crate::config::Kafka;
use crate::pg::{PgClient, connect};
use crate::replicator::session::context::SessionContext;
use crate::replicator::tee::error::TeeExit;
use crate::state::TenantState;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// Interval of the checks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Returns when the slot retains more than `limits.kafka_wal`, or a resync is requested. During a snapshot the slot may retain more:
/// parking would only restart the snapshot.
pub(crate) async fn slot(context: &SessionContext, kafka: &Kafka, takes_snapshot: &AtomicBool) -> TeeExit {
    let mut client = None;
    loop {
        sleep(POLL_INTERVAL).await;
        // Errors are reported by the session task.
        let Ok(Some(row)) = context.state.tee().await else { continue };
        if row.requested && row.state == TenantState::Following {
            return TeeExit::Requested;
        }
        let is_new = row.state == TenantState::Joining && row.reason.is_none();
        let joins = is_new || takes_snapshot.load(Ordering::Relaxed);
        match read_held_back(context, kafka, &mut client).await {
            Some(bytes) if bytes > context.config.limits.kafka_wal && !joins => return TeeExit::HoldsLog(bytes),
            _ => {}
        }
    }
}

/// Bytes of WAL that the slot retains. `None` if the slot does not exist, or the source cannot be reached.
pub(crate) async fn held_back(context: &SessionContext, kafka: &Kafka) -> Option<u64> {
    read_held_back(context, kafka, &mut None).await
}

async fn read_held_back(context: &SessionContext, kafka: &Kafka, client: &mut Option<PgClient>) -> Option<u64> {
    if client.as_ref().is_none_or(|client| client.is_closed()) {
        *client = connect(&context.config.source.url).await.ok();
    }
    let sql = "SELECT greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn), 0)::int8 \
               FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name";
    let row = client.as_ref()?.query_opt(sql, &[&kafka.slot]).await.ok()??;
    row.try_get::<_, Option<i64>>(0).ok()?.map(i64::unsigned_abs)
}
