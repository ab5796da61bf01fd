//! Prepares a session: first the slot, then the epoch, then the recorded state of source and tenants.

use crate::capture::shape::{ShapeChange, ShapeReader};
use crate::capture::slot::identify_system;
use crate::capture::{CaptureError, ReplicationConnection, ReplicationReader, ReplicationWriter, publication};
use crate::config::Config;
use crate::model::{Anchor, Lsn, ReceivedHistory};
use crate::pg::{PgClient, connect, connect_state};
use crate::replicator::error::ServiceError;
use crate::replicator::session::apply_turns::ApplyTurns;
use crate::replicator::session::context::{SessionContext, SessionStart};
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::source::history::{History, HistoryFacts, decide_history, newest_anchor};
use crate::replicator::source::mapping::{check_identities, compile_current, fingerprint, resolve_layout};
use crate::replicator::source::old_sessions::{end_older_sessions, name_session, session_name};
use crate::replicator::source::publication::publish;
use crate::replicator::source::shape::{ReadColumns, compare_with_earlier, record, recorded_shape};
use crate::replicator::source::slot::{EnsuredSlot, ensure_slot};
use crate::replicator::source::synchronous::refuse_synchronous;
use crate::route::Memory;
use crate::snapshot::{Export, source_session};
use crate::state::{Snapshot, StateStore};
use crate::status::process::ProcessStatus;
use std::sync::Arc;
use tokio::time::Instant;

/// A session without its tasks.
pub(crate) struct PreparedSession {
    pub(crate) context: Arc<SessionContext>,
    pub(crate) known: Snapshot,
    pub(crate) client: PgClient,
    pub(crate) reader: ReplicationReader,
    pub(crate) writer: ReplicationWriter,
    pub(crate) created: Option<Export>,
}

pub(crate) async fn prepare(config: &Config, status: &Arc<ProcessStatus>) -> Result<PreparedSession, ServiceError> {
    let client = connect(&config.source.url).await?;
    source_session(&client).await?;
    // During a failover, for example. A slot created here now would not be the one that is carried over.
    let sql = "SELECT pg_is_in_recovery(), extract(epoch FROM pg_postmaster_start_time())::text";
    let server = client.query_typed_one(sql, &[]).await?;
    if server.try_get(0)? {
        return Err(ServiceError::InRecovery);
    }
    let source_start = server.try_get(1)?;
    refuse_synchronous(&client).await?;
    let config = &resolve_layout(&client, config).await?;
    check_identities(&client, &config.users).await?;
    // Before the publication exists: a table that is published without a replica identity refuses the store's UPDATEs.
    let columns = ReadColumns::of(&client, &config.users).await?;
    let tables = config.users.tables();
    let shapes = ShapeReader::new(&client, &config.source.publication, &tables).await?;
    columns.refuse_faults(&shapes.read(&client).await?, &config.source.publication)?;
    log_missing_columns(&client, config).await?;
    let state = connect_state(&config.state_url).await.map_err(ServiceError::StateConnect)?;
    let unpublished = publish(&client, &state, config).await?;
    columns.refuse_faults(&shapes.read(&client).await?, &config.source.publication)?;
    let mut connection = ReplicationConnection::connect(&config.source.url).await?;
    let EnsuredSlot { position: from, created } =
        ensure_slot(config, &client, &state, &mut connection, &shapes, unpublished, status).await?;
    let (created, shape_before) = created.map(|created| (created.export, created.shape)).unzip();
    let system = identify_system(&mut connection).await?;
    let names = [&*config.source.publication];
    let (reader, writer) = connection.start_replication(&config.source.slot, from, &names).await?;

    let holder = holder();
    let leased = Instant::now();
    // `users-sync apply` writes to the targets beside a process that only publishes, and is not bound by its start.
    let written_before = if config.publishes_only() { Lsn(u64::MAX) } else { system.flushed };
    let state = StateStore::acquire(state, &config.source.slot, &holder, written_before).await?;
    let name = session_name(&config.source.url.application_name, &config.source.slot, state.epoch());
    for session in [&*client, state.session()].into_iter().chain(created.as_ref().map(Export::holder)) {
        name_session(session, &name).await?;
    }
    end_older_sessions(&client, &config.source.slot, state.epoch()).await?;
    let mut config = config.clone();
    config.source.url.application_name = name;
    let config = &config;
    let mut known = state.load().await?;
    let name = &config.source.publication;
    let version = publication::read_version(&client, name, &config.users.tables()).await?.map(|version| version.rows);
    let version = version.ok_or(ServiceError::Republished)?;
    let found = HistoryFacts {
        system_identifier: &system.system_identifier,
        timeline: system.timeline,
        slot_created: created.is_some(),
        confirmed: from,
        flushed: system.flushed,
        publication: &version,
        remembered: status.received_history(),
    };
    // `acquire` wrote the row. Without it, another process has dropped it since.
    let source = known.source.as_ref().ok_or(CaptureError::Closed)?;
    let (generation, anchor) = match decide_history(source, &found) {
        History::Same(generation) => (generation, newest_anchor(source, found.remembered)),
        History::New(generation, reason) => {
            tracing::info!(%generation, %reason, reason_code = reason.code(), "starting over: full snapshot of every tenant");
            state.begin_generation(generation, found.system_identifier, found.timeline, from).await?;
            status.remember_history(ReceivedHistory { generation, received: from, anchor: Anchor::default() });
            (generation, Anchor::default())
        }
    };
    state.saw_publication(&version).await?;
    // Read again: a standby may have waited for days.
    let columns = ReadColumns::of(&client, &config.users).await?;
    let shape = shapes.read(&client).await?;
    columns.refuse_faults(&shape, &config.source.publication)?;
    let recorded = known.source.as_ref().map_or(0, |source| source.shape_version);
    let earlier = match shape_before {
        // Nothing older than the slot matters to the snapshots that follow.
        Some(before) => {
            let before = record(config, &state, &[], recorded, before, &ShapeChange::Harmless).await?;
            Some(Ok(before.shape))
        }
        None => recorded_shape(known.source.as_ref()),
    };
    let change = compare_with_earlier(&earlier, &columns, &shape)?;
    if let ShapeChange::Rows(reason) = &change {
        tracing::warn!(reason, "source was altered since the last session: resyncing every tenant");
    }
    let tenants: Vec<_> = config.tenants.iter().map(Arc::as_ref).collect();
    let shape = record(config, &state, &tenants, recorded, shape, &change).await?;
    if !config.publishes_only() {
        let ids: Vec<&str> = config.tenants.iter().map(|tenant| tenant.id.as_str()).collect();
        state.park_others(&ids).await?;
    }

    let memory = Arc::new(Memory::new(config.limits.memory));
    // `users-sync apply` has the others: their rows and requests are its own.
    let served = config.tenants.iter().filter(|_| !config.publishes_only());
    let handles = served.map(|tenant| {
        // Rows of an older generation are stale: treat those tenants as joining.
        let row = known.tenants.get(&tenant.id).filter(|row| row.generation == generation);
        let counts = status.metrics.tenant(&tenant.id);
        TenantHandle::new(tenant.clone(), config.limits.tenant_memory, memory.clone(), counts, row)
    });
    let mapping = shape.fingerprint(&fingerprint(&config.users, &compile_current(&client, &config.users).await?));
    let handles = handles.collect();
    let epochs = std::mem::take(&mut known.epochs);
    let written = system.flushed;
    let beginning = SessionStart {
        generation,
        confirmed: from,
        source_start,
        publication: version,
        epochs,
        holder,
        shape,
        anchor,
        written,
        topic: None,
        turns: ApplyTurns::new(),
    };
    let context =
        SessionContext::new(config.clone(), state, beginning, handles, memory.clone(), &mapping, status.clone());
    context.renewed(leased);
    tracing::info!(slot = config.source.slot, position = %from, %generation, epoch = %context.epoch, "streaming");
    Ok(PreparedSession { context: Arc::new(context), known, client, reader, writer, created })
}

/// Logs the optional columns of the mapping that this version of the store lacks.
async fn log_missing_columns(client: &PgClient, config: &Config) -> Result<(), ServiceError> {
    let mapped = compile_current(client, &config.users).await?;
    let lacking = config.users.missing_columns(&mapped.relation);
    if !lacking.is_empty() {
        tracing::info!(table = %config.users.table, lacking = lacking.join(", "), "optional columns missing from the table; mapped to null");
    }
    Ok(())
}

/// Describes this process to people who read the state.
pub(crate) fn holder() -> String {
    format!("process {} on {}", std::process::id(), rustix::system::uname().nodename().to_string_lossy())
}
