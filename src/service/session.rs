//! One session on the source: the slot first, then the epoch, then what state and checkpoints say; and the tasks.

use super::backoff::Backoff;
use super::history::{Found, History, decide_history};
use super::plans::{compile_current, fingerprint, identity_gaps, published};
use super::shared::{Lane, Shared};
use super::stream::Stream;
use super::tenant::Worker;
use super::{ServiceError, confirm, join, watch};
use crate::capture::slot::{self, CreatedSlot};
use crate::capture::{CaptureError, ReplicationConnection, ReplicationReader, ReplicationWriter, publication};
use crate::config::{Config, Family, OnSlotLoss};
use crate::model::{Lsn, TenantId};
use crate::pg::{PgClient, connect};
use crate::snapshot::{Export, Settled, hold_export, settle, source_session};
use crate::state::{Snapshot, StateStore, TenantState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_LAST: Duration = Duration::from_secs(30);
/// A session that lasted this long was a good one: its end is a first failure.
const GOOD: Duration = Duration::from_secs(60);
/// How often a standby looks whether the slot is free.
const STANDBY_EVERY: Duration = Duration::from_millis(500);
/// What waits is applied within this time when the process is told to stop.
const DRAIN: Duration = Duration::from_secs(7);

/// And positions are written down and confirmed within this time.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Replicates until `stop`, over as many sessions as it takes. An error is one that a person has to mend.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), ServiceError> {
    let mut reconnect = Backoff::new(RECONNECT_FIRST, RECONNECT_LAST);
    loop {
        let begun = Instant::now();
        let error = match session(&config, &stop).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_final() => return Err(error),
            Err(error) => error,
        };
        if begun.elapsed() > GOOD {
            reconnect.reset();
        }
        let wait = reconnect.step();
        tracing::warn!(%error, ?wait, "the session on the source ended and begins again");
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn session(config: &Config, stop: &CancellationToken) -> Result<(), ServiceError> {
    let prepared = tokio::select! {
        prepared = prepare(config) => prepared?,
        () = stop.cancelled() => return Ok(()),
    };
    Running::start(prepared).run(stop).await
}

/// A session that has everything but its tasks.
struct Prepared {
    shared: Arc<Shared>,
    known: Snapshot,
    client: PgClient,
    reader: ReplicationReader,
    writer: ReplicationWriter,
    created: Option<Export>,
}

async fn prepare(config: &Config) -> Result<Prepared, ServiceError> {
    let client = connect(&config.source.url).await?;
    source_session(&client).await?;
    let config = &settled(&client, config).await?;
    identity_gaps(&client, &config.users).await?;
    say_what_is_lacking(&client, config).await?;
    let state = connect(&config.state_url).await?;
    let unpublished = match publish(&client, config).await {
        Err(error @ ServiceError::NotPublished { .. }) => {
            // What is changed until somebody has put it back is never sent.
            StateStore::break_history(&state, &config.source.slot).await?;
            return Err(error);
        }
        published => published?,
    };
    let mut connection = ReplicationConnection::connect(&config.source.url).await?;
    let (from, created) = take_slot(config, &client, &state, &mut connection, unpublished).await?;
    let system = slot::identify_system(&mut connection).await?;
    let names = [&*config.source.publication];
    let (reader, writer) = connection.start_replication(&config.source.slot, from, &names).await?;

    let holder = format!("process {} on {}", std::process::id(), hostname());
    let state = StateStore::acquire(state, &config.source.slot, &holder).await?;
    let known = state.load().await?;
    let found = Found {
        system_identifier: &system.system_identifier,
        timeline: system.timeline,
        slot_created: created.is_some(),
        confirmed: from,
        flushed: system.flushed,
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
    let ids: Vec<&str> = config.tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    state.park_others(&ids).await?;

    let budget = config.limits.mailbox_budget(config.tenants.len());
    let lanes = config.tenants.iter().map(|tenant| {
        // Nobody follows out of another history.
        let row = known.tenants.get(&tenant.id).filter(|row| row.generation == generation);
        let state = row.map_or(TenantState::Joining, |row| row.state);
        Lane::new(tenant.clone(), budget, state)
    });
    // Looked at again: a standby may have waited for days.
    let mapping = fingerprint(&config.users, &compile_current(&client, &config.users).await?);
    let shared = Shared::new(config.clone(), state, generation, from, lanes.collect(), &mapping);
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

/// The publication comes before the slot: a slot knows only what was published when the change was made.
/// Whether it had to be made.
async fn publish(client: &PgClient, config: &Config) -> Result<bool, ServiceError> {
    let (name, tables) = (&config.source.publication, config.users.tables());
    let missing = publication::read_publication(client, name).await?.is_none();
    if missing {
        publication::create_publication(client, name, &published(client, config).await?).await?;
        tracing::info!(publication = name, ?tables, "created");
    }
    for table in tables {
        if !publication::table_in_publication(client, name, table).await? {
            return Err(ServiceError::NotPublished { publication: name.clone(), table: table.clone() });
        }
    }
    Ok(missing)
}

/// Finds the slot free, or makes it; gives the position that it sends from, and the snapshot of a new one.
async fn take_slot(
    config: &Config,
    client: &PgClient,
    state: &PgClient,
    connection: &mut ReplicationConnection,
    unpublished: bool,
) -> Result<(Lsn, Option<Export>), ServiceError> {
    let name = &config.source.slot;
    let mut said = None;
    let why = loop {
        let Some(row) = slot::read_slot(client, name).await? else {
            let known = StateStore::read(state, name).await?;
            break known.source.is_some_and(|source| source.generation.0 > 0).then_some("is gone");
        };
        let foreign = |why: String| ServiceError::ForeignSlot { slot: name.clone(), why };
        if row.plugin.as_deref() != Some(slot::PLUGIN) {
            return Err(foreign(format!("its plugin is {}", row.plugin.as_deref().unwrap_or("none (it is physical)"))));
        }
        if row.database.as_deref() != Some(&*config.source.url.database) {
            return Err(foreign(format!("it belongs to database {}", row.database.unwrap_or_default())));
        }
        match (row.active_pid, row.confirmed_flush) {
            (None, _) if row.invalid || unpublished => {
                let why =
                    if row.invalid { "was invalidated: its log is gone" } else { "is older than its publication" };
                lost(config, why)?;
                slot::drop_slot(connection, name).await?;
                break Some(why);
            }
            (None, Some(confirmed)) => return Ok((confirmed, None)),
            (pid, _) => {
                if said != Some(pid) {
                    tracing::info!(slot = name, pid, "the slot is in use: waiting as a standby");
                    said = Some(pid);
                }
                sleep(STANDBY_EVERY).await;
            }
        }
    };
    if let Some(why) = why {
        lost(config, why)?;
        tracing::warn!(slot = name, why, "a new slot is made, every tenant is resynced");
    }
    tracing::info!(slot = name, "making the slot; this waits for the transactions that are running now");
    let CreatedSlot { consistent_point, snapshot_name } = slot::create_slot(connection, name, false).await?;
    let export = hold_export(connect(&config.source.url).await?, &snapshot_name, consistent_point).await?;
    Ok((consistent_point, Some(export)))
}

fn lost(config: &Config, why: &'static str) -> Result<(), ServiceError> {
    match config.on_slot_loss {
        OnSlotLoss::Resync => Ok(()),
        OnSlotLoss::Stop => Err(ServiceError::SlotLost { slot: config.source.slot.clone(), why }),
    }
}

/// The tasks of a session.
struct Running {
    shared: Arc<Shared>,
    /// Reading, and serving snapshots: what they end with ends the session.
    source: JoinSet<Result<(), ServiceError>>,
    tenants: JoinSet<Result<(), ServiceError>>,
    /// Writing down and confirming, which outlive the others by one last word.
    confirming: JoinSet<Result<(), ServiceError>>,
    stop_recording: CancellationToken,
    stop_reporting: CancellationToken,
}

impl Running {
    fn start(prepared: Prepared) -> Running {
        let Prepared { shared, mut known, client, reader, writer, created } = prepared;
        let (joins, requests) = mpsc::channel(shared.tenants.len().max(1));
        let mut running = Running {
            shared: shared.clone(),
            source: JoinSet::new(),
            tenants: JoinSet::new(),
            confirming: JoinSet::new(),
            stop_recording: CancellationToken::new(),
            stop_reporting: CancellationToken::new(),
        };
        for (index, lane) in shared.tenants.iter().enumerate() {
            let id: &TenantId = &lane.tenant.id;
            // Before the first frame is read: whoever follows gathers, and with a new slot whoever joins.
            let gathers = created.is_some();
            if gathers {
                shared.progress().join(id);
            }
            if gathers || lane.state() == TenantState::Following {
                lane.mailbox.open();
            }
            let worker = Worker::new(shared.clone(), index, joins.clone(), known.tenants.remove(id), gathers);
            running.tenants.spawn(worker.run());
        }
        running.source.spawn(Stream::new(shared.clone(), reader, client).run());
        running.source.spawn(join::serve(shared.clone(), requests, created));
        let watched = shared.clone();
        running.source.spawn(async move { watch::membership(&watched).await });
        let (recording, reporting) = (running.stop_recording.clone(), running.stop_reporting.clone());
        let record = shared.clone();
        running.confirming.spawn(async move { confirm::record(&record, recording).await });
        running.confirming.spawn(async move { confirm::report(&shared, writer, reporting).await });
        running
    }

    /// Until something breaks, or `stop`: then what waits is applied and confirmed.
    async fn run(mut self, stop: &CancellationToken) -> Result<(), ServiceError> {
        tokio::select! {
            error = first_error(&mut self.source) => return Err(error),
            error = first_error(&mut self.tenants) => return Err(error),
            error = first_error(&mut self.confirming) => return Err(error),
            () = stop.cancelled() => {}
        }
        tracing::info!("stopping: what waits is applied first");
        self.shared.drain.cancel();
        let drained = timeout(DRAIN, async {
            while let Some(done) = self.tenants.join_next().await {
                finished(done)?;
            }
            Ok::<(), ServiceError>(())
        });
        match drained.await {
            Ok(drained) => drained?,
            Err(_) => {
                tracing::warn!("some targets did not answer in time; what they lack is sent again at the next start")
            }
        }
        self.stop_recording.cancel();
        let last_words = timeout(LAST_WORDS, async {
            // The recorder ends first: nobody else adds to what is confirmed.
            if let Some(done) = self.confirming.join_next().await {
                finished(done)?;
            }
            self.stop_reporting.cancel();
            while let Some(done) = self.confirming.join_next().await {
                finished(done)?;
            }
            Ok::<(), ServiceError>(())
        });
        match last_words.await {
            Ok(said) => said?,
            Err(_) => tracing::warn!("the source does not answer: what was applied last is not confirmed"),
        }
        tracing::info!(position = %self.shared.progress().confirmed(), "stopped");
        Ok(())
    }
}

/// Waits for a task to fail; tasks that end well are of no interest.
async fn first_error(tasks: &mut JoinSet<Result<(), ServiceError>>) -> ServiceError {
    while let Some(done) = tasks.join_next().await {
        if let Err(error) = finished(done) {
            return error;
        }
    }
    std::future::pending().await
}

/// A task's result; its panic is passed on.
fn finished(done: Result<Result<(), ServiceError>, tokio::task::JoinError>) -> Result<(), ServiceError> {
    match done {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Nothing aborts these tasks but the end of their session.
        Err(_) => Ok(()),
    }
}

/// For people who look into the state.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown host".into(), |name| name.trim().to_owned())
}
