//! Errors of Kafka, each with its remedy.

use crate::model::TopicTrouble;
use crate::tee::Foreign;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use std::fmt;

/// A failed operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The operation and the reason.
    pub what: String,
    /// How to fix it. `None` if it recovers on its own.
    pub remedy: Option<&'static str>,
    /// The stable code, if the topics show what is wrong.
    pub code: Option<TopicTrouble>,
    /// The next session knows how to go on, so that it begins at once.
    pub is_repeated: bool,
}

/// Remedy for topics and positions of another installation.
const FOREIGN_REMEDY: &str = "give this installation names of its own: set kafka.topic, kafka.positions_topic and source.slot to names that no \
                              other installation uses; if the other installation no longer exists, take its topics over: \
                              users-sync adopt -c FILE --kafka";

impl Failure {
    /// A failure of `operation`. `last_error` is the last error that the client reported asynchronously.
    pub(super) fn of(operation: &str, error: &KafkaError, last_error: Option<(Code, String)>) -> Failure {
        let code = code(error);
        let passes =
            |code| matches!(code, Code::BrokerTransportFailure | Code::OperationTimedOut | Code::AllBrokersDown);
        // A call reports only that it timed out. The client's last error has the cause.
        let cause = match last_error {
            Some(cause) if code.is_none_or(|code| passes(code) || code == Code::RequestTimedOut) => Some(cause),
            _ => None,
        };
        let (code, reason) = match cause {
            Some((code, reason)) => (Some(code), reason),
            None => (code, message(error)),
        };
        Failure {
            remedy: code.and_then(remedy),
            code: code.and_then(trouble),
            ..Failure::plain(format!("{operation} failed: {reason}"))
        }
    }

    /// The end of a session whose successor begins at once.
    pub(crate) fn repeated(what: &str) -> Failure {
        Failure { is_repeated: true, ..Failure::plain(what.to_owned()) }
    }

    /// Nothing may be published: topics or positions belong to another installation.
    pub(crate) fn foreign(Foreign(what): Foreign) -> Failure {
        Failure { remedy: Some(FOREIGN_REMEDY), code: Some(TopicTrouble::Foreign), ..Failure::plain(what) }
    }

    /// A failure without a remedy.
    pub(crate) fn plain(what: String) -> Failure {
        Failure { what, remedy: None, code: None, is_repeated: false }
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

fn message(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(error) => error.string(),
        KafkaError::ClientCreation(message) => message.clone(),
        KafkaError::ClientConfig(_, message, key, _) => format!("kafka.properties.{key}: {message}"),
        error => code(error).map_or_else(|| error.to_string(), |code| code.to_string()),
    }
}

/// `rdkafka_error_code` returns `None` for the result of an admin request.
fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        error => error.rdkafka_error_code(),
    }
}

fn trouble(code: Code) -> Option<TopicTrouble> {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => Some(TopicTrouble::Topic),
        _ => None,
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
            "the role of kafka.properties may not use the topic: allow it Describe, Read and Write on the topic, and Create if \
             kafka.create_topics is on"
        }
        Code::ClusterAuthorizationFailed => {
            "the role of kafka.properties lacks a privilege: allow it Create and IdempotentWrite on the cluster, or create \
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
            "set kafka.partitions and kafka.replication to values that the cluster accepts, or create the topics and set \
             kafka.create_topics: false"
        }
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => {
            "another process writes under this kafka.slot and kafka.positions_topic: if it belongs to another installation, \
             set kafka.topic, kafka.positions_topic and source.slot to names of its own for each"
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            "the brokers are too old: Kafka 0.11 or later is required"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_topic_has_the_code_that_check_shows() {
        for missing in [Code::UnknownTopic, Code::UnknownTopicOrPartition, Code::UnknownPartition] {
            let failure = Failure::of("publishing", &KafkaError::MessageProduction(missing), None);
            assert_eq!(failure.code, Some(TopicTrouble::Topic), "{failure}");
        }
        let down = Failure::of("publishing", &KafkaError::MessageProduction(Code::BrokerTransportFailure), None);
        assert_eq!(down.code, None, "{down}");
    }

    #[test]
    fn a_timeout_is_reported_with_the_clients_last_error() {
        let late = KafkaError::MetadataFetch(Code::OperationTimedOut);
        let last_error = Some((Code::Authentication, "SASL authentication error".to_owned()));
        let failure = Failure::of("reaching Kafka", &late, last_error.clone());
        assert!(failure.to_string().starts_with("reaching Kafka failed: SASL authentication error; correct sasl"));
        for refused in [KafkaError::MetadataFetch, KafkaError::AdminOp] {
            let failure = Failure::of("x", &refused(Code::TopicAuthorizationFailed), last_error.clone());
            assert!(failure.to_string().contains("allow it Describe"), "{failure}");
        }
    }
}
