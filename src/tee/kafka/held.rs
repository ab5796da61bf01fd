//! What topics hold: positions, and whose users are still there.

use super::client::{ANSWER, Complaints, client_config};
use super::failure::Failure;
use crate::config::Kafka;
use crate::model::Deletes;
use crate::tee::Positions;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A topic that says nothing for so long is not readable.
const SILENCE: Duration = Duration::from_secs(30);
/// A transaction that another producer has open ends by itself within this, unless its timeout is a longer one.
const SETTLES: Duration = Duration::from_secs(90);
/// So often it is looked again.
const AGAIN: Duration = Duration::from_millis(50);

/// Reads topics from their beginning to their end, as far as transactions are committed. Blocks.
pub struct Reader {
    consumer: BaseConsumer<Complaints>,
    /// One that also sees what is not committed.
    everything: BaseConsumer<Complaints>,
    complaints: Complaints,
}

impl Reader {
    /// A consumer of its own.
    pub fn new(kafka: &Kafka) -> Result<Reader, Failure> {
        let mut config = client_config(kafka);
        config.set("group.id", format!("{}.{}", kafka.positions_topic, kafka.slot));
        config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
        config.set("fetch.wait.max.ms", "20");
        let complaints = Complaints::default();
        let consumer = |config: &ClientConfig| {
            let consumer = BaseConsumer::from_config_and_context(config, complaints.clone());
            consumer.map_err(|error| Failure::of("configuring the consumer", &error, None))
        };
        let everything = consumer(config.clone().set("isolation.level", "read_uncommitted"))?;
        Ok(Reader { consumer: consumer(&config)?, everything, complaints })
    }

    /// What the positions topic says of the slot.
    pub fn positions(&self, kafka: &Kafka) -> Result<Positions, Failure> {
        let mut positions = Positions::default();
        self.read(&kafka.positions_topic, |message| {
            if let Some(key) = message.key() {
                positions.take(&kafka.slot, key, message.payload());
            }
        })?;
        Ok(positions)
    }

    /// The keys that a topic has had, in order, each with whether its user is there by it. Where deletes are soft, those that
    /// are marked as deleted are not.
    pub fn users(&self, topic: &str, deletes: Deletes, mut each: impl FnMut(&[u8], bool)) -> Result<(), Failure> {
        self.read(topic, |message| {
            if let Some(key) = message.key() {
                each(key, message.payload().is_some() && !(deletes == Deletes::Soft && is_gone(message)));
            }
        })
    }

    /// A topic whose partitions nobody knows is not an empty one.
    fn partitions(&self, topic: &str) -> Result<HashSet<i32>, KafkaError> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let metadata = self.consumer.fetch_metadata(Some(topic), ANSWER)?;
            let found = metadata.topics().first();
            let error = found.map_or(Some(RDKafkaErrorCode::UnknownTopic), |found| found.error().map(Into::into));
            match (found, error) {
                (Some(found), None) if !found.partitions().is_empty() => {
                    return Ok(found.partitions().iter().map(|partition| partition.id()).collect());
                }
                // A topic that was made just now is not known to every broker at once.
                _ if Instant::now() < deadline => std::thread::sleep(AGAIN),
                (_, error) => {
                    return Err(KafkaError::MetadataFetch(error.unwrap_or(RDKafkaErrorCode::UnknownTopic)));
                }
            }
        }
    }

    /// Waits until everything that is in the topic now is decided: a transaction that somebody else has open would hide what
    /// came after it.
    fn settle(&self, topic: &str, partitions: &HashSet<i32>) -> Result<(), Failure> {
        let failed = |error| self.complaints.failure(&format!("reading topic {topic}"), &error);
        let deadline = Instant::now() + SETTLES;
        for partition in partitions {
            let (_, end) = self.everything.fetch_watermarks(topic, *partition, ANSWER).map_err(failed)?;
            while self.consumer.fetch_watermarks(topic, *partition, ANSWER).map_err(failed)?.1 < end {
                if Instant::now() > deadline {
                    let what = format!("reading topic {topic} failed: a transaction of another producer is open in it");
                    return Err(Failure::plain(what));
                }
                std::thread::sleep(AGAIN);
            }
        }
        Ok(())
    }

    fn read(&self, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) -> Result<(), Failure> {
        let failed = |error| self.complaints.failure(&format!("reading topic {topic}"), &error);
        let mut open = self.partitions(topic).map_err(failed)?;
        self.settle(topic, &open)?;
        let mut assignment = TopicPartitionList::new();
        for partition in &open {
            assignment.add_partition_offset(topic, *partition, Offset::Beginning).map_err(failed)?;
        }
        self.consumer.assign(&assignment).map_err(failed)?;
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(Duration::from_millis(100)) {
                None if heard.elapsed() > SILENCE => {
                    return Err(Failure::plain(format!("reading topic {topic} failed: it says nothing")));
                }
                None => continue,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error)) => return Err(failed(error)),
                Some(Ok(message)) => each(&message),
            }
            heard = Instant::now();
        }
        Ok(())
    }
}

/// Whether the message says that its user is deleted.
pub fn is_gone(message: &impl Message) -> bool {
    let Some(headers) = message.headers() else { return false };
    headers.iter().any(|header| header.key == "ce_type" && header.value == Some(b"users_sync.user.deleted"))
}
