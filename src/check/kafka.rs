//! Whether the tee's brokers answer, and have the topics where those are not to be created.

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
    let reached = tokio::task::spawn_blocking(move || kafka::existing_topics(&settings)).await;
    let reached = reached.unwrap_or_else(|error| Err(Failure::plain(format!("the lookup was interrupted: {error}"))));
    let there = match reached {
        Ok(there) => there,
        Err(Failure { what, remedy }) => {
            let remedy = remedy.unwrap_or("check that the brokers are running and reachable from this machine");
            return vec![Finding::error(Subject::Kafka, what, remedy)];
        }
    };
    let mut wanted = topics.distinct();
    wanted.push(&kafka.positions_topic);
    let missing: Vec<&str> = wanted.into_iter().filter(|topic| !there.contains(*topic)).collect();
    match (missing.is_empty(), kafka.create_topics) {
        (true, _) | (false, true) => Vec::new(),
        (false, false) => {
            let remedy = "create it (cleanup.policy=compact), or set kafka.create_topics: true";
            vec![Finding::error(Subject::Kafka, format!("there is no topic {}", missing.join(", ")), remedy)]
        }
    }
}
