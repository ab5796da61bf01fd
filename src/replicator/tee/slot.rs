//! The slot of the Kafka output: acquired, created again, or dropped.

use crate::capture::slot::{self, SlotRow};
use crate::capture::{ReplicationConnection, ReplicationReader, ReplicationWriter};
use crate::config::Kafka;
use crate::model::TeeRestart;
use crate::pg::{PgClient, connect};
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::own_slot::{create_own_slot, read_own_slot};
use crate::replicator::tee::error::TeeError;
use crate::snapshot::Export;
use crate::tee::{Known, Resume, Source, StreamPosition, decide_resume};
use std::time::Duration;
use tokio::time::sleep;

/// Interval at which a slot is polled while the server ends the connection that uses it.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Frees the slot for use. `None` if it does not exist. This process holds the lease, so a connection that uses the slot belongs to a
/// process that lost the lease, or is a dead connection of this process.
async fn free_slot(client: &PgClient, context: &SessionContext, name: &str) -> Result<Option<SlotRow>, TeeError> {
    let source = &context.config.source.url;
    let foreign = |_| TeeError::ForeignSlot(name.to_owned());
    let mut is_logged = false;
    loop {
        let Some(row) = read_own_slot(client, source, name, foreign).await? else { return Ok(None) };
        let Some(pid) = row.active_pid else { return Ok(Some(row)) };
        if !is_logged {
            tracing::info!(
                slot = name,
                pid,
                "the slot of the Kafka output is in use by an old connection: terminating it"
            );
            is_logged = true;
        }
        client.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await?;
        sleep(POLL_INTERVAL).await;
    }
}

/// Drops the slot if it exists.
pub(crate) async fn drop_slot(context: &SessionContext, name: &str) -> Result<(), TeeError> {
    let client = connect(&context.config.source.url).await?;
    if free_slot(&client, context, name).await?.is_some() {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $1::text::name";
        client.execute(sql, &[&name]).await?;
    }
    Ok(())
}

/// The slot, acquired and idle.
pub(crate) struct AcquiredSlot {
    connection: ReplicationConnection,
    /// The position at which the stream resumes.
    pub(crate) from: StreamPosition,
    /// The snapshot of a slot that was created in this session.
    pub(crate) created: Option<Export>,
    /// There was a slot or something was published, but the topics hold no position.
    pub(crate) lost: bool,
}

/// Acquires the slot if the topics' position allows it to resume. Otherwise creates it again.
pub(crate) async fn take_slot(
    client: &PgClient,
    context: &SessionContext,
    kafka: &Kafka,
    mut connection: ReplicationConnection,
    positions: &Known,
) -> Result<AcquiredSlot, TeeError> {
    let known = positions.stream.as_ref();
    let system = slot::identify_system(&mut connection).await?;
    let found = |confirmed| Source {
        system: &system.system_identifier,
        timeline: system.timeline,
        generation: context.generation,
        confirmed,
        flushed: system.flushed,
    };
    let why = match free_slot(client, context, &kafka.slot).await? {
        None => positions.restart.or(known.map(|_| TeeRestart::SlotDropped)),
        Some(SlotRow { invalid: false, confirmed_flush: Some(confirmed), .. }) => {
            match (decide_resume(known, &found(confirmed)), positions.restart) {
                (Resume::From(from), None) => return Ok(AcquiredSlot { connection, from, created: None, lost: false }),
                // More exact than what the slot shows.
                (Resume::From(_) | Resume::Restart(TeeRestart::NoPosition | TeeRestart::SlotAhead), Some(why)) => {
                    Some(why)
                }
                (Resume::Restart(why), _) => Some(why),
            }
        }
        Some(_) => Some(TeeRestart::SlotInvalidated),
    };
    if let Some(why) = why {
        tracing::warn!(
            slot = kafka.slot,
            reason = why.text(),
            reason_code = why.code(),
            "Kafka output: creating a new slot and publishing a snapshot of every tenant"
        );
        drop_slot(context, &kafka.slot).await?;
    }
    tracing::info!(slot = kafka.slot, "creating the slot of the Kafka output (waits for open transactions)");
    let export = create_own_slot(&mut connection, &context.config.source.url, &kafka.slot, false, |_| ()).await?;
    let from = StreamPosition {
        position: export.position,
        system: system.system_identifier,
        timeline: system.timeline,
        generation: context.generation.0,
        split: None,
    };
    Ok(AcquiredSlot { connection, from, created: Some(export), lost: why.is_some() && known.is_none() })
}

impl AcquiredSlot {
    /// Starts replication at the resume position.
    pub(crate) async fn stream(
        self,
        context: &SessionContext,
        kafka: &Kafka,
    ) -> Result<(ReplicationReader, ReplicationWriter), TeeError> {
        let names = [&*context.config.source.publication];
        Ok(self.connection.start_replication(&kafka.slot, self.from.position, &names).await?)
    }
}
