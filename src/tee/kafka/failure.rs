//! What Kafka refused, and what mends it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::fmt;

/// Something that Kafka could not, or would not, do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What failed, and why.
    pub what: String,
    /// What mends it; `None` where that passes by itself.
    pub remedy: Option<&'static str>,
}

impl Failure {
    /// `doing` failed with `error`. `said` is what the client has complained of last, where that is the cause.
    pub(super) fn of(doing: &str, error: &KafkaError, said: Option<(Code, String)>) -> Failure {
        let code = code(error);
        let passes =
            |code| matches!(code, Code::BrokerTransportFailure | Code::OperationTimedOut | Code::AllBrokersDown);
        // A call only says that time is up; the client knows why.
        let cause = match said {
            Some(said) if code.is_none_or(|code| passes(code) || code == Code::RequestTimedOut) => Some(said),
            _ => None,
        };
        match cause {
            Some((code, reason)) => Failure { what: format!("{doing} failed: {reason}"), remedy: remedy(code) },
            None => Failure { what: format!("{doing} failed: {}", words(error)), remedy: code.and_then(remedy) },
        }
    }

    /// With no more than these words.
    pub fn plain(what: String) -> Failure {
        Failure { what, remedy: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

fn words(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        KafkaError::ClientCreation(message) => message.clone(),
        KafkaError::ClientConfig(_, message, key, _) => format!("kafka.properties.{key}: {message}"),
        error => code(error).map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

/// The client has none for what an admin request came to.
fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

fn remedy(code: Code) -> Option<&'static str> {
    Some(match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            "a user's message is larger than Kafka takes: raise max.message.bytes of the topic (message.max.bytes of the \
             broker), and message.max.bytes below kafka.properties, or keep large columns out with users.exclude"
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            "create the topic (cleanup.policy=compact), or set kafka.create_topics: true"
        }
        Code::TopicAuthorizationFailed => {
            "the role of kafka.properties may not use the topic: allow it Describe, Read and Write there, and Create where \
             kafka.create_topics is on"
        }
        Code::ClusterAuthorizationFailed => {
            "the role of kafka.properties may not do that: allow it Create and IdempotentWrite on the cluster, or create \
             the topics and set kafka.create_topics: false"
        }
        Code::TransactionalIdAuthorizationFailed => {
            "allow the role of kafka.properties Describe and Write on the transactional id <kafka.positions_topic>.<kafka.slot>, or \
             set kafka.exactly_once: false"
        }
        Code::GroupAuthorizationFailed => {
            "allow the role of kafka.properties Read on the group <kafka.positions_topic>.<kafka.slot>"
        }
        Code::SaslAuthenticationFailed | Code::Authentication => {
            "correct sasl.mechanism, sasl.username and sasl.password below kafka.properties"
        }
        Code::SSL => {
            "name the authority that signed the brokers' certificates in ssl.ca.location below kafka.properties, and \
             reach the brokers by the names in them"
        }
        Code::Resolve => "correct the host names in kafka.brokers",
        Code::PolicyViolation | Code::InvalidReplicationFactor | Code::InvalidPartitions => {
            "set kafka.partitions and kafka.replication to what the cluster takes, or create the topics and set \
             kafka.create_topics: false"
        }
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
            "another process writes under this kafka.slot and kafka.positions_topic: where it is another installation, give \
             each a slot of its own"
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            "the brokers are too old: it takes Kafka 0.11 or a newer one"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_said_and_not_that_time_is_up() {
        let late = KafkaError::MetadataFetch(Code::OperationTimedOut);
        let said = Some((Code::Authentication, "SASL authentication error".to_owned()));
        let failure = Failure::of("reaching Kafka", &late, said.clone());
        assert!(failure.to_string().starts_with("reaching Kafka failed: SASL authentication error; correct sasl"));
        for refused in [KafkaError::MetadataFetch, KafkaError::AdminOp] {
            let failure = Failure::of("x", &refused(Code::TopicAuthorizationFailed), said.clone());
            assert!(failure.to_string().contains("allow it Describe"), "{failure}");
        }
    }
}
