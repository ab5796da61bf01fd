//! Membership of a consumer group: which partitions of the users' topic this process applies.
//!
//! A thread polls the consumer, so that rebalances are served while sessions work. The messages of each partition have a
//! queue of their own, which its session takes them from: a session that waits for its targets delays no other partition,
//! because librdkafka stops fetching what is not taken.

use super::client::{ClientErrors, REQUEST_TIMEOUT, client_config};
use super::failure::Failure;
use crate::config::Kafka;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// How long the group waits for sessions to apply what they hold when their partitions are revoked. Longer than a drain; far
/// below `max.poll.interval.ms`.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the end of a membership waits for the brokers.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval at which the thread checks whether to end.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

type GroupConsumer = BaseConsumer<GroupContext>;

/// What happens in the group.
pub(crate) enum GroupEvent {
    /// This process has these partitions now. Their messages wait until [`Group::open`].
    Assigned(Vec<i32>),
    /// This process loses these partitions. The group waits until `done` is dropped.
    Revoked { partitions: Vec<i32>, done: Done },
    /// The consumer cannot go on.
    Failed(Failure),
}

/// Dropped once the sessions of revoked partitions have ended.
pub(crate) struct Done {
    _ended: SyncSender<()>,
}

struct GroupContext {
    errors: ClientErrors,
    events: mpsc::UnboundedSender<GroupEvent>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.errors.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Rebalance::Revoke(list) = rebalance else { return };
        let (ended, waiting) = sync_channel(0);
        let event = GroupEvent::Revoked { partitions: partitions(list), done: Done { _ended: ended } };
        if self.events.send(event).is_ok() {
            // Ends when the sender is dropped.
            let _ = waiting.recv_timeout(REVOKE_TIMEOUT);
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // Until a session has taken the partition's queue, its messages would arrive in that of the consumer.
                if let Err(error) = consumer.pause(list) {
                    let failure = self.errors.failure("pausing new partitions", &error);
                    let _ = self.events.send(GroupEvent::Failed(failure));
                }
                let _ = self.events.send(GroupEvent::Assigned(partitions(list)));
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => {
                let failure = self.errors.failure("joining the consumer group", error);
                let _ = self.events.send(GroupEvent::Failed(failure));
            }
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}

/// A member of the group. Dropping it leaves the group.
pub(crate) struct Group {
    consumer: Arc<GroupConsumer>,
    topic: String,
    is_ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Group {
    /// Joins the group that consumes `topic`.
    pub(crate) fn join(
        kafka: &Kafka,
        group: &str,
        topic: &str,
    ) -> Result<(Group, mpsc::UnboundedReceiver<GroupEvent>), Failure> {
        let (events, received) = mpsc::unbounded_channel();
        let errors = ClientErrors::default();
        let mut config = client_config(kafka);
        config.set("group.id", group).set("isolation.level", "read_committed");
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
        config.set("allow.auto.create.topics", "false");
        for (name, value) in [
            ("partition.assignment.strategy", "cooperative-sticky"),
            // Do not delay messages to fill a fetch.
            ("fetch.wait.max.ms", "20"),
            // For each partition. The mailboxes bound what has been taken.
            ("queued.max.messages.kbytes", "4096"),
        ] {
            if !kafka.properties.contains_key(name) {
                config.set(name, value);
            }
        }
        if let Some(instance) = &kafka.instance {
            config.set("group.instance.id", instance);
        }
        let context = GroupContext { errors: errors.clone(), events: events.clone() };
        let consumer = GroupConsumer::from_config_and_context(&config, context);
        let consumer = Arc::new(consumer.map_err(|error| Failure::of("configuring the consumer", &error, None))?);
        consumer
            .subscribe(&[topic])
            .map_err(|error| errors.failure(&format!("subscribing to topic {topic}"), &error))?;
        let is_ending = Arc::new(AtomicBool::new(false));
        let (polled, ends) = (consumer.clone(), is_ending.clone());
        let thread = std::thread::Builder::new().name("consumer group".to_owned());
        let thread = thread
            .spawn(move || poll(&polled, &events, &ends))
            .map_err(|error| Failure::plain(format!("cannot start the thread of the consumer group: {error}")))?;
        Ok((Group { consumer, topic: topic.to_owned(), is_ending, thread: Some(thread) }, received))
    }

    /// Leaves the group, so that the others take the partitions at once. Blocks.
    pub(crate) fn leave(mut self) -> Result<(), Failure> {
        self.is_ending.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map_or(Ok(()), JoinHandle::join);
        ended.map_err(|_| Failure::plain("the thread of the consumer group has panicked".to_owned()))
    }

    /// The queue of an assigned partition. It is empty until [`PartitionStream::start`].
    pub(crate) fn open(&self, partition: i32) -> Result<PartitionStream, Failure> {
        let queue = self.consumer.split_partition_queue(&self.topic, partition);
        let mut queue = queue.ok_or_else(|| Failure::plain(format!("partition {partition} has no queue")))?;
        let filled = Arc::new(Notify::new());
        let notified = filled.clone();
        queue.set_nonempty_callback(move || notified.notify_one());
        Ok(PartitionStream { consumer: self.consumer.clone(), topic: self.topic.clone(), partition, queue, filled })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }
}

/// Serves the group until its end. The messages of the partitions arrive in their own queues.
fn poll(consumer: &GroupConsumer, events: &mpsc::UnboundedSender<GroupEvent>, is_ending: &AtomicBool) {
    while !is_ending.load(Ordering::Relaxed) {
        let Some(Err(error)) = consumer.poll(POLL_INTERVAL) else { continue };
        if let Some((code, reason)) = consumer.client().fatal_error() {
            let failure = Failure::plain(format!("the consumer group refused this process: {reason} ({code})"));
            let _ = events.send(GroupEvent::Failed(failure));
            return;
        }
        // Other errors are temporary: librdkafka connects again, and joins the group again.
        tracing::debug!(target: "users_sync::librdkafka", %error, "consumer group");
    }
    consumer.unsubscribe();
    let deadline = Instant::now() + LEAVE_TIMEOUT;
    while Instant::now() < deadline && !consumer.assignment().is_ok_and(|list| list.count() == 0) {
        // Serves the revocation.
        drop(consumer.poll(POLL_INTERVAL));
    }
}

/// The messages of one partition, in order, committed ones only.
pub(crate) struct PartitionStream {
    consumer: Arc<GroupConsumer>,
    topic: String,
    partition: i32,
    queue: PartitionQueue<GroupContext>,
    filled: Arc<Notify>,
}

/// What a partition has next.
pub(crate) enum Next<'a> {
    Message(BorrowedMessage<'a>),
    /// Everything that is committed has been read.
    End,
    /// Nothing for now: [`PartitionStream::filled`].
    Nothing,
}

impl PartitionStream {
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn partition(&self) -> i32 {
        self.partition
    }

    fn list(&self, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, self.partition, offset)?;
        Ok(list)
    }

    fn failure(&self, operation: &str, error: &KafkaError) -> Failure {
        let operation = format!("{operation} partition {} of topic {}", self.partition, self.topic);
        self.consumer.context().errors.failure(&operation, error)
    }

    /// The offset that the group has committed; `None` before the first commit. Blocks.
    pub(crate) fn committed(&self) -> Result<Option<i64>, Failure> {
        let read = || {
            let found = self.consumer.committed_offsets(self.list(Offset::Invalid)?, REQUEST_TIMEOUT)?;
            let element = found.elements().into_iter().next();
            Ok(match element.map(|element| element.offset()) {
                Some(Offset::Offset(offset)) => Some(offset),
                _ => None,
            })
        };
        read().map_err(|error| self.failure("reading the committed offset of", &error))
    }

    /// Delivers messages from `offset` on. Blocks.
    pub(crate) fn start(&self, offset: i64) -> Result<(), Failure> {
        let start = || {
            self.consumer.seek(&self.topic, self.partition, Offset::Offset(offset), REQUEST_TIMEOUT)?;
            self.consumer.resume(&self.list(Offset::Invalid)?)
        };
        start().map_err(|error| self.failure("starting", &error))
    }

    /// Stops delivering, so that the next [`PartitionStream::start`] begins elsewhere.
    pub(crate) fn pause(&self) {
        // Fails if the partition was lost.
        let _ = self.list(Offset::Invalid).and_then(|list| self.consumer.pause(&list));
    }

    /// What comes next, without waiting.
    pub(crate) fn next(&self) -> Result<Next<'_>, Failure> {
        match self.queue.poll(Duration::ZERO) {
            None => Ok(Next::Nothing),
            Some(Ok(message)) => Ok(Next::Message(message)),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Next::End),
            Some(Err(error)) => match error.rdkafka_error_code() {
                // librdkafka connects again.
                Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown) => Ok(Next::Nothing),
                _ => Err(self.failure("reading", &error)),
            },
        }
    }

    /// Completes when something may have arrived since [`PartitionStream::next`] returned [`Next::Nothing`].
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Commits the offset for the group. With `waits`, blocks until the brokers have answered.
    pub(crate) fn commit(&self, offset: i64, waits: bool) -> Result<(), Failure> {
        let mode = if waits { CommitMode::Sync } else { CommitMode::Async };
        let commit = || self.consumer.commit(&self.list(Offset::Offset(offset))?, mode);
        commit().map_err(|error| self.failure("committing the offset of", &error))
    }

    /// The offsets of the first record, and after the last committed one. Blocks.
    pub(crate) fn bounds(&self) -> Result<(i64, i64), Failure> {
        let found = self.consumer.fetch_watermarks(&self.topic, self.partition, REQUEST_TIMEOUT);
        found.map_err(|error| self.failure("reading the end of", &error))
    }
}
