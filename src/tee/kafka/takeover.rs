//! Writes records of positions and snapshots other than with a batch: when this installation takes topics over, for example.

use super::client::{Producer, connect, fence};
use super::failure::Failure;
use crate::config::Kafka;
use crate::tee::{PositionRecord, RecordTopic};
use rdkafka::producer::{BaseRecord, Producer as _};
use std::time::Duration;

/// The key of a record that says nothing: readers ignore keys that they do not know.
pub(super) const NO_KEY: &str = r#"{"id":""}"#;
/// What a failure names.
const WRITING: &str = "writing to the positions topic";
/// Time limit for the records.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Fences a process that publishes under the same transactional id, then writes what `records` returns. Blocks.
///
/// # Errors
/// Kafka refuses, or `records` does. Nothing was written.
pub(crate) fn take_over<E: From<Failure>>(
    kafka: &Kafka,
    records: impl FnOnce() -> Result<Vec<PositionRecord>, E>,
) -> Result<(), E> {
    let producer = connect(kafka, None)?;
    if kafka.exactly_once {
        fence(&producer)?;
    }
    Ok(commit(&producer, kafka, &records()?, &[])?)
}

/// The topic of a record.
pub(super) fn topic_for<'a>(kafka: &'a Kafka, record: &PositionRecord) -> &'a str {
    match record.topic {
        RecordTopic::Positions => &kafka.positions_topic,
        RecordTopic::Snapshots => &kafka.snapshots_topic,
    }
}

/// Writes records, in one transaction that has a record in each of these partitions of the positions topic. Blocks.
pub(super) fn commit(
    producer: &Producer,
    kafka: &Kafka,
    records: &[PositionRecord],
    partitions: &[i32],
) -> Result<(), Failure> {
    let failed = |error| producer.context().failure(WRITING, &error);
    if kafka.exactly_once {
        producer.begin_transaction().map_err(failed)?;
    }
    for record in records {
        let mut message = BaseRecord::<str, str>::to(topic_for(kafka, record)).key(&record.key);
        if let Some(value) = &record.value {
            message = message.payload(value);
        }
        producer.send(message).map_err(|(error, _)| failed(error))?;
    }
    for partition in partitions {
        let mark = BaseRecord::<str, str>::to(&kafka.positions_topic).partition(*partition).key(NO_KEY);
        producer.send(mark).map_err(|(error, _)| failed(error))?;
    }
    deliver(producer, WRITING)?;
    if kafka.exactly_once {
        producer.commit_transaction(COMMIT_TIMEOUT).map_err(failed)?;
    }
    Ok(())
}

/// Waits until what was sent is delivered. Errors name `operation`.
pub(super) fn deliver(producer: &Producer, operation: &str) -> Result<(), Failure> {
    let flushed = producer.flush(COMMIT_TIMEOUT);
    match producer.context().undelivered() {
        Some(failure) => Err(failure),
        None => flushed.map_err(|error| producer.context().failure(operation, &error)),
    }
}
