//! Creates missing topics and lists existing ones.

use super::client::{ClientErrors, Producer, REQUEST_TIMEOUT, client_config};
use super::failure::Failure;
use crate::config::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use std::collections::HashSet;

/// Topics in one admin request, so that its size and the time for an answer stay bounded.
const TOPICS_PER_REQUEST: usize = 200;

/// Creates those of `topics` and of the positions topic that are missing. Returns the topics that existed before.
///
/// # Errors
/// A topic is missing and `kafka.create_topics` is off, or the brokers refuse.
pub(crate) async fn ensure_topics(
    kafka: &Kafka,
    producer: &Producer,
    topics: &[&str],
) -> Result<HashSet<String>, Failure> {
    let looking = producer.clone();
    let there = tokio::task::spawn_blocking(move || existing(&looking)).await;
    let there = there.map_err(|error| Failure::plain(format!("listing the topics was interrupted: {error}")))??;
    let positions = &*kafka.positions_topic;
    let missing: Vec<&str> =
        topics.iter().copied().chain([positions]).filter(|topic| !there.contains(*topic)).collect();
    if !missing.is_empty() && !kafka.create_topics {
        return Err(Failure {
            what: format!("Kafka has no topic {}", missing.join(", ")),
            remedy: Some("create it (cleanup.policy=compact), or set kafka.create_topics: true"),
        });
    }
    let client_errors = ClientErrors::default();
    let admin = AdminClient::from_config_and_context(&client_config(kafka), client_errors.clone());
    let admin: AdminClient<ClientErrors> =
        admin.map_err(|error| Failure::of("configuring the admin client", &error, None))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
    for some in missing.chunks(TOPICS_PER_REQUEST) {
        let new: Vec<NewTopic<'_>> = some
            .iter()
            .map(|topic| {
                let partitions = if *topic == positions { 1 } else { kafka.partitions };
                let replication = TopicReplication::Fixed(kafka.replication);
                NewTopic::new(topic, partitions, replication).set("cleanup.policy", "compact")
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
    let known: Vec<&str> = topics.iter().copied().chain([positions]).filter(|topic| there.contains(*topic)).collect();
    for some in known.chunks(TOPICS_PER_REQUEST) {
        let resources: Vec<ResourceSpecifier<'_>> = some.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        // A role without DescribeConfigs can still publish.
        let Ok(described) = admin.describe_configs(&resources, &options).await else { continue };
        for (topic, config) in some.iter().zip(described) {
            let policy = config.ok().and_then(|config| config.get("cleanup.policy")?.value.clone());
            if policy.as_ref().is_some_and(|policy| !policy.contains("compact")) {
                tracing::warn!(
                    topic,
                    cleanup_policy = policy,
                    "the topic is not compacted: users that do not change will expire from it; set cleanup.policy=compact"
                );
            }
        }
    }
    Ok(there)
}

/// Lists the topics of the cluster. Blocks.
pub(crate) fn existing_topics(kafka: &Kafka) -> Result<HashSet<String>, Failure> {
    // Without transactions, so that listing fences no other producer.
    existing(&super::client::connect(&Kafka { exactly_once: false, ..kafka.clone() })?)
}

fn existing(producer: &Producer) -> Result<HashSet<String>, Failure> {
    let metadata = producer.client().fetch_metadata(None, REQUEST_TIMEOUT);
    let metadata = metadata.map_err(|error| producer.context().failure("listing the topics", &error))?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}
