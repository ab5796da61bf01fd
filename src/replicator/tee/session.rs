//! One session of the Kafka output: connect to Kafka, read its positions, acquire the slot, publish a snapshot for tenants
//! that need one, then publish the stream.

use crate::capture::slot::{SystemIdentity, identify_system};
use crate::capture::{ReplicationConnection, ReplicationReader, ReplicationWriter};
use crate::config::{Config, Kafka, PartitionBy, Tenant, Topics};
use crate::model::{
    ByConfigured, ConfiguredIdx, Lsn, ResyncReason, StatusFinding, TeeRestart, TenantId, TenantKey, TopicTrouble,
};
use crate::pg::{PgClient, connect};
use crate::replicator::error::ServiceError;
use crate::replicator::reader::Stream;
use crate::replicator::session::context::SessionContext;
use crate::replicator::session::positions::report;
use crate::replicator::snapshotter::coordinator::make_export;
use crate::replicator::tee::batcher::{KafkaBatcher, PublishProgress};
use crate::replicator::tee::error::TeeError;
use crate::replicator::tee::kafka_sink::{Start, TeeSink};
use crate::replicator::tee::left_out;
use crate::replicator::tee::recorder::Recorder;
use crate::replicator::tee::slot::take_slot;
use crate::replicator::tee::snapshot::{Member, Pass};
use crate::replicator::tee::snapshot_records::held_snapshots;
use crate::snapshot::source_session;
use crate::state::{TeeFailure, TeePublished, TeeRejected, TeeRow, TenantState};
use crate::tee::kafka::blocking;
use crate::tee::kafka::{
    self, Addresses, ByTenant, CommitKind, Counts, Failure, Found, Limits, Ownership, Producer, Publisher, Reader,
    Refusals, Sizes, end_hanging, ensure_topics, fence, look, needs_smaller_batches, partition_count, schema_ids,
};
use crate::tee::{
    Batch, Encoder, Known, Own, Owner, Schemas, Snapshots, TenantPosition, TopicEnds, TopicSchemaIds, judge_positions,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Warn if Kafka has acknowledged nothing for this long.
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// What outlives a session.
#[derive(Default)]
pub(crate) struct Carried {
    /// The reason why every tenant has to take a snapshot; cleared once they have.
    pub(crate) start_over: Option<ResyncReason>,
    /// The messages that the brokers refused for their size.
    pub(crate) refusals: Refusals,
    /// What the last session publishes.
    pub(crate) recorder: Option<Recorder>,
}

/// Runs until an error or a drain. A failure in the state is cleared once everything that the source had when the session began is
/// published. `takes_snapshot` is set while the session takes a snapshot.
pub(crate) async fn session(
    context: &Arc<SessionContext>,
    config: &Config,
    kafka: &Kafka,
    carried: &mut Carried,
    takes_snapshot: &AtomicBool,
) -> Result<(), TeeError> {
    let Carried { start_over, refusals, recorder } = carried;
    *recorder = None;
    let rules = &context.config.users;
    let topics = Arc::new(Topics::new(&kafka.topic, &rules.table, config.tenants.iter().map(|tenant| &tenant.id))?);
    let owner = Owner::new(&kafka.slot, context.state.checkpoint_key());
    let mut connection = ReplicationConnection::connect(&context.config.source.url).await?;
    let SystemIdentity { system_identifier: system, flushed, .. } = identify_system(&mut connection).await?;
    let row = context.state.tee().await?;
    let failure = row.as_ref().and_then(TeeRow::failure);
    let is_requested = row.as_ref().is_some_and(|row| row.requested);
    if is_requested && row.as_ref().is_some_and(|row| row.state == TenantState::Following) {
        // The watchdog ends a session that follows, so that the next one takes the snapshot. This is the next one.
        context.put_tee(&kafka.slot, TenantState::Joining, failure).await?;
    }
    let published = row.as_ref().and_then(|row| row.published.clone());
    let ids: HashSet<TenantId> = config.tenants.iter().map(|tenant| tenant.id.clone()).collect();
    let Opened { producer, positions, snapshots, found, limits, ends } =
        open(kafka, &topics, &owner, &system, published.as_ref(), ids).await?;
    report_losses(&positions, &found);
    let tenants: ByConfigured<&Tenant> = config.tenants.iter().map(Arc::as_ref).collect();
    let largest = tenants.indexes().map(|index| limits.of(topics.of(index))).collect();
    let ids = topic_schema_ids(kafka, &topics, &tenants).await?;
    let encoder = Arc::new(Encoder::new(kafka, &context.config.source.url.database, &rules.table, largest, ids));

    let client = connect(&context.config.source.url).await?;
    source_session(&client).await?;
    let mapping = context.mapping();
    let mut taken = take_slot(&client, context, kafka, connection, &positions).await?;
    let all = start_over.is_some() || is_requested || taken.created.is_some();

    let metrics = &context.status.metrics;
    let counts = Counts { messages: metrics.tee_messages.clone(), transactions: metrics.tee_transactions.clone() };
    let names: ByConfigured<String> = config.tenants.iter().map(|tenant| tenant.id.to_string()).collect();
    let by_tenant = match (kafka.partition_by, topics.distinct().first()) {
        (PartitionBy::Tenant, Some(topic)) => {
            let (producer, topic) = (producer.clone(), (*topic).to_owned());
            let count = blocking(move || partition_count(&producer, &topic)).await?;
            Some(ByTenant::new(context.generation, &names, count))
        }
        (PartitionBy::Tenant, None) | (PartitionBy::Key, _) => None,
    };
    let partitions = by_tenant.as_ref().map(|by_tenant| by_tenant.partitions.clone());
    let addresses = Addresses { tenants: names, by_tenant };
    let ids: Vec<&str> = config.tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    context.state.keep_left_out_of(&ids).await?;
    let rejected = context.state.tee_rejected().await?;
    let (left_out, leaving_out) = mpsc::channel(1);
    let held = left_out::held(&rejected, &tenants);
    let sizes = Sizes { limits: limits.clone(), refusals: refusals.clone(), held, left_out };
    let ownership = Ownership { owner: owner.clone(), ends };
    let publisher = Publisher::start(producer, kafka, encoder.clone(), addresses, counts, sizes, ownership);
    let Publisher { jobs, done, failed } =
        publisher.map_err(|error| Failure::plain(format!("no thread for the publisher: {error}")))?;
    let progress = Arc::new(PublishProgress::new(done, taken.from.position, failure.is_some()));
    let mut batcher = KafkaBatcher {
        jobs,
        topics: topics.clone(),
        encoder,
        owner,
        batch: Batch::default(),
        progress: progress.clone(),
    };

    let work = async {
        let known = |id: &TenantId| positions.tenants.get(id);
        let mut start: ByConfigured<Lsn> =
            tenants.values().map(|tenant| known(&tenant.id).map_or(Lsn::ZERO, |known| known.position)).collect();
        let fingerprint = |key: &TenantKey| rules.redactions.tenant_fingerprint(&mapping, key);
        // The snapshot that `users-sync apply` reads has to be whole, and in the tenant's partition.
        let is_unusable = |index: ConfiguredIdx, id: &TenantId| {
            let partition = partitions.as_ref().map(|partitions| partitions[index]);
            let recorded = snapshots.tenants.get(id).map(|snapshot| snapshot.partition);
            partition.is_some() && recorded.is_some() && recorded != partition
                || kafka.group.is_some() && known(id).is_some_and(|known| known.partial)
        };
        let must_join = |index: ConfiguredIdx, id: &TenantId| all || is_unusable(index, id);
        let members = members(&tenants, &batcher.topics, &positions, &found, fingerprint, must_join, taken.lost);
        let configured = config.tenant_ids();
        let removed: Vec<TenantId> = positions.tenants.keys().filter(|id| !configured.contains(id)).cloned().collect();
        let joining: HashSet<&TenantId> = members.iter().map(|member| &tenants[member.index].id).collect();
        let corrections = partitions.as_ref().map_or_else(Vec::new, |partitions| {
            let stays = |id: &TenantId| !joining.contains(id);
            let there = held_snapshots(&tenants, context.generation, partitions, &positions, stays);
            snapshots.corrections(&batcher.owner, &there)
        });
        let joins = !members.is_empty() || !removed.is_empty();
        if !joins && !corrections.is_empty() {
            batcher.send(CommitKind::Transaction(corrections.clone()), None).await?;
        }
        if joins {
            takes_snapshot.store(true, Ordering::Relaxed);
            context.put_tee(&kafka.slot, TenantState::Joining, failure).await?;
            // A snapshot that is not finished begins again, also in another session.
            let unfinished = joining.iter().filter(|id| positions.tenants.contains_key(**id));
            let unfinished = unfinished.map(|id| TenantPosition::record(&batcher.owner, id, None));
            let first = corrections.into_iter().chain(unfinished).collect();
            batcher.send(CommitKind::Transaction(first), None).await?;
            let export = match taken.created.take() {
                Some(export) => export,
                None => make_export(&context.config).await?,
            };
            if members.len() == config.tenants.len() {
                // The snapshot contains everything older, so the stream starts at its position.
                taken.from.position = taken.from.position.max(export.position);
                taken.from.split = None;
            }
            tracing::info!(tenants = members.len(), position = %export.position, "Kafka output: publishing a snapshot");
            let ids: Vec<&str> = joining.iter().map(|id| id.as_str()).collect();
            let begun = context.state.server_time().await?;
            let partitions = partitions.as_ref();
            let pass =
                Pass { context, config, tenants: &tenants, kafka, from: &taken.from, removed: &removed, partitions };
            let position = export.position;
            pass.run(export, &members, &mut batcher).await?;
            context.status.set_tee_rejected(context.state.finish_left_out(&ids, &begun).await?);
            members.iter().for_each(|member| start[member.index] = position);
        }
        let left: Vec<TeeRejected> = rejected.iter().filter(|row| !joining.contains(&row.tenant)).cloned().collect();
        left_out::retry(context, config, &tenants, &left, &limits, refusals, &mut batcher).await?;
        *start_over = None;
        if is_requested {
            context.state.finish_tee_request().await?;
        }
        let begun = taken.from.position;
        let confirm_at = failure.map(|_| flushed).filter(|flushed| *flushed > begun);
        progress.is_failing.store(confirm_at.is_some(), Ordering::Relaxed);
        context.put_tee(&kafka.slot, TenantState::Following, failure.filter(|_| confirm_at.is_some())).await?;
        takes_snapshot.store(false, Ordering::Relaxed);
        let published = TeePublished {
            position: begun,
            system,
            tenants: config.tenants.iter().map(|tenant| tenant.id.clone()).collect(),
        };
        context.state.put_published(&published).await?;
        let recorder = recorder.insert(Recorder { progress: progress.clone(), published, begun, confirm_at });
        if confirm_at.is_none() {
            Recorder::say_streaming(begun);
        }
        let start = Start { position: taken.from.clone(), tenants: start, confirm_at };
        let replication = taken.stream(context, kafka).await?;
        tokio::select! {
            followed = follow(context, config, start, &mapping, batcher, client, replication) => followed,
            recorded = recorder.run(context) => recorded,
        }
    };
    let failed = async {
        match failed.await {
            Ok(failure) => failure,
            // The publisher ends without a failure only after its senders are dropped.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        failure = failed => Err(failure.into()),
        worked = work => worked,
        // A snapshot waits for Kafka, too.
        watched = watch_acknowledgements(context, &progress) => watched,
        recorded = left_out::record(context, &tenants, leaving_out) => recorded,
        raised = left_out::watch_limits(context, kafka, &topics, &limits) => raised,
        () = context.mapping_changed(&mapping) => {
            Err(TeeError::Service(ServiceError::StartOver(ResyncReason::SourceAltered)))
        }
    }
}

/// The ids of the schemas of each tenant's topic; none if the encoding has no schemas.
async fn topic_schema_ids(
    kafka: &Kafka,
    topics: &Topics,
    tenants: &ByConfigured<&Tenant>,
) -> Result<TopicSchemaIds, TeeError> {
    let (Some(registry), Some(schemas)) = (&kafka.registry, Schemas::new(kafka)) else {
        return Ok(TopicSchemaIds::default());
    };
    let ids = schema_ids(registry, &schemas, &topics.distinct()).await?;
    Ok(tenants.indexes().map(|index| ids[topics.of(index)]).collect())
}

/// A producer that is ready to write, and what the topics hold.
struct Opened {
    producer: Producer,
    positions: Known,
    /// Empty without a snapshots topic.
    snapshots: Snapshots,
    found: Found,
    limits: Limits,
    /// As [`Found::ends`].
    ends: Vec<(String, TopicEnds, bool)>,
}

/// Looks for other installations before anything is written or fenced. Then fences older processes, and reads the positions
/// again if they were not final.
async fn open(
    kafka: &Kafka,
    topics: &Arc<Topics>,
    owner: &Owner,
    system: &str,
    published: Option<&TeePublished>,
    mut tenants: HashSet<TenantId>,
) -> Result<Opened, TeeError> {
    // It fences no other producer before `fence`.
    let settings = kafka.clone();
    let mut producer = blocking(move || kafka::connect(&settings, None)).await?;
    let (settings, names, its) =
        (kafka.clone(), topics.clone(), (owner.clone(), system.to_owned(), published.cloned()));
    let found = blocking(move || {
        let (owner, system, published) = &its;
        let topics = names.distinct();
        look(&settings, &Own { owner, system, published: published.as_ref(), topics: &topics })
    });
    let mut found = found.await?;
    let max_bytes = ensure_topics(kafka, &found.before, &topics.distinct()).await?;
    let limits = Limits::new(kafka, max_bytes);
    if let Some(batch) = needs_smaller_batches(limits.lowest()) {
        let settings = kafka.clone();
        producer = blocking(move || kafka::connect(&settings, Some(batch))).await?;
    }
    let (settings, fenced, its) = (kafka.clone(), producer.clone(), owner.clone());
    // Also those of a former configuration, which may come back.
    tenants.extend(found.known.tenants.keys().cloned());
    // A new topic holds no transaction, and not every broker knows it yet.
    let names = topics.distinct().into_iter().chain(kafka.own_topics());
    let old: Vec<String> = names.filter(|topic| found.before.contains(*topic)).map(str::to_owned).collect();
    let read = found.read.take();
    let snapshots = kafka.snapshots().filter(|topic| found.before.contains(*topic)).map(str::to_owned);
    let newer = blocking(move || {
        if settings.exactly_once {
            fence(&fenced)?;
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            if end_hanging(&fenced, &settings, &its, &old, &tenants)? {
                tracing::warn!(
                    "the brokers had left a transaction open: ended it, publishing every tenant's users again"
                );
            }
        }
        let reader = Reader::new(&settings)?;
        let newer = match read {
            Some(end) if reader.is_at(&settings.positions_topic, &end)? => None,
            _ => Some(reader.positions(&settings, &its)?),
        };
        let snapshots = snapshots.map(|topic| reader.snapshots(&topic, &its)).transpose()?;
        Ok((newer, snapshots.unwrap_or_default()))
    });
    let topics = topics.distinct();
    let (newer, snapshots) = newer.await?;
    let positions = match newer {
        None => std::mem::take(&mut found.known),
        Some(newer) => {
            let judged = judge_positions(newer, &Own { owner, system, published, topics: &topics });
            judged.map_err(Failure::foreign)?
        }
    };
    let ends = found.ends(&topics, &positions.topics);
    Ok(Opened { positions, snapshots, producer, found, limits, ends })
}

/// Logs what has to be published again.
fn report_losses(positions: &Known, found: &Found) {
    for topic in &found.lost {
        tracing::warn!(
            topic,
            reason_code = TopicTrouble::Lost.code(),
            "the topic was deleted, created again, or lost its last records: publishing its tenants' users again"
        );
    }
    for tenant in &positions.altered {
        tracing::warn!(
            %tenant,
            reason_code = TeeRestart::PositionAltered.code(),
            "another program wrote the tenant's record in the positions topic: publishing its users again"
        );
    }
}

/// The tenants that need a snapshot: their users are not in their topic, or were produced by another mapping. `lost`: the topics'
/// positions are unknown, so a topic may hold users of any tenant.
fn members(
    tenants: &ByConfigured<&Tenant>,
    topics: &Topics,
    positions: &Known,
    Found { before, lost: lost_topics, .. }: &Found,
    fingerprint: impl Fn(&TenantKey) -> String,
    must_join: impl Fn(ConfiguredIdx, &TenantId) -> bool,
    lost: bool,
) -> Vec<Member> {
    let members = tenants.iter().filter_map(|(index, tenant)| {
        let (known, topic) = (positions.tenants.get(&tenant.id), topics.of(index));
        let mapping = fingerprint(&tenant.key);
        let had_topic = before.contains(topic);
        let is_whole = had_topic && !lost_topics.iter().any(|lost| lost == topic);
        let is_there = is_whole && known.is_some_and(|known| known.mapping == mapping && known.topic == topic);
        let is_new = known.is_none() && !lost && !positions.published.contains(&tenant.id);
        (must_join(index, &tenant.id) || !is_there).then_some(Member { index, mapping, is_new, had_topic })
    });
    members.collect()
}

/// Publishes the stream, and confirms published positions to the source.
async fn follow(
    context: &Arc<SessionContext>,
    config: &Config,
    start: Start,
    mapping: &str,
    batcher: KafkaBatcher,
    client: PgClient,
    (reader, writer): (ReplicationReader, ReplicationWriter),
) -> Result<(), TeeError> {
    let progress = batcher.progress.clone();
    let sink = TeeSink::new(context.clone(), config, batcher, start, mapping, progress.news.clone());
    let stream = Stream::new(context.clone(), sink, context.drain.clone(), reader, client);
    let positions = || {
        let positions = progress.positions();
        context.status.set_tee_published(positions.confirmed);
        positions
    };
    let reporting = report(positions, &progress.news, writer, CancellationToken::new());
    tokio::select! {
        streamed = stream.run() => Ok(streamed?),
        reported = reporting => Ok(reported?),
    }
}

/// Wakes the reporter on every acknowledgement, and reports when acknowledgements stop and resume.
async fn watch_acknowledgements(context: &SessionContext, progress: &PublishProgress) -> Result<(), TeeError> {
    let mut done = progress.done();
    let mut is_slow = false;
    loop {
        match timeout(SLOW_AFTER, done.changed()).await {
            // The publisher has ended and reports its failure.
            Ok(Err(_)) => std::future::pending().await,
            Ok(Ok(())) => {
                progress.acknowledged();
                progress.news.notify_one();
            }
            Err(_) => {}
        }
        let late = progress.unacknowledged_for().filter(|waited| *waited > SLOW_AFTER);
        if late.is_some() != is_slow {
            is_slow = late.is_some();
            let reason = is_slow.then_some("Kafka has acknowledged nothing for a while");
            match reason {
                Some(reason) => tracing::warn!(
                    reason,
                    reason_code = StatusFinding::Kafka.code(),
                    "Kafka output is waiting for Kafka"
                ),
                None => tracing::info!("Kafka acknowledges messages again"),
            }
            // The failure of the last session says more.
            if !progress.is_failing.load(Ordering::Relaxed) {
                context.note_tee(reason.map(|reason| TeeFailure { reason, ..TeeFailure::default() })).await?;
            }
        }
    }
}
