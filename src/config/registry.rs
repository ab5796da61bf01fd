//! The section `kafka.registry`, and the encodings that need it. Pure.

use super::error::Fault;
use super::key_types::{Label, SecretText, Switch, TextType};
use super::section::{Reader, section};
use super::yaml::Node;
use crate::pg::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

section! {
    /// The schema registry.
    ///
    /// One with the API of Confluent's: Confluent, Apicurio (below `/apis/ccompat/v7`), Karapace, Redpanda. Certificates are
    /// verified with the authorities that the system trusts.
    ///
    /// ```yaml
    /// kafka:
    ///   brokers: kafka-1:9092
    ///   encoding: avro
    ///   registry: {url: "https://registry:8081", user: users-sync, password: "${REGISTRY_PASSWORD}"}
    /// ```
    pub struct Registry {
        /// URL of the API, to which `/subjects/...` is appended.
        pub url: String as RegistryUrl,
        /// User of HTTP's basic authentication.
        pub user: Option<String> as Option<Label>,
        /// Its password, usually `${REGISTRY_PASSWORD}`.
        pub password: Option<Secret> as Option<SecretText>,
        /// Registers the schemas of keys and values. With `false` they must be registered.
        pub register: bool as Switch = "true",
    }
}

/// `kafka.encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KafkaEncoding {
    /// JSON, without a registry.
    Json,
    /// Avro, with the id of its schema in a registry.
    Avro,
    /// JSON, behind the id of its JSON Schema in a registry.
    JsonSchema,
    /// Protocol Buffers, with the id of their schema in a registry.
    Protobuf,
}

/// The URL of a registry.
struct RegistryUrl;

impl TextType for RegistryUrl {
    type Value = String;
    type Schema = String;
    const EXPECTED: &'static str = "a URL such as https://registry:8081, without a user, a password, `?` and `#`";

    fn parse(text: &str) -> Option<String> {
        let url: axum::http::Uri = text.parse().ok()?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        let is_plain = url.host().is_some_and(|host| !host.is_empty()) && !text.contains(['@', '?', '#']);
        (is_http && is_plain).then(|| text.trim_end_matches('/').to_owned())
    }
}

/// Reports what does not fit the encoding. `schemas`, `has_group`: the keys of the section `kafka`.
pub(super) fn check_encoding(
    encoding: KafkaEncoding,
    registry: Option<&Registry>,
    schemas: bool,
    has_group: bool,
    root: &Node,
    reader: &mut Reader<'_>,
) {
    let mut report = |key: &str, message: &str, help: &str| {
        reader.push(Fault::new(root.span_of(key), message).help(help));
    };
    if let Some(registry) = registry
        && registry.user.is_some() != registry.password.is_some()
    {
        report("kafka.registry", "kafka.registry requires user and password together", "set both, or remove both");
    }
    match (encoding, registry) {
        (KafkaEncoding::Json, None) => return,
        (KafkaEncoding::Json, Some(_)) => {
            let message = "kafka.registry requires another encoding than json";
            let help = "set kafka.encoding to avro, json_schema or protobuf, or remove the section";
            return report("kafka.registry", message, help);
        }
        (KafkaEncoding::Avro | KafkaEncoding::JsonSchema | KafkaEncoding::Protobuf, None) => {
            let help = "name the schema registry: registry: {url: \"https://registry:8081\"}, or set encoding: json";
            report("kafka.encoding", "kafka.encoding requires kafka.registry", help);
        }
        (KafkaEncoding::Avro | KafkaEncoding::JsonSchema | KafkaEncoding::Protobuf, Some(_)) => {}
    }
    if schemas {
        let help = "remove kafka.schemas: consumers find the schemas in the registry";
        report("kafka.schemas", "kafka.schemas requires encoding: json", help);
    }
    if has_group {
        let help = "set encoding: json, which users-sync apply reads, or remove kafka.group";
        report("kafka.group", "kafka.group requires encoding: json", help);
    }
}

#[cfg(test)]
#[cfg(feature = "kafka")]
mod tests {
    use crate::config::{Config, Env, parse};
    use crate::diagnostic::Diagnostic;

    fn read(keys: &str) -> Result<Config, String> {
        let text = format!(
            "source: {{url: 'postgres://u@h/d'}}\nusers: {{table: a.b, id: id}}\n\
             tenants: [{{id: a, target: 'postgres://u@h/a'}}]\nkafka: {{brokers: b, {keys}}}\n"
        );
        let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        parse("test.yaml", &text, &env).map_err(|error| Diagnostic::from(error).render(false))
    }

    /// The message, the place and the remedy.
    #[track_caller]
    fn check(keys: &str, place: &str, words: [&str; 2]) {
        let shown = read(keys).expect_err("the section is wrong");
        for word in words.into_iter().chain([&*format!("--> test.yaml:{place}\n")]) {
            assert!(shown.contains(word), "no {word:?}:\n{shown}");
        }
    }

    #[test]
    fn an_encoding_with_schemas_requires_a_registry_and_allows_no_other_schemas() {
        check("encoding: avro", "4:31", ["kafka.encoding requires kafka.registry", "name the schema registry"]);
        let with = |more: &str| format!("encoding: avro, registry: {{url: 'http://r'}}, {more}");
        check(&with("schemas: true"), "4:75", ["kafka.schemas requires encoding: json", "remove kafka.schemas"]);
        let group = with("topic: t, partition_by: tenant, group: g");
        check(&group, "4:105", ["kafka.group requires encoding: json", "users-sync apply reads"]);
        let without = "registry: {url: 'http://r'}";
        check(without, "4:31", ["kafka.registry requires another encoding than json", "set kafka.encoding"]);
        check("encoding: json_schema", "4:31", ["kafka.encoding requires kafka.registry", "name the schema registry"]);
        check("encoding: xml", "4:31", ["kafka.encoding", "json, avro, json_schema or protobuf"]);
    }

    #[test]
    fn a_registry_has_a_url_and_a_user_with_a_password() {
        let with = |registry: &str| format!("encoding: avro, registry: {{{registry}}}");
        for url in ["registry:8081", "ftp://r", "http://u:p@r", "http://r?a=b", "http://r#a", "http:///x", ""] {
            check(&with(&format!("url: '{url}'")), "4:53", ["kafka.registry.url", "such as https://registry:8081"]);
        }
        let registry = |url: &str| read(&with(&format!("url: '{url}'"))).unwrap().kafka.unwrap().registry.unwrap();
        assert_eq!(registry("http://r:1/apis/ccompat/v7/").url, "http://r:1/apis/ccompat/v7");
        assert!(registry("https://r").register);
        let words = ["kafka.registry requires user and password together", "set both"];
        check(&with("url: 'http://r', user: u"), "4:47", words);
        check(&with("url: 'http://r', password: p"), "4:47", words);
        let secret = read(&with("url: 'http://r', user: u, password: hidden")).unwrap();
        assert!(!format!("{secret:?}").contains("hidden"));
    }
}
