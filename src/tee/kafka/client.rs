//! Clients: how they are configured, and what they complain of.

use super::failure::Failure;
use crate::config::Kafka;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Messages are published through this; it serves itself in a thread of its own.
pub type Producer = ThreadedProducer<Complaints>;

/// The brokers have to answer within this.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// An older process's transaction has to end within this.
const INIT: Duration = Duration::from_secs(30);

/// What a client says went wrong, other than by a call's result.
#[derive(Clone, Default)]
pub struct Complaints {
    last: Arc<Mutex<Last>>,
}

#[derive(Default)]
struct Last {
    error: Option<(RDKafkaErrorCode, String)>,
    undelivered: Option<KafkaError>,
    topic: Option<String>,
}

impl Complaints {
    /// A call's error with the cause that the client knows.
    pub(super) fn failure(&self, doing: &str, error: &KafkaError) -> Failure {
        Failure::of(doing, error, self.lock().error.clone())
    }

    /// The first message that was not delivered, since this was asked last.
    pub(super) fn undelivered(&self) -> Option<Failure> {
        let mut last = self.lock();
        let error = last.undelivered.take()?;
        let topic = last.topic.take().unwrap_or_default();
        Some(Failure::of(&format!("publishing to {topic}"), &error, None))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Complaints {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters is said by the call that fails, once; this is for those who look closer.
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(target: "users_sync::librdkafka", facility, message),
            _ => tracing::debug!(target: "users_sync::librdkafka", facility, message),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        // How long it took is another time another number.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let mut last = self.lock();
        // All brokers are down because of something that was said before.
        if code != RDKafkaErrorCode::AllBrokersDown || last.error.is_none() {
            last.error = Some((code, reason.to_owned()));
        }
    }
}

impl ProducerContext for Complaints {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        let Err((error, message)) = result else { return };
        let mut last = self.lock();
        // What is given up because of another one says nothing.
        let purged = |code| matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        if last.undelivered.is_none() && !error.rdkafka_error_code().is_some_and(purged) {
            last.topic = Some(message.topic().to_owned());
            last.undelivered = Some(error.clone());
        }
    }
}

impl ConsumerContext for Complaints {}

/// What every client of the tee has in common.
pub(super) fn client_config(kafka: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &kafka.brokers).set("client.id", "users-sync");
    config.set("reconnect.backoff.ms", "100").set("reconnect.backoff.max.ms", "2000");
    if cfg!(feature = "static") {
        // An OpenSSL of our own does not know where this machine keeps the authorities that it trusts.
        config.set("ssl.ca.location", "probe");
    }
    for (key, value) in &kafka.properties {
        config.set(key, &value.0);
    }
    // Who asks for `debug` wants to see what it brings.
    config.set_log_level(if kafka.properties.contains_key("debug") {
        RDKafkaLogLevel::Debug
    } else {
        RDKafkaLogLevel::Info
    });
    config
}

/// After this the brokers abort a transaction.
pub(super) fn transaction_timeout(kafka: &Kafka) -> Duration {
    Duration::from_millis(number(kafka, "transaction.timeout.ms").unwrap_or(60_000))
}

/// How many kilobytes wait for the brokers at most: one message of the largest kind at least.
fn room(kafka: &Kafka) -> u64 {
    (number(kafka, "message.max.bytes").unwrap_or_default() / 512).clamp(64 << 10, 2 << 20)
}

/// A property that is a number; librdkafka refuses what is none.
fn number(kafka: &Kafka, name: &str) -> Option<u64> {
    kafka.properties.get(name)?.0.trim().parse().ok()
}

/// Makes a producer and reaches the brokers. Blocks.
pub fn connect(kafka: &Kafka) -> Result<Producer, Failure> {
    let mut config = client_config(kafka);
    config.set("acks", "all").set("enable.idempotence", "true").set("partitioner", "murmur2_random");
    config.set("delivery.report.only.error", "true");
    // A topic that brokers make by themselves is not compacted; and one that somebody deletes is not to come back empty.
    config.set("allow.auto.create.topics", "false");
    let timeout = transaction_timeout(kafka).as_millis();
    for (names, value) in [
        // A batch is published as a whole: nothing is gained by waiting for more of it.
        (&["linger.ms", "queue.buffering.max.ms"][..], "1".to_owned()),
        (&["batch.num.messages"], "10000".to_owned()),
        (&["queue.buffering.max.messages"], "100000".to_owned()),
        // Its default is a gigabyte; a huge transaction waits at the source instead.
        (&["queue.buffering.max.kbytes"], room(kafka).to_string()),
        (&["transaction.timeout.ms"], timeout.to_string()),
        // It may not be longer than a transaction's.
        (&["message.timeout.ms", "delivery.timeout.ms"], (timeout * 5 / 6).to_string()),
    ] {
        if !names.iter().any(|name| kafka.properties.contains_key(*name)) {
            config.set(names[0], value);
        }
    }
    if kafka.exactly_once {
        config.set("transactional.id", format!("{}.{}", kafka.positions_topic, kafka.slot));
    }
    let complaints = Complaints::default();
    let producer = Producer::from_config_and_context(&config, complaints.clone());
    let producer = producer.map_err(|error| Failure::of("configuring the producer", &error, None))?;
    let progress = producer.client().fetch_metadata(None, ANSWER);
    progress.map_err(|error| complaints.failure(&format!("reaching Kafka at {}", kafka.brokers), &error))?;
    Ok(producer)
}

/// Ends whatever an older process with the same slot has left open, and its right to write. Blocks.
pub fn fence(producer: &Producer) -> Result<(), Failure> {
    let done = producer.init_transactions(INIT);
    done.map_err(|error| producer.context().failure("beginning transactions", &error))
}
