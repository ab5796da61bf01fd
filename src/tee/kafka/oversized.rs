//! Records that a topic does not take: the limits, and what the brokers have refused.

use crate::config::Kafka;
use crate::sync::lock;
use ring::digest::{Context, SHA256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// Kafka's default of `message.max.bytes`, for a topic whose configuration cannot be read.
const DEFAULT_TOPIC_LIMIT: u64 = 1_048_588;
/// Upper bound of what the record format adds: a batch's header, and a record's fields (Kafka's protocol guide, "Record
/// Batch").
const RECORD_OVERHEAD: usize = 61 + 70;
/// Upper bound of what it adds to a header: two lengths.
const HEADER_OVERHEAD: usize = 10;

/// Default of the client's `message.max.bytes`, so that the topics' own limits decide.
const MESSAGE_MAX_BYTES: u64 = 32 << 20;

/// The largest record that the client sends. librdkafka reports a malformed number itself.
pub(super) fn own_limit(kafka: &Kafka) -> u64 {
    let limit = kafka.properties.get("message.max.bytes").and_then(|limit| limit.0.trim().parse().ok());
    limit.unwrap_or(MESSAGE_MAX_BYTES)
}

/// The largest records that can be published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// `max.message.bytes` of the topics whose configuration could be read.
    topics: HashMap<String, u64>,
    /// `message.max.bytes` of the client.
    own: u64,
    /// The brokers compare the compressed size, which only they know.
    compresses: bool,
}

impl Limits {
    pub(crate) fn new(kafka: &Kafka, topics: HashMap<String, u64>) -> Limits {
        let codec = ["compression.codec", "compression.type"].into_iter().find_map(|key| kafka.properties.get(key));
        Limits { topics, own: own_limit(kafka), compresses: codec.is_some_and(|codec| codec.0.trim() != "none") }
    }

    /// The limit of a topic, uncompressed.
    pub(crate) fn of(&self, topic: &str) -> u64 {
        self.topics.get(topic).copied().unwrap_or(DEFAULT_TOPIC_LIMIT).min(self.own)
    }

    /// The lowest limit that was read.
    pub(crate) fn lowest(&self) -> Option<u64> {
        self.topics.values().copied().min()
    }

    /// What to do with a record of this size.
    pub(super) fn judge(&self, topic: &str, bytes: u64) -> Verdict {
        let limit = self.topics.get(topic).copied();
        match limit {
            _ if bytes > self.own => Verdict::TooLarge(self.own),
            Some(limit) if bytes > limit && !self.compresses => Verdict::TooLarge(limit),
            Some(limit) if bytes > limit => Verdict::Alone(limit),
            Some(limit) => Verdict::Fits(limit),
            None => Verdict::Fits(self.of(topic)),
        }
    }
}

/// What a record's size means. Holds the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fits(u64),
    /// Its compressed size may fit: it is sent in a batch of its own, so that a refusal means this record.
    Alone(u64),
    TooLarge(u64),
}

/// Upper bound of a record's size in a batch of its own.
pub(super) fn record_bytes<'a>(key: &[u8], value: Option<&[u8]>, headers: impl IntoIterator<Item = &'a str>) -> u64 {
    let headers: usize = headers.into_iter().map(|header| header.len() + HEADER_OVERHEAD).sum();
    (RECORD_OVERHEAD + key.len() + value.map_or(0, <[u8]>::len) + headers) as u64
}

/// Identifies a record by topic, key and value, however often it is published.
pub(super) type Content = [u8; 32];

pub(super) fn content(topic: &str, key: Option<&[u8]>, value: Option<&[u8]>) -> Content {
    let mut hash = Context::new(&SHA256);
    for part in [topic.as_bytes(), key.unwrap_or_default(), value.unwrap_or_default()] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish().as_ref().try_into().unwrap_or_default()
}

/// The records that the brokers refused for their size. Outlives a session, which may have to begin a transaction again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Refusals(Arc<Mutex<Refused>>);

#[derive(Debug, Default)]
struct Refused {
    /// Refused together with others.
    suspects: HashSet<Content>,
    /// Refused in a batch of their own.
    alone: HashSet<Content>,
}

impl Refusals {
    /// Whether nothing was refused yet.
    pub(super) fn is_empty(&self) -> bool {
        let refused = lock(&self.0);
        refused.suspects.is_empty() && refused.alone.is_empty()
    }

    pub(super) fn is_suspect(&self, content: &Content) -> bool {
        lock(&self.0).suspects.contains(content)
    }

    pub(super) fn is_refused(&self, content: &Content) -> bool {
        lock(&self.0).alone.contains(content)
    }

    /// The record is sent in a batch of its own.
    pub(super) fn suspect(&self, content: Content) {
        lock(&self.0).suspects.insert(content);
    }

    /// The brokers refused a batch with these records.
    pub(super) fn add(&self, contents: &[Content]) {
        let mut refused = lock(&self.0);
        for content in contents {
            if refused.suspects.contains(content) {
                refused.alone.insert(*content);
            }
            refused.suspects.insert(*content);
        }
    }

    /// The topics' limits may have changed: everything may be tried again.
    pub(crate) fn clear(&self) {
        *lock(&self.0) = Refused::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_over_the_topics_limit_is_sent_only_if_it_may_be_compressed() {
        let limits = Limits { topics: [("t".to_owned(), 100)].into(), own: 1_000, compresses: false };
        assert_eq!(limits.judge("t", 100), Verdict::Fits(100));
        assert_eq!(limits.judge("t", 101), Verdict::TooLarge(100));
        assert_eq!(limits.judge("unknown", 1_000), Verdict::Fits(1_000));
        let limits = Limits { compresses: true, ..limits };
        assert_eq!(limits.judge("t", 101), Verdict::Alone(100));
        assert_eq!(limits.judge("t", 1_001), Verdict::TooLarge(1_000));
    }

    #[test]
    fn a_record_that_was_refused_with_others_is_tried_alone() {
        let refusals = Refusals::default();
        let [a, b] = ["a", "b"].map(|key| content("t", Some(key.as_bytes()), None));
        refusals.add(&[a, b]);
        assert!(refusals.is_suspect(&a) && !refusals.is_refused(&a));
        refusals.add(&[b]);
        assert!(refusals.is_refused(&b) && !refusals.is_refused(&a));
    }
}
