//! The tee's slot: found, made anew, or given up.

use crate::capture::slot::{self, CreatedSlot, SlotRow};
use crate::capture::{ReplicationConnection, ReplicationReader, ReplicationWriter};
use crate::config::Kafka;
use crate::pg::{PgClient, connect};
use crate::replicator::session::context::SessionContext;
use crate::replicator::tee::TeeError;
use crate::snapshot::{Export, hold_export};
use crate::tee::{Resume, Source, StreamPosition, decide_resume};
use std::time::Duration;
use tokio::time::sleep;

/// A walsender that was told to end looks at it now and then.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The slot, free to be used; `None` where there is none. This process holds the lease, so whoever else uses the slot is
/// a process that has lost it, or what the server has not noticed of our own last connection.
async fn free_slot(client: &PgClient, context: &SessionContext, name: &str) -> Result<Option<SlotRow>, TeeError> {
    let mut said = false;
    loop {
        let Some(row) = slot::read_slot(client, name).await? else { return Ok(None) };
        let ours = row.plugin.as_deref() == Some(slot::PLUGIN)
            && row.database.as_deref() == Some(&*context.config.source.url.database);
        if !ours {
            return Err(TeeError::ForeignSlot(name.to_owned()));
        }
        let Some(pid) = row.active_pid else { return Ok(Some(row)) };
        if !said {
            tracing::info!(slot = name, pid, "the tee's slot is in use by a connection that has lost it: ending that");
            said = true;
        }
        client.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await?;
        sleep(LOOK_EVERY).await;
    }
}

/// Drops it, where it is there.
pub(crate) async fn drop_slot(context: &SessionContext, name: &str) -> Result<(), TeeError> {
    let client = connect(&context.config.source.url).await?;
    if free_slot(&client, context, name).await?.is_some() {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $1::text::name";
        client.execute(sql, &[&name]).await?;
    }
    Ok(())
}

/// Makes it, and holds its snapshot.
async fn make_slot(
    connection: &mut ReplicationConnection,
    context: &SessionContext,
    kafka: &Kafka,
) -> Result<Export, TeeError> {
    tracing::info!(slot = kafka.slot, "making the tee's slot; this waits for the transactions that are running now");
    let CreatedSlot { consistent_point, snapshot_name } = slot::create_slot(connection, &kafka.slot, false).await?;
    let holder = connect(&context.config.source.url).await?;
    Ok(hold_export(holder, &snapshot_name, consistent_point).await?)
}

/// The slot, ours and idle.
pub(crate) struct Taken {
    connection: ReplicationConnection,
    /// From here on the stream is wanted.
    pub(crate) from: StreamPosition,
    /// The snapshot of a slot that was made just now.
    pub(crate) created: Option<Export>,
    /// It was there, but the topics do not know how far they are.
    pub(crate) lost: bool,
}

/// Takes the slot where the topics say that it can go on, or makes it anew.
pub(crate) async fn take_slot(
    client: &PgClient,
    context: &SessionContext,
    kafka: &Kafka,
    known: Option<&StreamPosition>,
) -> Result<Taken, TeeError> {
    let mut connection = ReplicationConnection::connect(&context.config.source.url).await?;
    let system = slot::identify_system(&mut connection).await?;
    let found = |confirmed| Source {
        system: &system.system_identifier,
        timeline: system.timeline,
        generation: context.generation,
        confirmed,
        flushed: system.flushed,
    };
    let why = match free_slot(client, context, &kafka.slot).await? {
        None => known.map(|_| "its slot is gone"),
        Some(SlotRow { invalid: false, confirmed_flush: Some(confirmed), .. }) => {
            match decide_resume(known, &found(confirmed)) {
                Resume::From(from) => return Ok(Taken { connection, from, created: None, lost: false }),
                Resume::Anew(why) => Some(why),
            }
        }
        Some(_) => Some("its slot was invalidated: its log is gone"),
    };
    if let Some(why) = why {
        tracing::warn!(slot = kafka.slot, reason = why, "the tee gets a new slot and takes a snapshot of every tenant");
        drop_slot(context, &kafka.slot).await?;
    }
    let export = make_slot(&mut connection, context, kafka).await?;
    let from = StreamPosition {
        position: export.position,
        system: system.system_identifier,
        timeline: system.timeline,
        generation: context.generation.0,
        split: None,
    };
    Ok(Taken { connection, from, created: Some(export), lost: why.is_some() && known.is_none() })
}

impl Taken {
    /// Begins to read.
    pub(crate) async fn stream(
        self,
        context: &SessionContext,
        kafka: &Kafka,
    ) -> Result<(ReplicationReader, ReplicationWriter), TeeError> {
        let names = [&*context.config.source.publication];
        Ok(self.connection.start_replication(&kafka.slot, self.from.position, &names).await?)
    }
}
