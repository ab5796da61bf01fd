//! How much of the source's log the tee's slot holds back; and whether a resync is asked for.

use crate::config::Kafka;
use crate::pg::{PgClient, connect};
use crate::replicator::session::context::SessionContext;
use crate::replicator::tee::TeeExit;
use crate::state::TenantState;
use std::time::Duration;
use tokio::time::sleep;

const EVERY: Duration = Duration::from_secs(1);

/// Ends when the slot holds back more than `limits.kafka_wal`, or a resync is asked for. While the tee takes a snapshot
/// its slot may hold back more: parking would only begin that anew.
pub(crate) async fn slot(context: &SessionContext, kafka: &Kafka) -> TeeExit {
    let mut client = None;
    loop {
        sleep(EVERY).await;
        // What fails here is another's to say.
        let Ok(Some(row)) = context.state.tee().await else { continue };
        if row.requested && row.state == TenantState::Following {
            return TeeExit::Requested;
        }
        let joins = row.state == TenantState::Joining && row.reason.is_none();
        match look(context, kafka, &mut client).await {
            Some(bytes) if bytes > context.config.limits.kafka_wal && !joins => return TeeExit::HoldsLog(bytes),
            _ => {}
        }
    }
}

/// In bytes; `None` where there is no such slot, or nobody to ask.
pub(crate) async fn held_back(context: &SessionContext, kafka: &Kafka) -> Option<u64> {
    look(context, kafka, &mut None).await
}

async fn look(context: &SessionContext, kafka: &Kafka, client: &mut Option<PgClient>) -> Option<u64> {
    if client.as_ref().is_none_or(|client| client.is_closed()) {
        *client = connect(&context.config.source.url).await.ok();
    }
    let sql = "SELECT greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn), 0)::int8 \
               FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name";
    let row = client.as_ref()?.query_opt(sql, &[&kafka.slot]).await.ok()??;
    row.get::<_, Option<i64>>(0).map(i64::unsigned_abs)
}
