//! Reads topics: the positions, and the users that a topic holds.

use super::client::{ClientErrors, REQUEST_TIMEOUT, consumers};
use super::failure::Failure;
use crate::config::Kafka;
use crate::model::Deletes;
use crate::tee::{Owner, Positions, Snapshots};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::metadata::MetadataTopic;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// A topic that delivers nothing for this long is not readable.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for another producer's open transaction to end. Longer than the default `transaction.timeout.ms`.
const OPEN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(90);
/// Interval at which topic metadata and offsets are polled.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Partitions that are read, or asked for, at the same time.
pub(super) const PARTITIONS_AT_ONCE: usize = 1000;

/// The offset behind the last record of each partition.
pub(crate) type TopicEnd = HashMap<i32, i64>;

/// Reads topics from beginning to end, committed transactions only. Blocks.
pub(crate) struct Reader {
    consumer: BaseConsumer<ClientErrors>,
    /// A consumer that also reads uncommitted records.
    uncommitted: BaseConsumer<ClientErrors>,
    client_errors: ClientErrors,
}

impl Reader {
    /// Creates the consumers.
    pub(crate) fn new(kafka: &Kafka) -> Result<Reader, Failure> {
        let group = format!("{}.{}", kafka.positions_topic, kafka.slot);
        let (consumer, uncommitted, client_errors) = consumers(kafka, &group, &[])?;
        Ok(Reader { consumer, uncommitted, client_errors })
    }

    /// Reads the positions topic, once every transaction in it has ended.
    pub(crate) fn positions(&self, kafka: &Kafka, owner: &Owner) -> Result<Positions, Failure> {
        let mut positions = Positions::default();
        self.read(&kafka.positions_topic, |message| {
            if let Some(key) = message.key() {
                positions.take(owner, key, message.payload());
            }
        })?;
        Ok(positions)
    }

    /// Reads the snapshots topic, once every transaction in it has ended.
    pub(crate) fn snapshots(&self, topic: &str, owner: &Owner) -> Result<Snapshots, Failure> {
        let mut snapshots = Snapshots::default();
        self.read(topic, |message| {
            if let Some(key) = message.key() {
                snapshots.take(owner, key, message.payload());
            }
        })?;
        Ok(snapshots)
    }

    /// The offsets behind the last records of these partitions, committed or not.
    pub(crate) fn written(&self, partitions: &[(&str, i32)]) -> Result<Vec<i64>, Failure> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            match ends(&self.uncommitted, partitions) {
                Ok(ends) => return Ok(ends),
                // A new topic is not known to every broker at once.
                Err(_) if Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
                Err(error) => return Err(self.client_errors.failure("reading the ends of the partitions", &error)),
            }
        }
    }

    /// Calls `each` for every record of a topic, in order, with its key and whether the record leaves the user present. With soft deletes, a
    /// user that is marked deleted is not present.
    pub(crate) fn users(
        &self,
        topic: &str,
        deletes: Deletes,
        mut each: impl FnMut(&[u8], bool),
    ) -> Result<(), Failure> {
        self.read(topic, |message| {
            if let Some(key) = message.key() {
                each(key, message.payload().is_some() && !(deletes == Deletes::Soft && marks_deleted(message)));
            }
        })
    }

    /// The partitions of a topic. A topic without known partitions is an error, not an empty topic.
    fn partitions(&self, topic: &str) -> Result<HashSet<i32>, KafkaError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let metadata = self.consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
            let found = metadata.topics().first();
            let error = found.map_or(Some(RDKafkaErrorCode::UnknownTopic), |found| found.error().map(Into::into));
            match (found, error) {
                (Some(found), None) if !found.partitions().is_empty() => {
                    return Ok(found.partitions().iter().map(|partition| partition.id()).collect());
                }
                // A new topic is not known to every broker at once.
                _ if Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
                (_, error) => {
                    return Err(KafkaError::MetadataFetch(error.unwrap_or(RDKafkaErrorCode::UnknownTopic)));
                }
            }
        }
    }

    /// The partitions of those of `topics` that exist.
    pub(super) fn partitions_of<'t>(&self, topics: &[&'t str]) -> Result<Vec<(&'t str, i32)>, Failure> {
        let metadata = self.consumer.fetch_metadata(None, REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|error| self.client_errors.failure("listing the topics", &error))?;
        let there: HashMap<&str, &MetadataTopic> =
            metadata.topics().iter().map(|topic| (topic.name(), topic)).collect();
        let partitions = |topic: &&'t str| {
            let partitions = there.get(topic).map_or(&[][..], |there| there.partitions());
            let topic = *topic;
            partitions.iter().map(move |partition| (topic, partition.id()))
        };
        Ok(topics.iter().flat_map(partitions).collect())
    }

    /// Those of `partitions` whose oldest open transaction begins with a record for which `is_own` is true.
    pub(super) fn open_transactions<'t>(
        &self,
        partitions: &[(&'t str, i32)],
        is_own: impl Fn(&BorrowedMessage<'_>) -> bool,
    ) -> Result<Vec<(&'t str, i32)>, Failure> {
        let failed = |error| self.client_errors.failure("looking for open transactions", &error);
        let mut open = Vec::new();
        for some in partitions.chunks(PARTITIONS_AT_ONCE) {
            // In this order: what is committed in between is not open.
            let written = ends(&self.uncommitted, some).map_err(failed)?;
            let committed = ends(&self.consumer, some).map_err(failed)?;
            for (partition, (written, committed)) in some.iter().zip(written.into_iter().zip(committed)) {
                if committed < written {
                    let first = first_record(&self.uncommitted, *partition, committed, &is_own).map_err(failed)?;
                    open.extend(first.filter(|is_own| *is_own).map(|_| *partition));
                }
            }
        }
        Ok(open)
    }

    /// Waits until every transaction in the topic has ended: an open transaction of another producer would hide the records
    /// behind it.
    fn await_open_transactions(&self, topic: &str, partitions: &HashSet<i32>) -> Result<(), Failure> {
        let failed = |error| self.client_errors.failure(&format!("reading topic {topic}"), &error);
        let deadline = Instant::now() + OPEN_TRANSACTION_TIMEOUT;
        for partition in partitions {
            let (_, end) = self.uncommitted.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT).map_err(failed)?;
            while self.consumer.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT).map_err(failed)?.1 < end {
                if Instant::now() > deadline {
                    let what = format!("reading topic {topic} failed: another producer has an open transaction in it");
                    return Err(Failure::plain(what));
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(())
    }

    /// Reads every record. While a transaction is open, also those of transactions that have not ended: waits for no
    /// producer. Returns the ends of the partitions if none is open.
    pub(super) fn latest(
        &self,
        topic: &str,
        each: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<Option<TopicEnd>, Failure> {
        let failed = |error| self.client_errors.failure(&format!("reading topic {topic}"), &error);
        let partitions = self.partitions(topic).map_err(failed)?;
        let end = self.end_of(&self.uncommitted, topic, &partitions).map_err(failed)?;
        let is_final = self.end_of(&self.consumer, topic, &partitions).map_err(failed)? == end;
        let consumer = if is_final { &self.consumer } else { &self.uncommitted };
        self.read_with(consumer, topic, partitions, each)?;
        Ok(is_final.then_some(end))
    }

    /// Whether nothing was written since [`Reader::latest`] returned this end.
    pub(crate) fn is_at(&self, topic: &str, end: &TopicEnd) -> Result<bool, Failure> {
        let failed = |error| self.client_errors.failure(&format!("reading topic {topic}"), &error);
        let partitions = self.partitions(topic).map_err(failed)?;
        Ok(self.end_of(&self.uncommitted, topic, &partitions).map_err(failed)? == *end)
    }

    fn end_of(
        &self,
        consumer: &BaseConsumer<ClientErrors>,
        topic: &str,
        partitions: &HashSet<i32>,
    ) -> Result<TopicEnd, KafkaError> {
        let end = |partition: &i32| {
            let (_, end) = consumer.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT)?;
            Ok((*partition, end))
        };
        partitions.iter().map(end).collect()
    }

    fn read(&self, topic: &str, each: impl FnMut(&BorrowedMessage<'_>)) -> Result<(), Failure> {
        let failed = |error| self.client_errors.failure(&format!("reading topic {topic}"), &error);
        let partitions = self.partitions(topic).map_err(failed)?;
        self.await_open_transactions(topic, &partitions)?;
        self.read_with(&self.consumer, topic, partitions, each)
    }

    fn read_with(
        &self,
        consumer: &BaseConsumer<ClientErrors>,
        topic: &str,
        mut open: HashSet<i32>,
        mut each: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), Failure> {
        let failed = |error| self.client_errors.failure(&format!("reading topic {topic}"), &error);
        let mut assignment = TopicPartitionList::new();
        for partition in &open {
            assignment.add_partition_offset(topic, *partition, Offset::Beginning).map_err(failed)?;
        }
        consumer.assign(&assignment).map_err(failed)?;
        let mut last_answer = Instant::now();
        while !open.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                None if last_answer.elapsed() > READ_TIMEOUT => {
                    return Err(Failure::plain(format!("reading topic {topic} failed: no answer")));
                }
                None => continue,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error)) => return Err(failed(error)),
                Some(Ok(message)) => each(&message),
            }
            last_answer = Instant::now();
        }
        Ok(())
    }
}

/// The offsets behind the last records that `consumer` may read, in one request for each broker.
pub(super) fn ends(consumer: &BaseConsumer<ClientErrors>, partitions: &[(&str, i32)]) -> Result<Vec<i64>, KafkaError> {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition_offset(topic, *partition, Offset::End)?;
    }
    let found = consumer.offsets_for_times(list, REQUEST_TIMEOUT)?;
    let mut ends: HashMap<(String, i32), i64> = HashMap::new();
    for found in found.elements() {
        found.error()?;
        if let Offset::Offset(end) = found.offset() {
            ends.insert((found.topic().to_owned(), found.partition()), end);
        }
    }
    let end = |(topic, partition): &(&str, i32)| ends.get(&((*topic).to_owned(), *partition)).copied();
    let ends: Option<Vec<i64>> = partitions.iter().map(end).collect();
    ends.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownPartition))
}

/// What `look` returns for the first record from an offset on; `None` if there is no record.
pub(super) fn first_record<T>(
    consumer: &BaseConsumer<ClientErrors>,
    (topic, partition): (&str, i32),
    offset: i64,
    look: impl Fn(&BorrowedMessage<'_>) -> T,
) -> Result<Option<T>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    consumer.assign(&assignment)?;
    let begun = Instant::now();
    let found = loop {
        match consumer.poll(Duration::from_millis(100)) {
            None if begun.elapsed() > READ_TIMEOUT => {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
            }
            None => {}
            Some(Ok(message)) => break Some(look(&message)),
            Some(Err(KafkaError::PartitionEOF(_))) => break None,
            Some(Err(error)) => return Err(error),
        }
    };
    consumer.assign(&TopicPartitionList::new())?;
    Ok(found)
}

/// Whether the message marks its user as deleted.
pub(crate) fn marks_deleted(message: &impl Message) -> bool {
    let Some(headers) = message.headers() else { return false };
    headers.iter().any(|header| header.key == "ce_type" && header.value == Some(b"users_sync.user.deleted"))
}
