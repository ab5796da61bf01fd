//! Creates missing topics and lists existing ones.

use super::blocking::blocking;
use super::client::{ClientErrors, Producer, REQUEST_TIMEOUT, client_config};
use super::failure::Failure;
use crate::config::{Kafka, PartitionBy};
use crate::model::TopicTrouble;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResourceResult, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Topics in one admin request, so that its size and the time for an answer stay bounded.
const TOPICS_PER_REQUEST: usize = 200;

/// Time limit for the brokers to learn of a new topic.
const NEW_TOPIC_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which a new topic's configuration is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Configuration of a new topic that `users-sync apply` reads. Compaction must not remove a message, and no tombstone may go, before
/// the slowest target has it.
const FOR_TARGETS: [(&str, &str); 2] = [("min.compaction.lag.ms", "86400000"), ("delete.retention.ms", "604800000")];

/// Creates those of `topics` and of the output's own topics that are not `there`. Returns `max.message.bytes` of each, which a role
/// without DescribeConfigs does not see.
///
/// # Errors
/// A topic is missing and `kafka.create_topics` is off, or the brokers refuse.
pub(crate) async fn ensure_topics(
    kafka: &Kafka,
    there: &HashSet<String>,
    topics: &[&str],
) -> Result<HashMap<String, u64>, Failure> {
    let all: Vec<&str> = topics.iter().copied().chain(kafka.own_topics()).collect();
    let missing: Vec<&str> = all.iter().copied().filter(|topic| !there.contains(*topic)).collect();
    refuse_missing(kafka, &missing).await?;
    let (admin, client_errors) = admin(kafka)?;
    let options = options();
    for some in missing.chunks(TOPICS_PER_REQUEST) {
        let new: Vec<NewTopic<'_>> = some
            .iter()
            .map(|topic| {
                let is_own = kafka.own_topics().any(|own| own == *topic);
                let partitions = if is_own { 1 } else { kafka.partitions };
                let replication = TopicReplication::Fixed(kafka.replication);
                let new = NewTopic::new(topic, partitions, replication).set("cleanup.policy", "compact");
                let more = FOR_TARGETS.into_iter().filter(|_| !is_own && kafka.partition_by == PartitionBy::Tenant);
                more.fold(new, |new, (key, value)| new.set(key, value))
            })
            .collect();
        let made = admin.create_topics(&new, &options).await;
        for made in made.map_err(|error| client_errors.failure("creating topics", &error))? {
            match made {
                Ok(topic) => tracing::info!(topic, "created"),
                // Created concurrently by another process.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    let error = KafkaError::AdminOp(code);
                    return Err(Failure::of(&format!("creating topic {topic}"), &error, None));
                }
            }
        }
    }
    let mut max_bytes = HashMap::new();
    for (topic, TopicConfig { max_message_bytes, cleanup_policy }) in describe(&admin, &all).await {
        max_bytes.extend(max_message_bytes.map(|bytes| (topic.to_owned(), bytes)));
        let policy = cleanup_policy.filter(|policy| there.contains(topic) && !policy.contains("compact"));
        if policy.is_some() {
            tracing::warn!(
                topic,
                cleanup_policy = policy,
                "the topic is not compacted: users that do not change will expire from it; set cleanup.policy=compact"
            );
        }
    }
    Ok(max_bytes)
}

/// An error if topics are missing and are not to be created. `missing`: those that the brokers do not list.
pub(crate) async fn refuse_missing(kafka: &Kafka, missing: &[&str]) -> Result<(), Failure> {
    if missing.is_empty() || kafka.create_topics {
        return Ok(());
    }
    let (settings, named) = (kafka.clone(), missing.iter().map(|topic| (*topic).to_owned()).collect::<Vec<_>>());
    blocking(move || refuse_hidden(&settings, &named)).await?;
    Err(Failure {
        remedy: Some("create it (cleanup.policy=compact), or set kafka.create_topics: true"),
        code: Some(TopicTrouble::Topic),
        ..Failure::plain(format!("Kafka has no topic {}", missing.join(", ")))
    })
}

/// Missing topics that are asked for by name, at most.
const ASKED_BY_NAME: usize = 20;

/// An error if the role may not see a topic: the list of all topics leaves it out. Blocks.
fn refuse_hidden(kafka: &Kafka, topics: &[String]) -> Result<(), Failure> {
    let producer = connect_to_look(kafka)?;
    for topic in topics.iter().take(ASKED_BY_NAME) {
        let metadata = producer.client().fetch_metadata(Some(topic), REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|error| producer.context().failure("looking for the topics", &error))?;
        let refusal = metadata.topics().iter().find_map(|found| found.error()).map(RDKafkaErrorCode::from);
        if let Some(code @ RDKafkaErrorCode::TopicAuthorizationFailed) = refusal {
            return Err(Failure::of(&format!("looking for topic {topic}"), &KafkaError::MetadataFetch(code), None));
        }
    }
    Ok(())
}

/// `max.message.bytes` of the topics whose configuration can be read now.
pub(crate) async fn max_message_bytes(kafka: &Kafka, topics: &[&str]) -> Result<HashMap<String, u64>, Failure> {
    let (admin, _) = admin(kafka)?;
    let described = describe(&admin, topics).await.into_iter();
    Ok(described.filter_map(|(topic, config)| Some((topic.to_owned(), config.max_message_bytes?))).collect())
}

/// What is read of a topic's configuration.
struct TopicConfig {
    max_message_bytes: Option<u64>,
    cleanup_policy: Option<String>,
}

/// Describes topics. A role without DescribeConfigs can still publish, so a refusal is no error.
async fn describe<'a>(admin: &AdminClient<ClientErrors>, topics: &[&'a str]) -> Vec<(&'a str, TopicConfig)> {
    let mut found = Vec::new();
    for some in topics.chunks(TOPICS_PER_REQUEST) {
        let resources: Vec<ResourceSpecifier<'_>> = some.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let deadline = Instant::now() + NEW_TOPIC_TIMEOUT;
        let described = loop {
            let described = admin.describe_configs(&resources, &options()).await.unwrap_or_default();
            // A new topic is not known to every broker at once, or without its configuration.
            let is_unknown = |config: &ConfigResourceResult| match config {
                Ok(config) => config.entries.is_empty(),
                Err(code) => *code == RDKafkaErrorCode::UnknownTopicOrPartition,
            };
            if !described.iter().any(is_unknown) || Instant::now() > deadline {
                break described;
            }
            sleep(POLL_INTERVAL).await;
        };
        for (topic, config) in some.iter().zip(described) {
            let Ok(config) = config else { continue };
            let value = |name| config.get(name).and_then(|entry| entry.value.clone());
            let max_message_bytes = value("max.message.bytes").and_then(|bytes| bytes.parse().ok());
            found.push((*topic, TopicConfig { max_message_bytes, cleanup_policy: value("cleanup.policy") }));
        }
    }
    found
}

fn admin(kafka: &Kafka) -> Result<(AdminClient<ClientErrors>, ClientErrors), Failure> {
    let client_errors = ClientErrors::default();
    let admin = AdminClient::from_config_and_context(&client_config(kafka), client_errors.clone());
    Ok((admin.map_err(|error| Failure::of("configuring the admin client", &error, None))?, client_errors))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT))
}

/// The number of partitions of a topic that exists. Blocks.
pub(crate) fn partition_count(producer: &Producer, topic: &str) -> Result<i32, Failure> {
    let deadline = std::time::Instant::now() + NEW_TOPIC_TIMEOUT;
    loop {
        let metadata = producer.client().fetch_metadata(Some(topic), REQUEST_TIMEOUT);
        let metadata = metadata.map_err(|error| producer.context().failure("reading the partitions", &error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let count = found.map_or(0, |found| found.partitions().len());
        match i32::try_from(count) {
            Ok(count) if count > 0 => return Ok(count),
            // A new topic is not known to every broker at once.
            _ if std::time::Instant::now() < deadline => std::thread::sleep(POLL_INTERVAL),
            _ => return Err(Failure::repeated(&format!("the brokers do not tell the partitions of topic {topic}"))),
        }
    }
}

/// The number of partitions of a topic, for a process that publishes nothing. Blocks.
pub(crate) fn topic_partitions(kafka: &Kafka, topic: &str) -> Result<i32, Failure> {
    partition_count(&connect_to_look(kafka)?, topic)
}

/// Lists the topics of the cluster. Blocks.
pub(crate) fn existing_topics(kafka: &Kafka) -> Result<HashSet<String>, Failure> {
    existing(&connect_to_look(kafka)?)
}

/// Without transactions, so that it fences no other producer.
fn connect_to_look(kafka: &Kafka) -> Result<Producer, Failure> {
    super::client::connect(&Kafka { exactly_once: false, ..kafka.clone() }, None)
}

fn existing(producer: &Producer) -> Result<HashSet<String>, Failure> {
    let metadata = producer.client().fetch_metadata(None, REQUEST_TIMEOUT);
    let metadata = metadata.map_err(|error| producer.context().failure("listing the topics", &error))?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}
