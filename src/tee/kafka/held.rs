//! What topics hold: positions, and whose users are still there.

use super::client::{ANSWER, Complaints, client_config};
use super::failure::Failure;
use crate::config::Kafka;
use crate::model::Deletes;
use crate::tee::Positions;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A topic that says nothing for so long is not readable.
const SILENCE: Duration = Duration::from_secs(30);

/// Reads topics from their beginning to their end, as far as transactions are committed. Blocks.
pub struct Reader {
    consumer: BaseConsumer<Complaints>,
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
        let consumer = BaseConsumer::from_config_and_context(&config, complaints.clone());
        let consumer = consumer.map_err(|error| Failure::of("configuring the consumer", &error, None))?;
        Ok(Reader { consumer, complaints })
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

    /// The keys whose users a topic holds. Where deletes are soft, those that are marked as deleted are none of them.
    pub fn users(&self, topic: &str, deletes: Deletes) -> Result<HashSet<Box<[u8]>>, Failure> {
        let mut keys: HashSet<Box<[u8]>> = HashSet::new();
        self.read(topic, |message| {
            let Some(key) = message.key() else { return };
            match message.payload().is_some() && !(deletes == Deletes::Soft && is_gone(message)) {
                true => keys.insert(key.into()),
                false => keys.remove(key),
            };
        })?;
        Ok(keys)
    }

    fn read(&self, topic: &str, mut each: impl FnMut(&BorrowedMessage<'_>)) -> Result<(), Failure> {
        let failed = |error| self.complaints.failure(&format!("reading topic {topic}"), &error);
        let metadata = self.consumer.fetch_metadata(Some(topic), ANSWER).map_err(failed)?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
        let mut open: HashSet<i32> = partitions.map(|partition| partition.id()).collect();
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
