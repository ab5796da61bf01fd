//! Topics: created where they are missing, or only looked at.

use super::client::{ANSWER, Complaints, Producer, client_config};
use super::failure::Failure;
use crate::config::Kafka;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;
use std::collections::HashSet;

/// So many topics are asked for at once.
const TOGETHER: usize = 200;

/// Creates what is missing of these topics and of the positions topic, or fails where it is not to. Gives the topics
/// that were there before.
pub async fn ensure_topics(kafka: &Kafka, producer: &Producer, topics: &[&str]) -> Result<HashSet<String>, Failure> {
    let looking = producer.clone();
    let there = tokio::task::spawn_blocking(move || existing(&looking)).await;
    let there = there.map_err(|error| Failure::plain(format!("listing the topics was broken off: {error}")))??;
    let positions = &*kafka.positions_topic;
    let missing: Vec<&str> =
        topics.iter().copied().chain([positions]).filter(|topic| !there.contains(*topic)).collect();
    if !missing.is_empty() && !kafka.create_topics {
        return Err(Failure {
            what: format!("Kafka has no topic {}", missing.join(", ")),
            remedy: Some("create it (cleanup.policy=compact), or set kafka.create_topics: true"),
        });
    }
    let complaints = Complaints::default();
    let admin = AdminClient::from_config_and_context(&client_config(kafka), complaints.clone());
    let admin: AdminClient<Complaints> =
        admin.map_err(|error| Failure::of("configuring the admin client", &error, None))?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    for some in missing.chunks(TOGETHER) {
        let new: Vec<NewTopic<'_>> = some
            .iter()
            .map(|topic| {
                let partitions = if *topic == positions { 1 } else { kafka.partitions };
                let replication = TopicReplication::Fixed(kafka.replication);
                NewTopic::new(topic, partitions, replication).set("cleanup.policy", "compact")
            })
            .collect();
        let made = admin.create_topics(&new, &options).await;
        for made in made.map_err(|error| complaints.failure("creating topics", &error))? {
            match made {
                Ok(topic) => tracing::info!(topic, "created"),
                // Somebody else was faster.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => {
                    let error = KafkaError::AdminOp(code);
                    return Err(Failure::of(&format!("creating topic {topic}"), &error, None));
                }
            }
        }
    }
    let known: Vec<&str> = topics.iter().copied().chain([positions]).filter(|topic| there.contains(*topic)).collect();
    for some in known.chunks(TOGETHER) {
        let asked: Vec<ResourceSpecifier<'_>> = some.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        // It is a look: a role that may not take it can still publish.
        let Ok(described) = admin.describe_configs(&asked, &options).await else { continue };
        for (topic, config) in some.iter().zip(described) {
            let policy = config.ok().and_then(|config| config.get("cleanup.policy")?.value.clone());
            if policy.as_ref().is_some_and(|policy| !policy.contains("compact")) {
                tracing::warn!(
                    topic,
                    cleanup_policy = policy,
                    "the topic is not compacted: users that do not change will vanish from it; set cleanup.policy=compact"
                );
            }
        }
    }
    Ok(there)
}

/// The topics that the brokers have. Blocks.
pub fn existing_topics(kafka: &Kafka) -> Result<HashSet<String>, Failure> {
    // Without transactions: nothing is fenced by a look.
    existing(&super::client::connect(&Kafka { exactly_once: false, ..kafka.clone() })?)
}

fn existing(producer: &Producer) -> Result<HashSet<String>, Failure> {
    let metadata = producer.client().fetch_metadata(None, ANSWER);
    let metadata = metadata.map_err(|error| producer.context().failure("listing the topics", &error))?;
    Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
}
