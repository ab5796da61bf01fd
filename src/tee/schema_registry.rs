//! Schemas in a registry with Confluent's API: subjects, requests and answers. Pure.
//!
//! Source: Confluent's manual, "Schema Registry API Reference".

use super::avro;
use crate::config::{Kafka, KafkaEncoding, KafkaFormat};
use serde::Deserialize;
use serde_json::json;

/// The subject, or its version, is not there (Confluent's error codes).
const NOT_THERE: [i64; 3] = [40401, 40402, 40403];

/// The schemas of the keys and values in every topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schemas {
    /// As in the registry's API.
    kind: &'static str,
    key: String,
    value: String,
}

/// A schema that a topic needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Its name (TopicNameStrategy).
    pub(crate) name: String,
    /// The request's body.
    pub(crate) body: Vec<u8>,
}

impl Schemas {
    /// `None` if the encoding has none.
    pub(crate) fn new(kafka: &Kafka) -> Option<Schemas> {
        match kafka.encoding {
            KafkaEncoding::Json => None,
            KafkaEncoding::Protobuf => {
                let value = match kafka.format {
                    KafkaFormat::Debezium => include_str!("../../config/kafka/debezium.proto"),
                    KafkaFormat::Upsert => include_str!("../../config/kafka/upsert.proto"),
                };
                let key = include_str!("../../config/kafka/key.proto");
                Some(Schemas { kind: "PROTOBUF", key: key.to_owned(), value: value.to_owned() })
            }
            KafkaEncoding::JsonSchema => {
                let value = match kafka.format {
                    KafkaFormat::Debezium => include_str!("../../config/kafka/debezium.schema.json"),
                    KafkaFormat::Upsert => include_str!("../../config/kafka/upsert.schema.json"),
                };
                Some(Schemas {
                    kind: "JSON",
                    key: include_str!("../../config/kafka/key.schema.json").to_owned(),
                    value: value.to_owned(),
                })
            }
            KafkaEncoding::Avro => {
                let names_tenant = !kafka.topic.contains("{tenant}");
                Some(Schemas {
                    kind: "AVRO",
                    key: avro::key_schema(&kafka.slot, names_tenant).to_string(),
                    value: avro::value_schema(&kafka.slot, kafka.format).to_string(),
                })
            }
        }
    }

    /// The subjects of a topic's keys and values.
    pub(crate) fn subjects(&self, topic: &str) -> [Subject; 2] {
        [("key", &self.key), ("value", &self.value)].map(|(part, schema)| Subject {
            name: format!("{topic}-{part}"),
            body: json!({"schemaType": self.kind, "schema": schema}).to_string().into_bytes(),
        })
    }
}

/// What is asked of the registry about a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Register the schema, and return its id.
    Register,
    /// Return the id of the schema.
    LookUp,
    /// Return the id of the schema, whatever its white space and the order of its keys. Confluent's registry compares so in
    /// any case, Apicurio's does not.
    LookUpNormalized,
    /// Tell whether the schema could be registered.
    Test,
}

impl Request {
    /// The path behind the registry's URL. Names of topics need no escapes.
    pub(crate) fn path(self, subject: &str) -> String {
        match self {
            Request::Register => format!("/subjects/{subject}/versions"),
            Request::LookUp => format!("/subjects/{subject}"),
            Request::LookUpNormalized => format!("/subjects/{subject}?normalize=true"),
            Request::Test => format!("/compatibility/subjects/{subject}/versions/latest"),
        }
    }

    /// Reads the answer. Returns the schema's id; a test returns none.
    pub(crate) fn read(self, status: u16, body: &[u8]) -> Result<Option<u32>, Refusal> {
        #[derive(Deserialize)]
        struct Id {
            id: u32,
        }
        #[derive(Deserialize)]
        struct Compatible {
            is_compatible: bool,
        }
        #[derive(Deserialize)]
        struct Fault {
            error_code: i64,
        }
        let fault = || serde_json::from_slice::<Fault>(body).ok().map(|fault| fault.error_code);
        match (status, self) {
            (200..=299, Request::Register | Request::LookUp | Request::LookUpNormalized) => {
                serde_json::from_slice::<Id>(body).map(|Id { id }| Some(id)).map_err(|_| Refusal::NoRegistry)
            }
            (200..=299, Request::Test) => match serde_json::from_slice(body) {
                Ok(Compatible { is_compatible: true }) => Ok(None),
                Ok(Compatible { is_compatible: false }) => Err(Refusal::Incompatible),
                Err(_) => Err(Refusal::NoRegistry),
            },
            (401 | 403, _) => Err(Refusal::Login),
            (404, Request::LookUp | Request::LookUpNormalized | Request::Test)
                if fault().is_some_and(|code| NOT_THERE.contains(&code)) =>
            {
                // What is not there can be registered.
                if self == Request::Test { Ok(None) } else { Err(Refusal::NotThere) }
            }
            (404, _) => Err(Refusal::NoRegistry),
            (409, _) => Err(Refusal::Incompatible),
            (422, _) => Err(Refusal::Invalid),
            (408 | 429 | 500..=599, _) => Err(Refusal::Passing(status)),
            _ => Err(Refusal::Other(status)),
        }
    }
}

/// Why the registry gives no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the schema is not compatible with the registered ones")]
    Incompatible,
    #[error("the registry does not accept the schema")]
    Invalid,
    #[error("the schema is not registered")]
    NotThere,
    #[error("the registry refuses the login")]
    Login,
    #[error("the server does not answer as a schema registry")]
    NoRegistry,
    #[error("the registry answers with HTTP status {0}")]
    Other(u16),
    /// It passes on its own.
    #[error("the registry answers with HTTP status {0}")]
    Passing(u16),
}

impl Refusal {
    /// How to fix it; `None` if it recovers on its own.
    pub(crate) fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Refusal::Incompatible | Refusal::Invalid => {
                "let the output write to topics whose subjects have no other schemas (kafka.topic), delete the subject in the \
                 registry if no consumer needs it, or set the subject's compatibility to BACKWARD or NONE"
            }
            Refusal::NotThere => "register the schema (config/kafka has it), or set kafka.registry.register: true",
            Refusal::Login => {
                "correct kafka.registry.user and kafka.registry.password, and allow the user to read and write the subject"
            }
            Refusal::NoRegistry | Refusal::Other(_) => {
                "set kafka.registry.url to the URL of an API like that of Confluent's Schema Registry; Apicurio's ends with \
                 /apis/ccompat/v7"
            }
            Refusal::Passing(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_status_and_code() {
        let [register, look_up, test] = [Request::Register, Request::LookUp, Request::Test];
        let not_there = br#"{"error_code":40403,"message":"secret"}"#;
        type Case = (Request, u16, &'static [u8], Result<Option<u32>, Refusal>);
        let cases: [Case; 17] = [
            (register, 200, br#"{"id":7}"#, Ok(Some(7))),
            (look_up, 200, br#"{"subject":"t-key","version":1,"id":4294967295,"schema":"{}"}"#, Ok(Some(u32::MAX))),
            (test, 200, br#"{"is_compatible":true}"#, Ok(None)),
            (test, 200, br#"{"is_compatible":false}"#, Err(Refusal::Incompatible)),
            (register, 200, b"<html>", Err(Refusal::NoRegistry)),
            (register, 200, br#"{"id":-1}"#, Err(Refusal::NoRegistry)),
            (register, 200, br#"{"id":4294967296}"#, Err(Refusal::NoRegistry)),
            (test, 200, b"{}", Err(Refusal::NoRegistry)),
            (register, 401, b"", Err(Refusal::Login)),
            (look_up, 404, not_there, Err(Refusal::NotThere)),
            (test, 404, not_there, Ok(None)),
            (register, 404, not_there, Err(Refusal::NoRegistry)),
            (look_up, 404, b"not found", Err(Refusal::NoRegistry)),
            (register, 409, not_there, Err(Refusal::Incompatible)),
            (register, 422, b"", Err(Refusal::Invalid)),
            (register, 503, b"", Err(Refusal::Passing(503))),
            (register, 302, b"", Err(Refusal::Other(302))),
        ];
        for (request, status, body, expected) in cases {
            let found = request.read(status, body);
            assert_eq!(found, expected, "{request:?} {status}");
            let shown = found.err().map(|refusal| (refusal.to_string(), refusal.remedy()));
            assert!(!format!("{shown:?}").contains("secret"));
        }
    }
}
