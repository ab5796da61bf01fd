//! One session of one partition: fences older processes of the partition, and runs the workers of its tenants, with the topic
//! in place of the source.

use crate::config::Config;
use crate::model::{Anchor, Generation, Lsn, RestartSignal, TenantId};
use crate::pg::connect_state;
use crate::replicator::consumer::offsets::Boundaries;
use crate::replicator::consumer::reader::TopicReader;
use crate::replicator::consumer::rebuild;
use crate::replicator::consumer::sessions_view::PartitionSessions;
use crate::replicator::consumer::snapshot_index::SnapshotIndex;
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::holder;
use crate::replicator::session::context::{SessionContext, SessionStart};
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::session::topic_snapshots::TopicSnapshots;
use crate::replicator::source::shape::KnownShape;
use crate::replicator::tasks::{SessionExit, SessionTasks};
use crate::route::Memory;
use crate::state::{StateStore, TenantState};
use crate::status::process::ProcessStatus;
use crate::sync::lock;
use crate::tee::kafka::{PartitionStream, blocking};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Interval at which a new offset is committed for the group.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// A partition that no process has applied for this long: compaction may have removed deletes that its tenants lack. Below Kafka's
/// default of `delete.retention.ms`, a day.
const MAX_ABSENCE: Duration = Duration::from_secs(20 * 3600);

/// What the sessions of a process share.
pub(super) struct Shared {
    pub(super) status: Arc<ProcessStatus>,
    pub(super) index: Arc<SnapshotIndex>,
    pub(super) sessions: Arc<PartitionSessions>,
    /// `limits.memory` is that of the process, whatever the number of its partitions.
    pub(super) memory: Arc<Memory>,
}

/// What a partition's sessions remember of each other.
#[derive(Default)]
pub(super) struct Remembered {
    /// The newest generation that a message had.
    pub(super) generation: Generation,
}

/// The name of the row in the state that fences the processes of a partition.
fn fence_name(slot: &str, topic: &str, partition: i32) -> String {
    format!("{slot}/{topic}/{partition}")
}

/// Runs until the partition is taken away, the process stops, or an error. `configs` has the tenants of the partition only.
pub(super) async fn run(
    shared: &Arc<Shared>,
    stream: &Arc<PartitionStream>,
    remembered: &mut Remembered,
    configs: &mut watch::Receiver<Config>,
    stop: &CancellationToken,
) -> Result<SessionExit, ServiceError> {
    let config = configs.borrow_and_update().clone();
    // `apply` starts with a section `kafka` only.
    let Some(kafka) = config.kafka.clone() else { return Ok(SessionExit::Reconfigured) };
    tokio::select! {
        () = shared.index.read_once() => {}
        () = stop.cancelled() => return Ok(SessionExit::Stopped),
    }
    let partition = stream.partition();
    let completed = shared.index.subscribe(partition);
    let newest = config.tenants.iter().filter_map(|tenant| Some(shared.index.of(&tenant.id)?.generation)).max();
    let generation = remembered.generation.max(newest.unwrap_or_default());
    let state = connect_state(&config.state_url).await.map_err(ServiceError::StateConnect)?;
    let fence = fence_name(&config.source.slot, stream.topic(), partition);
    let (state, absent) = StateStore::acquire_partition(state, &config.source.slot, &fence, &holder()).await?;
    let snapshots = Arc::new(TopicSnapshots::default());
    let ids: Vec<&str> = config.tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    let (mut rows, pauses) = state.load_tenants(&ids).await?;
    let start = SessionStart {
        generation,
        confirmed: Lsn::ZERO,
        source_start: String::new(),
        publication: String::new(),
        epochs: Default::default(),
        holder: holder(),
        shape: KnownShape::default(),
        anchor: Anchor::default(),
        written: Lsn::ZERO,
        topic: Some(snapshots.clone()),
    };
    let budget = config.limits.tenant_memory;
    let mut handles = Vec::with_capacity(config.tenants.len());
    let mut known = crate::model::ByTenant::default();
    for tenant in &config.tenants {
        let index = known.push(());
        let row = rows.get_mut(&tenant.id);
        let published = shared.index.of(&tenant.id);
        if let Some(row) = row {
            let holds = published.as_ref().is_some_and(|snapshot| {
                row.state == TenantState::Following && row.generation == generation && row.position >= snapshot.position
            });
            match &published {
                Some(snapshot) if holds && absent <= MAX_ABSENCE => snapshots.includes(index, snapshot.position),
                // What the topic brings does not continue what the target holds.
                _ if row.state == TenantState::Following => row.state = TenantState::Joining,
                _ => {}
            }
        }
        if let Some(snapshot) = published {
            snapshots.published(index, snapshot);
        }
        let row = rows.get(&tenant.id).filter(|row| row.generation == generation);
        let counts = shared.status.metrics.tenant(&tenant.id);
        handles.push(TenantHandle::new(tenant.clone(), budget, shared.memory.clone(), counts, row));
    }
    let context =
        SessionContext::new(config.clone(), state, start, handles, shared.memory.clone(), "", shared.status.clone());
    let context = Arc::new(context);
    let begin = {
        let stream = stream.clone();
        blocking(move || {
            let offset = stream.committed()?;
            stream.start(offset)?;
            Ok(offset.unwrap_or(0))
        })
    };
    let begin = begin.await?;
    tracing::info!(partition, offset = begin, %generation, epoch = %context.epoch, tenants = config.tenants.len(), "applying");
    let boundaries = Arc::new(Mutex::new(Boundaries::default()));
    let reader = TopicReader::new(context.clone(), stream.clone(), begin, snapshots.clone(), boundaries.clone());
    let (mut tasks, requests) = SessionTasks::of_partition(context.clone(), rows, &pauses);
    tasks.spawn_source(reader.run());
    tasks.spawn_source(rebuild::serve(
        context.clone(),
        kafka,
        stream.clone(),
        snapshots.clone(),
        shared.index.clone(),
        requests,
    ));
    tasks.spawn_source(follow_snapshots(context.clone(), shared.index.clone(), snapshots, completed));
    let (committing, committed) = (context.clone(), stream.clone());
    tasks.spawn_confirming(|ends| commit_offsets(committing, committed, boundaries, ends));
    let _shown = shared.sessions.add(partition, context);
    let done = tasks.run(config, configs, stop).await;
    stream.pause();
    if let Err(ServiceError::OtherGeneration(newer)) = &done {
        remembered.generation = *newer;
    }
    done
}

/// Restarts the tenants whose users were published again.
async fn follow_snapshots(
    context: Arc<SessionContext>,
    index: Arc<SnapshotIndex>,
    snapshots: Arc<TopicSnapshots>,
    mut completed: mpsc::UnboundedReceiver<TenantId>,
) -> Result<(), ServiceError> {
    while let Some(tenant) = completed.recv().await {
        let Some(place) = context.index_of(&tenant) else { continue };
        let Some(snapshot) = index.of(&tenant) else {
            snapshots.withdrawn(place);
            continue;
        };
        if snapshot.generation > context.generation {
            return Err(ServiceError::OtherGeneration(snapshot.generation));
        }
        if snapshots.published(place, snapshot) && context.tenants.get(place).takes_part() {
            context.interrupt(place, RestartSignal::PublishedAgain);
        }
    }
    Ok(())
}

/// Commits offsets until `ends`, then once more: those before which every tenant holds everything, as the state records.
async fn commit_offsets(
    context: Arc<SessionContext>,
    stream: Arc<PartitionStream>,
    boundaries: Arc<Mutex<Boundaries>>,
    ends: CancellationToken,
) -> Result<(), ServiceError> {
    let mut timer = interval(COMMIT_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = ends.cancelled() => {}
        }
        let is_last = ends.is_cancelled();
        let confirmed = context.progress().confirmed();
        let safe = lock(&boundaries).take(confirmed);
        if let Some(offset) = safe {
            let stream = stream.clone();
            if let Err(failure) = blocking(move || stream.commit(offset, is_last)).await {
                // Another process may have the partition by now. What is not committed is read again, and not applied again.
                tracing::debug!(%failure, "offset not committed");
            }
        }
        if is_last {
            return Ok(());
        }
    }
}
