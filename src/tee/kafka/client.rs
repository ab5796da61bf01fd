//! Configuration of the Kafka clients, and the errors that they report asynchronously.

use super::ends::Ends;
use super::failure::Failure;
use super::oversized::{Content, content, own_limit};
use crate::config::Kafka;
use crate::sync::lock;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Publishes messages. librdkafka polls it in a thread of its own.
pub(crate) type Producer = ThreadedProducer<ClientErrors>;

/// A consumer of partitions that it chooses itself.
pub(super) type Consumer = BaseConsumer<ClientErrors>;

/// Time limit for an answer of the brokers.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for ending a transaction that an older process left open.
const FENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// The errors that a client reports other than as a call's result.
#[derive(Clone, Default)]
pub(crate) struct ClientErrors {
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    error: Option<(RDKafkaErrorCode, String)>,
    undelivered: Option<KafkaError>,
    topic: Option<String>,
    /// Messages that the brokers refused for their size.
    too_large: Vec<Content>,
    ends: Ends,
}

impl ClientErrors {
    /// A call's error, with the cause that the client reported.
    pub(super) fn failure(&self, operation: &str, error: &KafkaError) -> Failure {
        Failure::of(operation, error, self.lock().error.clone())
    }

    /// Takes the error of the first message that was not delivered since the last call.
    pub(super) fn undelivered(&self) -> Option<Failure> {
        let mut last = self.lock();
        let error = last.undelivered.take()?;
        let topic = last.topic.take().unwrap_or_default();
        Some(Failure::of(&format!("publishing to {topic}"), &error, None))
    }

    /// Whether a message was not delivered.
    pub(super) fn is_undelivered(&self) -> bool {
        self.lock().undelivered.is_some()
    }

    /// Takes the messages that the brokers refused for their size since the last call.
    pub(super) fn too_large(&self) -> Vec<Content> {
        std::mem::take(&mut self.lock().too_large)
    }

    /// Runs `look` with the ends of the topics.
    pub(super) fn ends<T>(&self, look: impl FnOnce(&mut Ends) -> T) -> T {
        look(&mut self.lock().ends)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Last> {
        lock(&self.last)
    }
}

impl ClientContext for ClientErrors {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // The failing call reports the error once, at a higher level.
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(target: "users_sync::librdkafka", facility, message),
            _ => tracing::debug!(target: "users_sync::librdkafka", facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        // The suffix holds a duration, which would make every report look new.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let mut last = self.lock();
        // `AllBrokersDown` follows from an error that was reported before it.
        if code != RDKafkaErrorCode::AllBrokersDown || last.error.is_none() {
            last.error = Some((code, reason.to_owned()));
        }
    }
}

impl ProducerContext for ClientErrors {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        let mut last = self.lock();
        let (error, message) = match result {
            Ok(message) => return last.ends.written(message),
            Err(failed) => failed,
        };
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
            last.too_large.push(content(message.topic(), message.key(), message.payload()));
        }
        // A purged message is a consequence of another error.
        let purged = |code| matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        if last.undelivered.is_none() && !error.rdkafka_error_code().is_some_and(purged) {
            last.topic = Some(message.topic().to_owned());
            last.undelivered = Some(error.clone());
        }
    }
}

impl ConsumerContext for ClientErrors {}

/// The configuration that all clients share.
pub(super) fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", "users-sync");
    config.set("reconnect.backoff.ms", "100").set("reconnect.backoff.max.ms", "2000");
    if cfg!(feature = "static") {
        // A statically linked OpenSSL does not know where the machine keeps its CA certificates.
        config.set("ssl.ca.location", "probe");
    }
    for (key, value) in &kafka.properties {
        config.set(key, &value.0);
    }
    // `debug` in the configuration asks for these messages.
    config.set_log_level(if kafka.properties.contains_key("debug") {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    config
}

/// Two consumers outside of every group: one of committed records, and one that also sees what is not committed. `group` is required, and
/// not used: nothing subscribes or commits.
pub(super) fn consumers(
    kafka: &Kafka,
    group: &str,
    more: &[(&str, &str)],
) -> Result<(Consumer, Consumer, ClientErrors), Failure> {
    let mut config = client_config(kafka);
    config.set("group.id", group);
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true");
    config.set("fetch.wait.max.ms", "20");
    for (name, value) in more {
        config.set(*name, *value);
    }
    let client_errors = ClientErrors::default();
    let consumer = |config: &ClientConfig| {
        let consumer = Consumer::from_config_and_context(config, client_errors.clone());
        consumer.map_err(|error| Failure::of("configuring the consumer", &error, None))
    };
    let uncommitted = consumer(config.clone().set("isolation.level", "read_uncommitted"))?;
    Ok((consumer(&config)?, uncommitted, client_errors))
}

/// The time after which the brokers abort an open transaction.
pub(super) fn transaction_timeout(kafka: &Kafka) -> Duration {
    Duration::from_millis(number(kafka, "transaction.timeout.ms").unwrap_or(60_000))
}

/// librdkafka's default of `batch.size`, below Kafka's default of a topic's limit.
const BATCH_BYTES: u64 = 1_000_000;

/// Capacity of the producer's queue in kilobytes: enough for at least one message of the largest size.
fn queue_kilobytes(kafka: &Kafka) -> u64 {
    (own_limit(kafka) / 512).clamp(64 << 10, 2 << 20)
}

/// Whether batches of the default size exceed the lowest of the topics' limits.
pub(crate) fn needs_smaller_batches(lowest: Option<u64>) -> Option<u64> {
    lowest.filter(|lowest| *lowest < BATCH_BYTES)
}

/// A numeric property. librdkafka reports malformed numbers itself.
fn number(kafka: &Kafka, name: &str) -> Option<u64> {
    kafka.properties.get(name)?.0.trim().parse().ok()
}

/// Creates a producer and connects to the brokers. Blocks. `batch`: the size of a batch, if the topics take no larger one.
pub(crate) fn connect(kafka: &Kafka, batch: Option<u64>) -> Result<Producer, Failure> {
    let mut config = client_config(kafka);
    config.set("acks", "all").set("enable.idempotence", "true").set("partitioner", "murmur2_random");
    // A topic that the brokers create is not compacted, and a deleted topic must not reappear empty.
    config.set("allow.auto.create.topics", "false");
    let timeout = transaction_timeout(kafka).as_millis();
    for (names, value) in [
        // A batch is published as a whole: waiting for more messages gains nothing.
        (&["linger.ms", "queue.buffering.max.ms"][..], "1".to_owned()),
        (&["batch.num.messages"], "10000".to_owned()),
        (&["queue.buffering.max.messages"], "100000".to_owned()),
        // The default is 1 GB. A huge transaction waits at the source instead.
        (&["queue.buffering.max.kbytes"], queue_kilobytes(kafka).to_string()),
        (&["message.max.bytes"], own_limit(kafka).to_string()),
        (&["batch.size"], batch.unwrap_or(BATCH_BYTES).to_string()),
        (&["transaction.timeout.ms"], timeout.to_string()),
        // librdkafka requires a delivery timeout below the transaction timeout.
        (&["message.timeout.ms", "delivery.timeout.ms"], (timeout * 5 / 6).to_string()),
    ] {
        if !names.iter().any(|name| kafka.properties.contains_key(*name)) {
            config.set(names[0], value);
        }
    }
    if kafka.exactly_once {
        config.set("transactional.id", format!("{}.{}", kafka.positions_topic, kafka.slot));
    }
    let client_errors = ClientErrors::default();
    let producer = Producer::from_config_and_context(&config, client_errors.clone());
    let producer = producer.map_err(|error| Failure::of("configuring the producer", &error, None))?;
    let progress = producer.client().fetch_metadata(None, REQUEST_TIMEOUT);
    progress.map_err(|error| client_errors.failure(&format!("reaching Kafka at {}", kafka.brokers), &error))?;
    Ok(producer)
}

/// Aborts a transaction that an older process of the same slot left open, and fences that process. Blocks.
pub(crate) fn fence(producer: &Producer) -> Result<(), Failure> {
    let done = producer.init_transactions(FENCE_TIMEOUT);
    done.map_err(|error| producer.context().failure("beginning transactions", &error))
}
