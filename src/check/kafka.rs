//! Checks that Kafka's brokers respond, and that the topics exist unless they are created automatically.

use super::finding::{Finding, Subject};
use crate::config::Topics;
use crate::config::{Config, Kafka};
use crate::tee::kafka::{self, Failure};

pub(super) async fn findings(config: &Config, kafka: &Kafka) -> Vec<Finding> {
    let tenants = config.tenants.iter().map(|tenant| &tenant.id);
    let topics = match Topics::new(&kafka.topic, &config.users.table, tenants) {
        Ok(topics) => topics,
        Err(error) => return vec![Finding::error(Subject::Kafka, error.to_string(), "correct kafka.topic")],
    };
    let settings = kafka.clone();
    let topics_found = tokio::task::spawn_blocking(move || kafka::existing_topics(&settings)).await;
    let topics_found =
        topics_found.unwrap_or_else(|error| Err(Failure::plain(format!("the lookup was interrupted: {error}"))));
    let existing = match topics_found {
        Ok(existing) => existing,
        Err(Failure { what, remedy, .. }) => {
            let remedy = remedy.unwrap_or("check that the brokers are running and reachable from this machine");
            return vec![Finding::error(Subject::Kafka, what, remedy)];
        }
    };
    let mut needed = topics.distinct();
    needed.push(&kafka.positions_topic);
    let missing: Vec<&str> = needed.into_iter().filter(|topic| !existing.contains(*topic)).collect();
    if missing.is_empty() || kafka.create_topics {
        return Vec::new();
    }
    let remedy = "create it (cleanup.policy=compact), or set kafka.create_topics: true";
    vec![Finding::error(Subject::Kafka, format!("there is no topic {}", missing.join(", ")), remedy)]
}
