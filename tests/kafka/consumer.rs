//! A consumer of committed messages.

use crate::broker::Broker;
use crate::support::{DEADLINE, breathe};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// A message as a consumer receives it.
#[derive(Clone, Debug)]
pub struct Message {
    pub partition: i32,
    pub offset: i64,
    pub key: Value,
    /// `None` is a tombstone.
    pub value: Option<Value>,
    pub headers: BTreeMap<String, String>,
    pub timestamp: Option<i64>,
}

impl Message {
    pub fn id(&self) -> &str {
        self.key["id"].as_str().or(self.key["payload"]["id"].as_str()).unwrap()
    }

    /// `c`, `u`, `d` or `r`; `t` for a tombstone; `?` if the format has no operation.
    pub fn op(&self) -> &str {
        let Some(value) = &self.value else { return "t" };
        value["op"].as_str().or(value["payload"]["op"].as_str()).unwrap_or("?")
    }
}

/// A message before its key and value are decoded.
#[derive(Clone, Debug)]
pub struct Raw {
    pub partition: i32,
    pub offset: i64,
    pub key: Vec<u8>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
    pub timestamp: Option<i64>,
}

impl Raw {
    /// With its key and value.
    pub fn decoded(self, key: Value, value: Option<Value>) -> Message {
        let Raw { partition, offset, headers, timestamp, .. } = self;
        Message { partition, offset, key, value, headers, timestamp }
    }
}

/// All committed messages of a topic.
pub fn read(broker: &Broker, topic: &str) -> Vec<Message> {
    read_with(&broker.address(), topic, &[])
}

pub fn read_with(brokers: &str, topic: &str, properties: &[(&str, &str)]) -> Vec<Message> {
    let decoded = |raw: Raw| {
        let key = serde_json::from_slice(&raw.key).unwrap();
        // Deep documents and huge numbers stay texts.
        let text = |value: &Vec<u8>| Value::from(String::from_utf8(value.clone()).unwrap());
        let value = raw.value.as_ref().map(|value| serde_json::from_slice(value).unwrap_or_else(|_| text(value)));
        raw.decoded(key, value)
    };
    read_raw(brokers, topic, properties).into_iter().map(decoded).collect()
}

/// As [`read_with`], whatever the encoding.
pub fn read_raw(brokers: &str, topic: &str, properties: &[(&str, &str)]) -> Vec<Raw> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "test").set("isolation.level", "read_committed");
    config.set("enable.partition.eof", "true").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "10");
    for (key, value) in properties {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer = config.create().unwrap();
    let begun = Instant::now();
    let partitions: Vec<i32> = loop {
        if let Ok(metadata) = consumer.fetch_metadata(Some(topic), Duration::from_secs(5))
            && let Some(topic) = metadata.topics().first()
            && topic.error().is_none()
        {
            break topic.partitions().iter().map(|partition| partition.id()).collect();
        }
        if begun.elapsed() > Duration::from_secs(1) {
            return Vec::new();
        }
    };
    let mut assignment = TopicPartitionList::new();
    partitions.iter().for_each(|p| assignment.add_partition_offset(topic, *p, Offset::Beginning).unwrap());
    consumer.assign(&assignment).unwrap();
    let mut open: HashSet<i32> = partitions.into_iter().collect();
    let mut messages = Vec::new();
    while !open.is_empty() {
        assert!(begun.elapsed() < DEADLINE, "{topic} has no end");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
            Some(Err(error)) => panic!("{topic}: {error}"),
            Some(Ok(message)) => {
                let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
                let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
                messages.push(Raw {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().unwrap().to_vec(),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: headers.map(|h| (h.key.to_owned(), text(h.value).unwrap())).collect(),
                    timestamp: message.timestamp().to_millis(),
                });
            }
        }
    }
    messages
}

/// The end offset of the topic's first partition at this isolation level.
pub fn end(broker: &Broker, topic: &str, isolation: &str) -> i64 {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address()).set("group.id", "test").set("isolation.level", isolation);
    let consumer: BaseConsumer = config.create().unwrap();
    consumer.fetch_watermarks(topic, 0, DEADLINE).unwrap().1
}

/// Waits until the topic has at least this many messages.
#[track_caller]
pub fn arrive(broker: &Broker, topic: &str, count: usize) -> Vec<Message> {
    let begun = Instant::now();
    loop {
        let messages = read(broker, topic);
        if messages.len() >= count {
            return messages;
        }
        assert!(begun.elapsed() < DEADLINE, "{topic} has {} messages, not {count}: {messages:#?}", messages.len());
        breathe();
    }
}
