//! Reads one partition from an offset on, and a small topic to its end and beyond. Committed records only.

use super::client::{ClientErrors, REQUEST_TIMEOUT, consumers};
use super::failure::Failure;
use super::topic_reader::READ_TIMEOUT;
use crate::config::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Interval at which [`RangeReader::read`] looks whether it is still wanted.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What a partition has next.
pub(crate) enum Found<'a> {
    Message(&'a BorrowedMessage<'a>),
    /// Everything that is committed has been read.
    End,
    /// Nothing for [`POLL_INTERVAL`].
    Nothing,
}

/// Where a partition ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartitionEnds {
    /// The offset after its last record.
    pub(crate) written: i64,
    /// The offset before which everything is committed.
    pub(crate) committed: i64,
}

impl PartitionEnds {
    /// Whether no transaction is open.
    pub(crate) fn is_settled(&self) -> bool {
        self.written == self.committed
    }
}

/// A consumer outside of every group. Blocks.
pub(crate) struct RangeReader {
    consumer: BaseConsumer<ClientErrors>,
    /// Also sees what is not committed.
    uncommitted: BaseConsumer<ClientErrors>,
    errors: ClientErrors,
}

impl RangeReader {
    pub(crate) fn new(kafka: &Kafka) -> Result<RangeReader, Failure> {
        let group = format!("{}.{}", kafka.snapshots_topic, kafka.slot);
        let (consumer, uncommitted, errors) = consumers(kafka, &group, &[("queued.max.messages.kbytes", "16384")])?;
        Ok(RangeReader { consumer, uncommitted, errors })
    }

    /// The offset after the last record of a partition, if everything in it is committed.
    pub(crate) fn settled_end(&self, topic: &str, partition: i32) -> Result<Option<i64>, Failure> {
        let ends = self.ends(topic, partition)?;
        Ok(ends.is_settled().then_some(ends.committed))
    }

    /// Where a partition ends.
    pub(crate) fn ends(&self, topic: &str, partition: i32) -> Result<PartitionEnds, Failure> {
        let end = |consumer: &BaseConsumer<ClientErrors>| consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT);
        // In this order: what is committed in between makes them differ, and the caller tries again.
        let ends = end(&self.uncommitted).and_then(|written| Ok((written.1, end(&self.consumer)?.1)));
        let failed =
            |error| self.errors.failure(&format!("reading the end of partition {partition} of {topic}"), &error);
        let (written, committed) = ends.map_err(failed)?;
        Ok(PartitionEnds { written, committed })
    }

    /// Whether a partition has nothing from `offset` on: neither a message nor an open transaction that may hold one.
    pub(crate) fn has_nothing(&self, (topic, partition): (&str, i32), offset: i64) -> Result<bool, Failure> {
        Ok(self.settled_end(topic, partition)?.is_some() && self.is_empty((topic, partition), offset)?)
    }

    /// Whether a partition has no committed message from `offset` on.
    pub(crate) fn is_empty(&self, (topic, partition): (&str, i32), offset: i64) -> Result<bool, Failure> {
        self.read((topic, partition), offset, |found| match found {
            Found::Message(_) => ControlFlow::Break(false),
            Found::End => ControlFlow::Break(true),
            Found::Nothing => ControlFlow::Continue(()),
        })
    }

    /// Calls `each` for what the partition has from `offset` on, in order, until it breaks. An offset before the first record
    /// means the first record.
    ///
    /// # Errors
    /// The partition cannot be read, or the brokers have not answered for [`READ_TIMEOUT`] before its end.
    pub(crate) fn read<T>(
        &self,
        (topic, partition): (&str, i32),
        offset: i64,
        mut each: impl FnMut(Found<'_>) -> ControlFlow<T>,
    ) -> Result<T, Failure> {
        let failed = |error| self.errors.failure(&format!("reading partition {partition} of topic {topic}"), &error);
        let mut assignment = TopicPartitionList::with_capacity(1);
        assignment.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(failed)?;
        self.consumer.assign(&assignment).map_err(failed)?;
        let (mut last_answer, mut has_ended) = (Instant::now(), false);
        loop {
            let step = match self.consumer.poll(POLL_INTERVAL) {
                None if !has_ended && last_answer.elapsed() > READ_TIMEOUT => {
                    return Err(Failure::plain(format!(
                        "reading partition {partition} of topic {topic} failed: no answer"
                    )));
                }
                None => each(Found::Nothing),
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    has_ended = true;
                    each(Found::End)
                }
                Some(Err(error)) => return Err(failed(error)),
                Some(Ok(message)) => {
                    last_answer = Instant::now();
                    each(Found::Message(&message))
                }
            };
            if let ControlFlow::Break(done) = step {
                // Otherwise it would fetch on.
                self.consumer.unassign().map_err(failed)?;
                return Ok(done);
            }
        }
    }
}
