//! A look at what Kafka holds, before anything is written: the positions, and the ends of the topics. It fences no producer.

use super::client::{ClientErrors, REQUEST_TIMEOUT, client_config};
use super::failure::Failure;
use super::headers::{ID_HEADER, INSTALLATION_HEADER, header};
use super::topic_reader::{PARTITIONS_AT_ONCE, READ_TIMEOUT, Reader, TopicEnd, ends, first_record};
use crate::config::Kafka;
use crate::tee::{
    Claims, Holds, Known, Mark, Own, Owner, PartitionEnd, PartitionView, Positions, Snapshots, TopicEnds, TopicView,
    judge_positions, judge_topic,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Records that are read at the end of a partition about which nothing is known. A transaction has at least one record and
/// one control record, so some of these are records.
const TAIL: i64 = 10;
/// Records that are read behind the known end, at most: after a crash, those that a process had published before.
const NEWER: i64 = 1000;
/// Bytes that are fetched of a partition at once. The records are read for their headers.
const FETCH_BYTES: &str = "65536";

/// What was found. Nothing of it belongs to another installation.
pub(crate) struct Found {
    /// The topics that existed.
    pub(crate) before: HashSet<String>,
    pub(crate) known: Known,
    /// The end of the positions topic. `None` if it does not exist, or a transaction was open, so that `known` is not final.
    pub(crate) read: Option<TopicEnd>,
    /// Topics of this installation that are missing, were created again, or lost their last records.
    pub(crate) lost: Vec<String>,
    views: HashMap<String, TopicView>,
}

impl Found {
    /// What the publisher begins with: the ends of each topic, and whether the positions topic does not have them. `known`:
    /// what it has.
    pub(crate) fn ends(&self, topics: &[&str], known: &HashMap<String, TopicEnds>) -> Vec<(String, TopicEnds, bool)> {
        let of = |topic: &&str| {
            let is_lost = self.lost.iter().any(|lost| lost == topic);
            if let Some(known) = known.get(*topic).filter(|_| !is_lost) {
                return ((*topic).to_owned(), known.clone(), false);
            }
            let view = self.views.get(*topic).into_iter().flatten();
            let ends = view.map(|(partition, view)| (*partition, PartitionEnd { next: view.end, id: None })).collect();
            ((*topic).to_owned(), TopicEnds { ends }, self.before.contains(*topic))
        };
        topics.iter().map(of).collect()
    }
}

/// Looks at positions and topics before anything is written. Blocks.
///
/// # Errors
/// Kafka cannot be reached, or something belongs to another installation.
pub(crate) fn look(kafka: &Kafka, own: &Own<'_>) -> Result<Found, Failure> {
    let look = Look::new(kafka)?;
    let (positions, read) = look.positions(kafka, own.owner)?;
    let known = judge_positions(positions, own).map_err(Failure::foreign)?;
    let mut snapshots = Snapshots::default();
    look.snapshots(kafka, |key, value| drop(snapshots.take(own.owner, key, value)))?;
    snapshots.judge(own.owner).map_err(Failure::foreign)?;
    let views = look.topics(own.topics, &known.topics)?;
    // Without positions, only the state knows that it published before.
    let is_lost = own.published.is_some() && known.restart.is_some();
    let of_tenants: HashSet<&str> = known.tenants.values().map(|tenant| &*tenant.topic).collect();
    let mut lost = Vec::new();
    for topic in own.topics {
        let is_known = is_lost || of_tenants.contains(topic);
        let ends = known.topics.get(*topic);
        let holds = match views.get(*topic) {
            Some(view) => judge_topic(topic, view, ends, is_known, own.owner).map_err(Failure::foreign)?,
            None if is_known => Holds::NotEverything,
            None => Holds::Everything,
        };
        if holds == Holds::NotEverything {
            lost.push((*topic).to_owned());
        }
    }
    Ok(Found { before: look.there.into_keys().collect(), known, read, lost, views })
}

/// Reads what other installations have written to the positions topic and to the topics of this one. Blocks.
///
/// # Errors
/// Kafka cannot be reached.
pub(crate) fn claims(kafka: &Kafka, own: &Own<'_>) -> Result<Claims, Failure> {
    let look = Look::new(kafka)?;
    let mut claims = Claims::of_topics(look.topics(own.topics, &HashMap::new())?);
    if look.there.contains_key(&kafka.positions_topic) {
        Reader::new(kafka)?.latest(&kafka.positions_topic, |message| {
            if let Some(key) = message.key() {
                claims.take(own, key, message.payload(), message.timestamp().to_millis());
            }
        })?;
    }
    look.snapshots(kafka, |key, value| claims.take_snapshot(own, key, value))?;
    Ok(claims)
}

/// Looks at topics.
struct Look {
    consumer: BaseConsumer<ClientErrors>,
    client_errors: ClientErrors,
    /// The topics that exist, with their partitions.
    there: HashMap<String, Vec<i32>>,
}

impl Look {
    /// Connects, and lists the topics.
    fn new(kafka: &Kafka) -> Result<Look, Failure> {
        let mut config = client_config(kafka);
        config.set("group.id", format!("{}.{}", kafka.positions_topic, kafka.slot));
        // Also what an open transaction has written: another installation may have just begun.
        config.set("isolation.level", "read_uncommitted").set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
        config.set("fetch.wait.max.ms", "20").set("fetch.message.max.bytes", FETCH_BYTES);
        let client_errors = ClientErrors::default();
        let consumer = BaseConsumer::from_config_and_context(&config, client_errors.clone());
        let consumer: BaseConsumer<ClientErrors> =
            consumer.map_err(|error| Failure::of("configuring the consumer", &error, None))?;
        let metadata = consumer.fetch_metadata(None, REQUEST_TIMEOUT);
        let reaching = format!("reaching Kafka at {}", kafka.brokers);
        let metadata = metadata.map_err(|error| client_errors.failure(&reaching, &error))?;
        let partitions = |topic: &rdkafka::metadata::MetadataTopic| {
            topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect()
        };
        let there = metadata.topics().iter().map(|topic| (topic.name().to_owned(), partitions(topic))).collect();
        Ok(Look { consumer, client_errors, there })
    }

    /// The positions, including those of transactions that have not ended.
    fn positions(&self, kafka: &Kafka, owner: &Owner) -> Result<(Positions, Option<TopicEnd>), Failure> {
        let mut positions = Positions::default();
        if !self.there.contains_key(&kafka.positions_topic) {
            return Ok((positions, None));
        }
        let end = Reader::new(kafka)?.latest(&kafka.positions_topic, |message| {
            if let Some(key) = message.key() {
                positions.take(owner, key, message.payload());
            }
        })?;
        Ok((positions, end))
    }

    /// Calls `each` for the records of the snapshots topic, including those of transactions that have not ended.
    fn snapshots(&self, kafka: &Kafka, mut each: impl FnMut(&[u8], Option<&[u8]>)) -> Result<(), Failure> {
        let Some(topic) = kafka.snapshots().filter(|topic| self.there.contains_key(*topic)) else { return Ok(()) };
        let read = Reader::new(kafka)?.latest(topic, |message| {
            if let Some(key) = message.key() {
                each(key, message.payload());
            }
        });
        read.map(drop)
    }

    /// The ends and the last records of those of `topics` that exist.
    fn topics(
        &self,
        topics: &[&str],
        known: &HashMap<String, TopicEnds>,
    ) -> Result<HashMap<String, TopicView>, Failure> {
        let failed = |error| self.client_errors.failure("looking at the topics", &error);
        let mut views: HashMap<String, TopicView> = HashMap::new();
        let there: Vec<(&str, i32)> = topics
            .iter()
            .flat_map(|topic| self.there.get(*topic).into_iter().flatten().map(|partition| (*topic, *partition)))
            .collect();
        let mut reads = Vec::new();
        for some in there.chunks(PARTITIONS_AT_ONCE) {
            for ((topic, partition), end) in some.iter().zip(ends(&self.consumer, some).map_err(failed)?) {
                let view = PartitionView { end, records: Vec::new() };
                views.entry((*topic).to_owned()).or_default().insert(*partition, view);
                let next = known.get(*topic).and_then(|known| known.ends.get(partition)).map(|end| end.next);
                let from = match next {
                    Some(next) if next <= end && end - next <= NEWER => next - 1,
                    Some(next) if next <= end => end - NEWER,
                    _ => end - TAIL,
                };
                if end > 0 {
                    reads.push((*topic, *partition, from.max(0)));
                }
            }
        }
        for some in reads.chunks(PARTITIONS_AT_ONCE) {
            self.read(some, |message| {
                let view = views.get_mut(message.topic()).and_then(|view| view.get_mut(&message.partition()));
                view.into_iter().for_each(|view| view.records.push(mark(message)));
            })
            .map_err(failed)?;
        }
        // Compaction can leave no record at the end.
        for (topic, view) in &mut views {
            if known.contains_key(topic) || view.values().any(|partition| !partition.records.is_empty()) {
                continue;
            }
            for (partition, view) in view.iter_mut().filter(|(_, view)| view.end > 0) {
                view.records.extend(first_record(&self.consumer, (topic, *partition), 0, mark).map_err(failed)?);
            }
        }
        Ok(views)
    }

    /// Reads each partition from an offset to its end.
    fn read(&self, from: &[(&str, i32, i64)], mut each: impl FnMut(&BorrowedMessage<'_>)) -> Result<(), KafkaError> {
        let mut assignment = TopicPartitionList::with_capacity(from.len());
        // The end of a partition is reported without its topic.
        let mut open: HashMap<i32, usize> = HashMap::new();
        for (topic, partition, offset) in from {
            assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
            *open.entry(*partition).or_default() += 1;
        }
        self.consumer.assign(&assignment)?;
        self.poll(|polled| {
            match polled {
                Ok(message) => each(message),
                Err(partition) => {
                    let left = open.get_mut(&partition).map_or(0, |left| {
                        *left = left.saturating_sub(1);
                        *left
                    });
                    if left == 0 {
                        open.remove(&partition);
                    }
                }
            }
            open.is_empty()
        })
    }

    /// Polls until `take` returns true. It gets a message, or a partition whose end was reached.
    fn poll(&self, mut take: impl FnMut(Result<&BorrowedMessage<'_>, i32>) -> bool) -> Result<(), KafkaError> {
        let mut last_answer = Instant::now();
        loop {
            let is_over = match self.consumer.poll(Duration::from_millis(100)) {
                None if last_answer.elapsed() > READ_TIMEOUT => {
                    return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
                }
                None => continue,
                Some(Err(KafkaError::PartitionEOF(partition))) => take(Err(partition)),
                Some(Err(error)) => return Err(error),
                Some(Ok(message)) => take(Ok(&message)),
            };
            last_answer = Instant::now();
            if is_over {
                return self.consumer.assign(&TopicPartitionList::new());
            }
        }
    }
}

fn mark(message: &BorrowedMessage<'_>) -> Mark {
    Mark {
        offset: message.offset(),
        installation: header(message, INSTALLATION_HEADER),
        id: header(message, ID_HEADER),
        at: message.timestamp().to_millis(),
    }
}
