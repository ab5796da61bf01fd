//! One session on the source: the slot first, then the epoch, then what state and checkpoints say; and the tasks.

use super::ServiceError;
use super::backoff::Backoff;
use super::lanes::Lane;
use super::live::Live;
use super::running::Running;
use super::shared::{Beginning, Shared};
use super::source::history::{Found, History, decide_history};
use super::source::plans::{compile_current, fingerprint, identity_gaps};
use super::source::publish::publish;
use super::source::slot::take_slot;
use crate::capture::slot::identify_system;
use crate::capture::{CaptureError, ReplicationConnection, ReplicationReader, ReplicationWriter, publication};
use crate::config::{Config, Family};
use crate::pg::{PgClient, connect};
use crate::route::Memory;
use crate::snapshot::{Export, Settled, settle, source_session};
use crate::state::{Snapshot, StateStore};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_LAST: Duration = Duration::from_secs(30);
/// A session that lasted this long was a good one: its end is a first failure.
const GOOD: Duration = Duration::from_secs(60);

/// Why a session ended well.
pub(super) enum End {
    /// It was told to stop.
    Stopped,
    /// The configuration is another one, in more than its tenants.
    Reconfigured,
}

/// Replicates until `stop`, over as many sessions as it takes. An error is one that a person has to mend.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), ServiceError> {
    let (_keep, configs) = watch::channel(config);
    run_reloading(configs, Arc::default(), stop).await
}

/// As [`run`], with a configuration that may be replaced while it runs: tenants come and go, anything else begins a new
/// session. `live` shows how it goes.
pub async fn run_reloading(
    mut configs: watch::Receiver<Config>,
    live: Arc<Live>,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let mut reconnect = Backoff::new(RECONNECT_FIRST, RECONNECT_LAST);
    let mut has_streamed = false;
    loop {
        let begun = Instant::now();
        let config = configs.borrow_and_update().clone();
        let error = match session(config, &mut configs, &live, &stop, &mut has_streamed).await {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Reconfigured) => {
                live.starts(None);
                continue;
            }
            // It worked until just now: whoever broke it may mend it, and need not think of us then.
            Err(error) if has_streamed && error.is_mended_without_us() => {
                tracing::error!(%error, "nothing is replicated until this is mended");
                error
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => error,
        };
        if begun.elapsed() > GOOD {
            reconnect.reset();
        }
        let wait = reconnect.step();
        live.metrics.source_reconnects.inc();
        live.starts(Some(error.to_string()));
        tracing::warn!(%error, ?wait, "the session on the source ended and begins again");
        tokio::select! {
            () = sleep(wait) => {}
            () = replaced(&mut configs) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn session(
    config: Config,
    configs: &mut watch::Receiver<Config>,
    live: &Arc<Live>,
    stop: &CancellationToken,
    has_streamed: &mut bool,
) -> Result<End, ServiceError> {
    let prepared = tokio::select! {
        prepared = prepare(&config, live) => prepared?,
        () = replaced(configs) => return Ok(End::Reconfigured),
        () = stop.cancelled() => return Ok(End::Stopped),
    };
    *has_streamed = true;
    let _shown = live.streams(&prepared.shared);
    #[cfg_attr(not(feature = "kafka"), allow(unused_mut))]
    let mut running = Running::start(prepared, None);
    #[cfg(feature = "kafka")]
    running.tee(configs.clone());
    running.run(config, configs, stop).await
}

/// Waits until there is another configuration.
pub(super) async fn replaced(configs: &mut watch::Receiver<Config>) {
    if configs.changed().await.is_err() {
        // Nobody can replace it any more.
        std::future::pending().await
    }
}

/// A session that has everything but its tasks.
pub(super) struct Prepared {
    pub(super) shared: Arc<Shared>,
    pub(super) known: Snapshot,
    pub(super) client: PgClient,
    pub(super) reader: ReplicationReader,
    pub(super) writer: ReplicationWriter,
    pub(super) created: Option<Export>,
}

pub(super) async fn prepare(config: &Config, live: &Arc<Live>) -> Result<Prepared, ServiceError> {
    let client = connect(&config.source.url).await?;
    source_session(&client).await?;
    // In the middle of a fail-over, say: a slot that is made there now would not be the one that is carried over.
    if client.query_typed_one("SELECT pg_is_in_recovery()", &[]).await?.get(0) {
        return Err(ServiceError::InRecovery);
    }
    let config = &settled(&client, config).await?;
    identity_gaps(&client, &config.users).await?;
    say_what_is_lacking(&client, config).await?;
    let state = connect(&config.state_url).await?;
    let unpublished = publish(&client, &state, config).await?;
    let mut connection = ReplicationConnection::connect(&config.source.url).await?;
    let (from, created) = take_slot(config, &client, &state, &mut connection, unpublished, live).await?;
    let system = identify_system(&mut connection).await?;
    let names = [&*config.source.publication];
    let (reader, writer) = connection.start_replication(&config.source.slot, from, &names).await?;

    let holder = format!("process {} on {}", std::process::id(), hostname());
    let leased = Instant::now();
    let state = StateStore::acquire(state, &config.source.slot, &holder, system.flushed).await?;
    let mut known = state.load().await?;
    let name = &config.source.publication;
    let marks = publication::read_marks(&client, name, &config.users.tables()).await?.map(|marks| marks.rows);
    let marks = marks.ok_or(ServiceError::Republished)?;
    let found = Found {
        system_identifier: &system.system_identifier,
        timeline: system.timeline,
        slot_created: created.is_some(),
        confirmed: from,
        flushed: system.flushed,
        publication: &marks,
    };
    let generation = match known.source.as_ref().map(|source| decide_history(source, &found)) {
        Some(History::Same(generation)) => generation,
        Some(History::New(generation, reason)) => {
            tracing::info!(%generation, reason, "a new generation begins: every tenant takes a snapshot");
            state.begin_generation(generation, found.system_identifier, found.timeline, from).await?;
            generation
        }
        // `acquire` wrote the row: another process has dropped it since.
        None => return Err(CaptureError::Closed.into()),
    };
    state.saw_publication(&marks).await?;
    let ids: Vec<&str> = config.tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    state.park_others(&ids).await?;

    let memory = Arc::new(Memory::new(config.limits.memory));
    let lanes = config.tenants.iter().map(|tenant| {
        // Nobody follows out of another history.
        let row = known.tenants.get(&tenant.id).filter(|row| row.generation == generation);
        let counts = live.metrics.tenant(&tenant.id);
        Lane::new(tenant.clone(), config.limits.tenant_memory, memory.clone(), counts, row)
    });
    // Looked at again: a standby may have waited for days.
    let mapping = fingerprint(&config.users, &compile_current(&client, &config.users).await?);
    let lanes = lanes.collect();
    let epochs = std::mem::take(&mut known.epochs);
    let beginning = Beginning { generation, confirmed: from, publication: marks, epochs, holder };
    let shared = Shared::new(config.clone(), state, beginning, lanes, memory.clone(), &mapping, live.clone());
    shared.renewed(leased);
    tracing::info!(slot = config.source.slot, position = %from, %generation, epoch = %shared.epoch, "streaming");
    Ok(Prepared { shared: Arc::new(shared), known, client, reader, writer, created })
}

/// The configuration with the mapping that fits the store's tables as they are.
pub async fn settled(client: &PgClient, config: &Config) -> Result<Config, ServiceError> {
    if config.families.is_empty() {
        return Ok(config.clone());
    }
    let Some(Settled { rules, found }) = settle(client, &config.families).await? else {
        return Err(ServiceError::NoFamily(config.families.iter().map(Family::describe).collect()));
    };
    if !found.is_empty() {
        tracing::info!("{found}");
    }
    Ok(Config { users: rules, ..config.clone() })
}

/// A mapping for several versions of a store says what it found of this one.
async fn say_what_is_lacking(client: &PgClient, config: &Config) -> Result<(), ServiceError> {
    let mapped = compile_current(client, &config.users).await?;
    let lacking = config.users.lacking(&mapped.relation);
    if !lacking.is_empty() {
        tracing::info!(table = %config.users.table, lacking = lacking.join(", "), "these columns are not there, and null");
    }
    Ok(())
}

/// For people who look into the state.
fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
