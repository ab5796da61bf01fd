//! One session of one partition: fences older processes of the partition, and runs the workers of its tenants, with the topic
//! in place of the source.

use crate::clock;
use crate::config::{Config, Kafka};
use crate::model::{Anchor, ByTenant, Generation, Lsn, TenantId};
use crate::pg::connect_state;
use crate::replicator::consumer::lag::record_lag;
use crate::replicator::consumer::offsets::Boundaries;
use crate::replicator::consumer::reader::TopicReader;
use crate::replicator::consumer::rebuild;
use crate::replicator::consumer::shared::Shared;
use crate::replicator::consumer::snapshot_index::SnapshotIndex;
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::holder;
use crate::replicator::session::context::{SessionContext, SessionStart};
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::session::topic_snapshots::{PublishedSnapshot, TopicSnapshots};
use crate::replicator::source::shape::KnownShape;
use crate::replicator::tasks::{SessionExit, SessionTasks};
use crate::state::{Pauses, StateStore, TenantRow, TenantState};
use crate::sync::lock;
use crate::tee::kafka::{Failure, FoundInRange, PartitionStream, RangeReader, blocking, partition_of, record_headers};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Interval at which a new offset is committed for the group.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// If the next message is older, compaction may have removed deletes. Below a `delete.retention.ms` of one day, Kafka's default.
const MAX_AGE: Duration = Duration::from_secs(20 * 3600);

/// The name of the row in the state that fences the processes of a partition.
fn fence_name(slot: &str, topic: &str, partition: i32) -> String {
    format!("{slot}/{topic}/{partition}")
}

/// A session without its reader.
struct Prepared {
    context: Arc<SessionContext>,
    kafka: Kafka,
    snapshots: Arc<TopicSnapshots>,
    completed: mpsc::UnboundedReceiver<TenantId>,
    rows: BTreeMap<TenantId, TenantRow>,
    pauses: Pauses,
    /// The offset from which the partition is read.
    start: i64,
}

/// Runs until the partition is taken away, the process stops, or an error. `configs` has the tenants of the partition only, and
/// `generation` is the newest one that an earlier session has seen.
pub(super) async fn run(
    shared: &Arc<Shared>,
    stream: &Arc<PartitionStream>,
    generation: Generation,
    configs: &mut watch::Receiver<Config>,
    stop: &CancellationToken,
) -> Result<SessionExit, ServiceError> {
    let config = configs.borrow_and_update().clone();
    // `apply` requires the section `kafka`.
    let Some(kafka) = config.kafka.clone() else { return Ok(SessionExit::Reconfigured) };
    let prepared = tokio::select! {
        prepared = prepare(shared, stream, generation, &config, kafka) => prepared?,
        () = stop.cancelled() => return Ok(SessionExit::Stopped),
    };
    let Prepared { context, kafka, snapshots, completed, rows, pauses, start } = prepared;
    let boundaries = Arc::new(Mutex::new(Boundaries::new(start)));
    let known = (snapshots.clone(), shared.index.clone());
    let reader = TopicReader::new(context.clone(), stream.clone(), start, kafka.clone(), known, boundaries.clone());
    let lagging = kafka.clone();
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
    tasks.spawn_source(record_lag(context.clone(), shared.clone(), lagging, stream.clone(), boundaries.clone()));
    tasks.spawn_source(follow_snapshots(context.clone(), shared.index.clone(), snapshots, completed));
    let (committing, committed) = (context.clone(), stream.clone());
    tasks.spawn_confirming(|ends| commit_offsets(committing, committed, boundaries, ends));
    let _shown = shared.sessions.add(stream.partition(), context);
    let done = tasks.run(config, configs, stop).await;
    stream.pause();
    done
}

/// Fences older processes, finds out which tenants can go on from where the partition is read, and records which cannot. Reading
/// and committing begin after that.
async fn prepare(
    shared: &Arc<Shared>,
    stream: &Arc<PartitionStream>,
    seen: Generation,
    config: &Config,
    kafka: Kafka,
) -> Result<Prepared, ServiceError> {
    shared.index.read_once().await;
    let partition = stream.partition();
    let completed = shared.index.subscribe(partition);
    let newest = config.tenants.iter().filter_map(|tenant| Some(shared.index.of(&tenant.id)?.generation)).max();
    let generation = seen.max(newest.unwrap_or_default());
    let state = connect_state(&config.state_url).await.map_err(ServiceError::StateConnect)?;
    let fence = fence_name(&config.source.slot, stream.topic(), partition);
    let state = StateStore::acquire_partition(state, &config.source.slot, &fence, &holder()).await?;
    let (settings, reading) = (kafka.clone(), stream.clone());
    let Begin { offset, has_gap } = blocking(move || find_begin(&settings, &reading)).await?;
    if has_gap {
        tracing::warn!(
            partition,
            "the topic no longer has everything since the committed offset: rebuilding every tenant"
        );
    }
    let ids: Vec<&str> = config.tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    let (mut rows, pauses) = state.load_tenants(&ids).await?;
    let snapshots = Arc::new(TopicSnapshots::default());
    let (mut places, mut joining) = (ByTenant::default(), Vec::new());
    for tenant in &config.tenants {
        let place = places.push(());
        let published = shared.index.of(&tenant.id);
        if let Some(row) = rows.get_mut(&tenant.id).filter(|row| row.state == TenantState::Following) {
            let goes_on = |snapshot: &&PublishedSnapshot| {
                !has_gap && row.generation == generation && row.position >= snapshot.position
            };
            match published.as_ref().filter(goes_on) {
                Some(snapshot) => snapshots.includes(place, snapshot.position),
                None => {
                    row.state = TenantState::Joining;
                    joining.push(tenant.id.as_str());
                }
            }
        }
        if let Some(snapshot) = published {
            snapshots.published(place, snapshot);
        }
    }
    let others = state.unparked().await?;
    let configured = config.tenant_ids();
    let is_absent =
        |id: &&TenantId| partition_of(id.as_str(), shared.partitions) == partition && !configured.contains(id);
    let absent: Vec<&str> = others.iter().filter(is_absent).map(TenantId::as_str).collect();
    state.begin_partition(&joining, &absent).await?;
    let start = SessionStart {
        generation,
        confirmed: Lsn::ZERO,
        source_start: String::new(),
        publication: String::new(),
        epochs: BTreeMap::new(),
        holder: holder(),
        shape: KnownShape::default(),
        anchor: Anchor::default(),
        written: Lsn::ZERO,
        topic: Some(snapshots.clone()),
        turns: shared.turns.share(),
    };
    let handles = config.tenants.iter().map(|tenant| {
        let row = rows.get(&tenant.id).filter(|row| row.generation == generation);
        let counts = shared.status.metrics.tenant(&tenant.id);
        TenantHandle::new(tenant.clone(), config.limits.tenant_memory, shared.memory.clone(), counts, row)
    });
    let (memory, status) = (shared.memory.clone(), shared.status.clone());
    let context = SessionContext::new(config.clone(), state, start, handles.collect(), memory, "", status);
    let reading = stream.clone();
    blocking(move || reading.start(offset)).await?;
    let tenants = config.tenants.len();
    tracing::info!(partition, offset, %generation, epoch = %context.epoch, tenants, "applying a partition");
    Ok(Prepared { context: Arc::new(context), kafka, snapshots, completed, rows, pauses, start: offset })
}

/// Where a partition is read from.
struct Begin {
    offset: i64,
    /// Messages since the committed offset may be missing.
    has_gap: bool,
}

/// Finds the committed offset, and whether the partition still has everything behind it: not if it begins later, was created
/// again, or if compaction may have removed deletes. Blocks.
fn find_begin(kafka: &Kafka, stream: &PartitionStream) -> Result<Begin, Failure> {
    let (first, end) = stream.bounds()?;
    let Some(offset) = stream.committed()? else {
        // A new group: what the tenants hold tells where they go on.
        return Ok(Begin { offset: first, has_gap: false });
    };
    if offset < first || offset > end {
        return Ok(Begin { offset: first, has_gap: true });
    }
    let place = (stream.topic(), stream.partition());
    let age = RangeReader::new(kafka)?.read(place, offset, |found| match found {
        FoundInRange::Message(message) => {
            ControlFlow::Break(record_headers(message).place().ok().map(|place| place.at))
        }
        FoundInRange::End => ControlFlow::Break(None),
        FoundInRange::Nothing => ControlFlow::Continue(()),
    })?;
    Ok(Begin { offset, has_gap: age.is_some_and(|at| Some(at) < clock::ago(MAX_AGE)) })
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
        let starts_over = snapshots.published(place, snapshot);
        snapshots.completed.notify_one();
        if starts_over {
            context.rebuild(place);
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
