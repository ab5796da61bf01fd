//! `users-sync apply`: applies the users' topic of the Kafka output to the targets, as one process of a consumer group.
//!
//! ```text
//! consumer::run               one group membership after another
//! |-- group                   a thread        tee::kafka::Group: polls, and serves rebalances
//! |-- snapshot index          two threads     SnapshotIndex: the last complete snapshot of each tenant, the publisher's position
//! `-- partition, many         a task each     session::run, one after another, with backoff
//!     |-- reader              `source` set    TopicReader, in place of the replication stream
//!     |-- rebuild             `source` set    rebuild::serve, in place of the snapshotter
//!     |-- follow_snapshots    `source` set    restarts tenants whose users were published again
//!     |-- tenant, many        `tenants` set   the workers of `run`
//!     |-- recorder            `confirming` set  that of `run`
//!     `-- commit_offsets      `confirming` set  in place of the reporter
//! ```
//!
//! A partition is fenced by a row of its own in the state, and each target by its checkpoint: a process that has lost its
//! partition without knowing it writes nothing more.

mod extent;
mod lag;
mod offsets;
mod reader;
mod rebuild;
mod session;
mod sessions_view;
mod shared;
mod snapshot_index;

use crate::config::{Config, Kafka, Tenant};
use crate::model::{CheckpointKey, Generation};
use crate::pg::connect_state;
use crate::replicator::backoff::Backoffs;
use crate::replicator::consumer::sessions_view::PartitionSessions;
use crate::replicator::consumer::shared::{EndWatch, Shared};
use crate::replicator::consumer::snapshot_index::SnapshotIndex;
use crate::replicator::error::ServiceError;
use crate::replicator::session::apply_turns::ApplyTurns;
use crate::replicator::session::config_changes::replaced;
use crate::replicator::tasks::SessionExit;
use crate::route::Memory;
use crate::state::StateStore;
use crate::status::process::{ProcessStatus, StreamingGuard};
use crate::tee::Owner;
use crate::tee::kafka::{Failure, Group, GroupEvent, PartitionStream, blocking, partition_of, topic_partitions};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{Instrument, info_span};

const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A session or membership that has worked for this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// Applies until `stop` is cancelled. A configuration that differs in more than its tenants begins another membership.
///
/// # Errors
/// None: failures are retried.
pub async fn run(
    mut configs: watch::Receiver<Config>,
    status: Arc<ProcessStatus>,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let mut backoff = Backoffs::new(RETRY_MIN, RETRY_MAX);
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let Err(error) = membership(&mut configs, &status, &stop).await else { continue };
        if begun.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        let wait = backoff.step(error.trouble());
        status.set_failing(error.trouble(), error.to_string());
        tracing::warn!(%error, reason_code = error.trouble().code(), ?wait, "consuming from Kafka has stopped, retrying");
        tokio::select! {
            () = sleep(wait) => {}
            () = replaced(&mut configs) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// A partition that this process applies.
struct Assigned {
    configs: watch::Sender<Config>,
    /// Dropping it stops the sessions.
    stop: DropGuard,
    task: JoinHandle<()>,
}

struct Membership {
    shared: Arc<Shared>,
    group: Group,
    topic: String,
    assigned: HashMap<i32, Assigned>,
    streaming: Option<StreamingGuard>,
}

/// One membership of the group.
async fn membership(
    configs: &mut watch::Receiver<Config>,
    status: &Arc<ProcessStatus>,
    stop: &CancellationToken,
) -> Result<(), ServiceError> {
    let config = configs.borrow_and_update().clone();
    let (Some(kafka), Some(group)) =
        (config.kafka.clone(), config.kafka.as_ref().and_then(|kafka| kafka.group.clone()))
    else {
        return Err(Failure::plain("kafka.group is not set".to_owned()).into());
    };
    let topic = config.shared_topic().unwrap_or_default();
    let (settings, name) = (kafka.clone(), topic.clone());
    let count = tokio::select! {
        count = blocking(move || topic_partitions(&settings, &name)) => count?,
        () = stop.cancelled() => return Ok(()),
    };
    let key = tokio::select! {
        key = checkpoint_key(&config) => key?,
        () = stop.cancelled() => return Ok(()),
    };
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let index = Arc::new(SnapshotIndex::new());
    let owner = Owner::new(&kafka.slot, &key);
    tokio::spawn(index.clone().follow(kafka.clone(), owner.clone(), ended.clone()));
    tokio::spawn(index.clone().follow_positions(kafka.clone(), owner, ended));
    let (group, mut events) = Group::join(&kafka, &group, &topic)?;
    let sessions = Arc::new(PartitionSessions::new(config.source.slot.clone(), config.limits.source_wal));
    let memory = Arc::new(Memory::new(config.limits.memory));
    let shared = Arc::new(Shared {
        status: status.clone(),
        index,
        sessions,
        memory,
        turns: ApplyTurns::new(),
        partitions: count,
        ends: EndWatch::default(),
    });
    let mut member = Membership { shared, group, topic, assigned: HashMap::new(), streaming: None };
    status.set_standby();
    let done = member.serve(config, &kafka, &mut events, configs, stop).await;
    member.revoke_all().await;
    // Without a receiver, leaving waits for no session.
    drop(events);
    let left = blocking(move || member.group.leave()).await;
    done.and(left.map_err(ServiceError::from))
}

/// The key that signs the checkpoints of the slot's tenants.
async fn checkpoint_key(config: &Config) -> Result<CheckpointKey, ServiceError> {
    let state = connect_state(&config.state_url).await.map_err(ServiceError::StateConnect)?;
    Ok(StateStore::ensure_slot(&state, &config.source.slot).await?)
}

/// A configuration, with its tenants by partition.
struct Partitioned {
    without_tenants: Config,
    tenants: HashMap<i32, Vec<Arc<Tenant>>>,
}

impl Partitioned {
    fn new(mut config: Config, count: i32) -> Partitioned {
        let mut tenants: HashMap<i32, Vec<Arc<Tenant>>> = HashMap::new();
        for tenant in std::mem::take(&mut config.tenants) {
            tenants.entry(partition_of(tenant.id.as_str(), count)).or_default().push(tenant);
        }
        Partitioned { without_tenants: config, tenants }
    }

    /// The configuration for one partition. `group` is unset, because this process writes the targets.
    fn of(&self, partition: i32) -> Config {
        let config = self.without_tenants.clone();
        let kafka = config.kafka.map(|kafka| Kafka { group: None, ..kafka });
        Config { tenants: self.tenants.get(&partition).cloned().unwrap_or_default(), kafka, ..config }
    }
}

impl Membership {
    /// Serves the group until `stop`, a configuration that differs in more than its tenants, or an error.
    async fn serve(
        &mut self,
        config: Config,
        kafka: &Kafka,
        events: &mut mpsc::UnboundedReceiver<GroupEvent>,
        configs: &mut watch::Receiver<Config>,
        stop: &CancellationToken,
    ) -> Result<(), ServiceError> {
        let known = self.shared.partitions;
        let mut config = Partitioned::new(config, known);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(GroupEvent::Assigned(partitions)) => {
                        let (settings, topic) = (kafka.clone(), self.topic.clone());
                        let count = blocking(move || topic_partitions(&settings, &topic)).await?;
                        if count != known {
                            let what = format!("topic {} has {count} partitions instead of {known}", self.topic);
                            return Err(Failure::plain(what).into());
                        }
                        self.assign(&partitions, &config)?;
                    }
                    Some(GroupEvent::Revoked { partitions, done }) => {
                        self.revoke(&partitions).await;
                        drop(done);
                    }
                    Some(GroupEvent::Failed(failure)) => return Err(failure.into()),
                    None => return Err(Failure::plain("the thread of the consumer group has ended".to_owned()).into()),
                },
                () = replaced(configs) => {
                    let new = configs.borrow_and_update().clone();
                    if !config.without_tenants.differs_only_in_tenants(&new) {
                        tracing::info!("configuration changed beyond tenants; joining the group again");
                        return Ok(());
                    }
                    config = Partitioned::new(new, known);
                    for (partition, assigned) in &self.assigned {
                        assigned.configs.send_replace(config.of(*partition));
                    }
                },
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    fn assign(&mut self, partitions: &[i32], config: &Partitioned) -> Result<(), Failure> {
        for partition in partitions {
            let stream = Arc::new(self.group.open(*partition)?);
            let (sender, configs) = watch::channel(config.of(*partition));
            let stop = CancellationToken::new();
            let sessions = sessions(self.shared.clone(), stream, configs, stop.clone());
            let span = info_span!("partition", topic = self.topic, partition);
            let task = tokio::spawn(sessions.instrument(span));
            self.assigned.insert(*partition, Assigned { configs: sender, stop: stop.drop_guard(), task });
        }
        self.show_role();
        Ok(())
    }

    /// Ends the sessions of these partitions: what waits for their targets is applied first.
    async fn revoke(&mut self, partitions: &[i32]) {
        let ending: Vec<Assigned> = partitions.iter().filter_map(|partition| self.assigned.remove(partition)).collect();
        let ending: Vec<JoinHandle<()>> = ending
            .into_iter()
            .map(|Assigned { stop, task, .. }| {
                drop(stop);
                task
            })
            .collect();
        for task in ending {
            // A panic of a session has been logged.
            let _ = task.await;
        }
        self.show_role();
    }

    async fn revoke_all(&mut self) {
        let all: Vec<i32> = self.assigned.keys().copied().collect();
        self.revoke(&all).await;
    }

    /// A process without a partition is a standby of those that have one.
    fn show_role(&mut self) {
        match (self.assigned.is_empty(), self.streaming.is_some()) {
            (false, false) => self.streaming = Some(self.shared.status.set_streaming(self.shared.sessions.clone())),
            (true, _) => {
                self.streaming = None;
                self.shared.status.set_standby();
            }
            (false, true) => {}
        }
    }
}

/// One session of a partition after another, until `stop`.
async fn sessions(
    shared: Arc<Shared>,
    stream: Arc<PartitionStream>,
    mut configs: watch::Receiver<Config>,
    stop: CancellationToken,
) {
    let mut backoff = Backoffs::new(RETRY_MIN, RETRY_MAX);
    // The newest generation that a message had.
    let mut generation = Generation::default();
    loop {
        let begun = Instant::now();
        // Boxed: its future is large.
        let done = Box::pin(session::run(&shared, &stream, generation, &mut configs, &stop)).await;
        let error = match done {
            Ok(SessionExit::Stopped) => return,
            Ok(SessionExit::Reconfigured) => continue,
            Err(_) if stop.is_cancelled() => return,
            Err(ServiceError::OtherGeneration(newer)) => {
                generation = newer;
                tracing::info!(%generation, "the source's history changed: every tenant is rebuilt");
                continue;
            }
            Err(error) => error,
        };
        if begun.elapsed() > STABLE_AFTER {
            backoff.reset();
        }
        let wait = backoff.step(error.trouble());
        shared.status.metrics.source_reconnects.inc();
        tracing::warn!(%error, reason_code = error.trouble().code(), ?wait, "session of a partition ended, retrying");
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}
