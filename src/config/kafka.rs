//! The section `kafka`. Pure.

use super::error::Fault;
use super::key_types::{AnyScalar, Choice, Count, Derived, Label, SlotName, Switch, TextType};
use super::registry::{KafkaEncoding, Registry, check_encoding};
use super::section::{KeyType, Reader, join, report_duplicates, section};
use super::tenants::Tenant;
use super::topics::{Topics, TopicsError};
use super::yaml::{Kind, Node};
use crate::model::{TableName, TenantId};
use crate::pg::Secret;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;

section! {
    /// The Kafka output.
    ///
    /// It publishes the same changes as messages. It reads a replication slot of its own, so a broker that is down delays no
    /// target.
    ///
    /// ```yaml
    /// kafka:
    ///   brokers: kafka-1:9092,kafka-2:9092
    ///   topic: users_sync.{tenant}
    ///   properties:
    ///     security.protocol: sasl_ssl
    ///     ssl.ca.location: /etc/ssl/kafka-ca.pem
    ///     sasl.mechanism: SCRAM-SHA-512
    ///     sasl.username: users-sync
    ///     sasl.password: ${KAFKA_PASSWORD}
    /// ```
    pub struct Kafka {
        /// Bootstrap servers as `host:port`, separated by commas: `kafka-1:9092,kafka-2:9092`.
        pub brokers: String,
        /// Name of the topic of each tenant. `{tenant}` is replaced by the tenant's id and `{table}` by the table of the
        /// users. Without `{tenant}` all tenants share the topic, and the keys of the messages contain the tenant.
        pub topic: String = "users_sync.{tenant}",
        /// Format of the messages. Another format, or another value of `schemas`, requires other topics.
        pub format: KafkaFormat as Choice<KafkaFormat> = "debezium",
        /// Encoding of keys and values. Another one requires other topics. An encoding other than `json` requires `registry`.
        pub encoding: KafkaEncoding as Choice<KafkaEncoding> = "json",
        /// The schema registry.
        pub registry: Option<Registry>,
        /// Adds the schema that Kafka Connect's JsonConverter expects to keys and values. Only with `format: debezium` and
        /// `encoding: json`.
        pub schemas: bool as Switch = "false",
        /// Publishes a tombstone after a soft delete, so that compaction removes the user.
        pub tombstone_on_delete: bool as Switch = "false",
        /// Writes messages and position in one Kafka transaction. `false` means at least once: a crash repeats messages.
        pub exactly_once: bool as Switch = "true",
        /// Publishes the existing users at the first start.
        pub snapshot: bool as Switch = "true",
        /// Creates missing topics. With `false` they must exist, with `cleanup.policy=compact`.
        pub create_topics: bool as Switch = "true",
        /// What decides the partition of a message. Another value, or another number of partitions, requires another topic.
        pub partition_by: PartitionBy as Choice<PartitionBy> = "key",
        /// Number of partitions of a created topic.
        pub partitions: i32 as Count = "1",
        /// Replication factor of a created topic. `default` is the broker's own default.
        pub replication: i32 as Replication = "default",
        /// Name of the compacted topic that stores the positions.
        pub positions_topic: String = "users_sync.positions",
        /// Name of the compacted topic that stores, with `partition_by: tenant`, where the last snapshot of each tenant begins.
        pub snapshots_topic: String = "users_sync.snapshots",
        /// Consumer group of `users-sync apply`. With it `users-sync run` only publishes: it opens no target, and any number of
        /// `users-sync apply` processes write to the targets. It requires `partition_by: tenant`, `exactly_once: true`,
        /// `snapshot: true` and `encoding: json`.
        pub group: Option<String> as Option<Label>,
        /// Name of this process in the group, the same after a restart: its partitions wait for it until the broker's session
        /// timeout. Usually `${HOSTNAME}`. By default they move to other processes at once.
        pub instance: Option<String> as Option<Label>,
        /// Name of the replication slot of the Kafka output. It defaults to `source.slot` with `_kafka` appended.
        pub slot: String as Derived<SlotName>,
        /// Properties of librdkafka, such as `security.protocol`, `ssl.ca.location`, `sasl.mechanism`, `sasl.username` and
        /// `sasl.password`. Their values appear in no log. Properties that the guarantees depend on cannot be set.
        ///
        /// TLS, client certificates, SASL PLAIN and SCRAM are supported, and OAUTHBEARER without `oidc`. Certificates are
        /// verified unless `enable.ssl.certificate.verification` is `false`.
        pub properties: BTreeMap<String, Secret> as Properties = "{}",
    }
}

impl Kafka {
    /// The snapshots topic, if this output has one.
    pub(crate) fn snapshots(&self) -> Option<&str> {
        (self.partition_by == PartitionBy::Tenant).then_some(&*self.snapshots_topic)
    }

    /// The topics for users-sync itself. Each is compacted and has one partition.
    pub(crate) fn own_topics(&self) -> impl Iterator<Item = &str> {
        [&*self.positions_topic].into_iter().chain(self.snapshots())
    }
}

/// `kafka.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KafkaFormat {
    /// Debezium's envelope with `op`, `before` and `after`.
    Debezium,
    /// The seven columns of the user, and null for a deleted user.
    Upsert,
}

/// `kafka.partition_by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartitionBy {
    /// The key, as in a Java producer: the changes of a user are in order.
    Key,
    /// The tenant, as if its id were the key: all changes of a tenant are in order, in a topic that tenants share. The
    /// messages of a source transaction are next to each other for each tenant, and headers tell where they end.
    Tenant,
}

/// A replication factor; -1 is the broker's default.
struct Replication;

impl TextType for Replication {
    type Value = i32;
    type Schema = AnyScalar;
    const EXPECTED: &'static str = "a number from 1, or default";

    fn parse(text: &str) -> Option<i32> {
        if text == "default" { Some(-1) } else { Count::parse(text) }
    }
}

/// Properties that the guarantees depend on, each with the reason.
const MANAGED: [(&str, &str); 9] = [
    ("bootstrap.servers", "set kafka.brokers instead"),
    ("metadata.broker.list", "set kafka.brokers instead"),
    ("acks", "its value is all: with less, changes could be lost"),
    ("request.required.acks", "its value is all: with less, changes could be lost"),
    ("enable.idempotence", "its value is true: otherwise a retry could repeat or reorder changes"),
    ("enable.gapless.guarantee", "enable.idempotence already keeps the order"),
    ("transactional.id", "it is derived from kafka.slot, so that only one process writes at a time"),
    ("partitioner", "its value is murmur2_random, as in Java's producers"),
    ("isolation.level", "its value is read_committed"),
];

/// Properties of librdkafka.
pub(super) struct Properties;

impl KeyType for Properties {
    type Value = BTreeMap<String, Secret>;
    type Schema = BTreeMap<String, AnyScalar>;

    fn expected() -> String {
        "a section whose keys are names of librdkafka's properties".to_owned()
    }

    fn read(node: &Node, path: &str, reader: &mut Reader<'_>) -> Option<BTreeMap<String, Secret>> {
        let Kind::Section(entries) = &node.kind else {
            reader.push(Fault::new(&node.span, format!("{path} must be a section of keys")).help("{key: value}"));
            return None;
        };
        report_duplicates(entries, path, reader);
        let mut properties = BTreeMap::new();
        for (key, node) in entries {
            let path = join(path, &key.name);
            let Some(value) = reader.text(node, &path) else { continue };
            if let Some((_, why)) = MANAGED.iter().find(|(name, _)| *name == key.name) {
                let message = format!("{path} is managed by users-sync and cannot be overridden");
                reader.push(Fault::new(&key.span, message).help(*why));
            } else if key.name == "sasl.oauthbearer.method" && value.eq_ignore_ascii_case("oidc") {
                let message = format!("{path}: oidc fetches its token with libcurl, which is not built in");
                let help = "use SCRAM, PLAIN with an API key, or a client certificate (ssl.certificate.location)";
                reader.push(Fault::new(&key.span, message).help(help));
            }
            properties.insert(key.name.clone(), Secret(value));
        }
        Some(properties)
    }
}

/// The default of `kafka.slot`. At most 63 bytes, the limit of a name.
pub(super) fn default_slot(source_slot: &str) -> String {
    format!("{}_kafka", source_slot.chars().take(57).collect::<String>())
}

/// Reports what does not fit the other sections.
pub(super) fn check_kafka(
    kafka: &Kafka,
    source_slot: &str,
    users: &TableName,
    tenants: &[Arc<Tenant>],
    root: &Node,
    reader: &mut Reader<'_>,
) {
    if !cfg!(feature = "kafka") {
        let fault = Fault::new(root.span_of("kafka"), "this users-sync is built without Kafka");
        reader
            .push(fault.help("use a build with the cargo feature `kafka` (a default feature), or remove the section"));
    }
    if kafka.schemas && kafka.format == KafkaFormat::Upsert {
        let fault = Fault::new(root.span_of("kafka.schemas"), "kafka.schemas requires format: debezium");
        reader.push(fault.help("remove it, or set format: debezium"));
    }
    if kafka.partition_by == PartitionBy::Tenant && kafka.topic.contains("{tenant}") {
        let fault = Fault::new(
            root.span_of("kafka.partition_by"),
            "kafka.partition_by: tenant requires a topic that tenants share",
        );
        reader.push(fault.help("remove {tenant} from kafka.topic, or remove kafka.partition_by"));
    }
    check_group(kafka, root, reader);
    let has_group = kafka.group.is_some();
    check_encoding(kafka.encoding, kafka.registry.as_ref(), kafka.schemas, has_group, root, reader);
    if let Some(fault) = topics_fault(kafka, users, tenants.iter().map(|tenant| &tenant.id)) {
        let (key, help) = match fault {
            TopicsFault::Snapshots(_) => ("kafka.snapshots_topic", "choose a topic that only contains snapshots"),
            TopicsFault::Positions => ("kafka.positions_topic", "choose a topic that only contains positions"),
            TopicsFault::Names(_) => ("kafka.topic", "with a fixed name, without {tenant}, all tenants share a topic"),
        };
        reader.push(Fault::new(root.span_of(key), fault.to_string()).help(help));
    }
    if kafka.slot == source_slot {
        let fault = Fault::new(root.span_of("kafka.slot"), "kafka.slot is the same as source.slot");
        reader.push(fault.help("Kafka needs a slot of its own, so that a broker that is down delays no target"));
    }
}

/// Reports what `kafka.group` requires.
fn check_group(kafka: &Kafka, root: &Node, reader: &mut Reader<'_>) {
    if kafka.group.is_none() {
        if kafka.instance.is_some() {
            let fault = Fault::new(root.span_of("kafka.instance"), "kafka.instance requires kafka.group");
            reader.push(fault.help("name the consumer group of users-sync apply, or remove it"));
        }
        return;
    }
    let needs = [
        (
            kafka.partition_by == PartitionBy::Tenant,
            "partition_by",
            "kafka.group requires partition_by: tenant",
            "set it, and name a topic without {tenant}: users-sync apply reads all changes of a tenant in order",
        ),
        (
            kafka.exactly_once,
            "exactly_once",
            "kafka.group requires exactly_once: true",
            "set it, or remove kafka.group: repeated changes could set a target back",
        ),
        (
            kafka.snapshot,
            "snapshot",
            "kafka.group requires snapshot: true",
            "set it, or remove kafka.group: targets are filled from the topic",
        ),
    ];
    for (_, key, message, help) in needs.into_iter().filter(|(is_met, ..)| !is_met) {
        // A key that is left out has no place of its own.
        let own = root.get("kafka").and_then(|section| section.get(key)).map(|_| format!("kafka.{key}"));
        let span = root.span_of(own.as_deref().unwrap_or("kafka.group"));
        reader.push(Fault::new(span, message).help(help));
    }
}

/// What is wrong with the topics of these tenants.
#[derive(Debug, thiserror::Error)]
pub(super) enum TopicsFault {
    #[error("kafka.positions_topic is also a topic for users")]
    Positions,
    #[error("kafka.snapshots_topic is also {0}")]
    Snapshots(&'static str),
    #[error(transparent)]
    Names(TopicsError),
}

pub(super) fn topics_fault<'a>(
    kafka: &Kafka,
    users: &TableName,
    tenants: impl IntoIterator<Item = &'a TenantId>,
) -> Option<TopicsFault> {
    let topics = match Topics::new(&kafka.topic, users, tenants) {
        Ok(topics) => topics,
        Err(error) => return Some(TopicsFault::Names(error)),
    };
    let has_snapshots = kafka.partition_by == PartitionBy::Tenant;
    let is_for_users = |topic: &str| topics.distinct().contains(&topic);
    if is_for_users(&kafka.positions_topic) {
        Some(TopicsFault::Positions)
    } else if has_snapshots && kafka.snapshots_topic == kafka.positions_topic {
        Some(TopicsFault::Snapshots("kafka.positions_topic"))
    } else if has_snapshots && is_for_users(&kafka.snapshots_topic) {
        Some(TopicsFault::Snapshots("a topic for users"))
    } else {
        None
    }
}

#[cfg(test)]
#[cfg(feature = "kafka")]
mod tests {
    use crate::config::{Env, parse};
    use crate::diagnostic::Diagnostic;

    /// The section's message, remedy and place.
    #[track_caller]
    fn check(keys: &str, place: &str, words: [&str; 2]) {
        let text = format!(
            "source: {{url: 'postgres://u@h/d'}}\nusers: {{table: a.b, id: id}}\n\
             tenants: [{{id: a, target: 'postgres://u@h/a'}}]\nkafka: {{brokers: b, {keys}}}\n"
        );
        let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let error = parse("test.yaml", &text, &env).expect_err("the section is wrong");
        let shown = Diagnostic::from(error).render(false);
        for word in words.into_iter().chain([&*format!("--> test.yaml:{place}\n")]) {
            assert!(shown.contains(word), "no {word:?}:\n{shown}");
        }
    }

    #[test]
    fn a_group_requires_whole_tenants_and_exact_positions() {
        check("group: g", "4:28", ["kafka.group requires partition_by: tenant", "without {tenant}"]);
        let with = |more: &str| format!("topic: t, partition_by: tenant, group: g, {more}");
        check(&with("exactly_once: false"), "4:77", ["kafka.group requires exactly_once: true", "set it"]);
        check(&with("snapshot: false"), "4:73", ["kafka.group requires snapshot: true", "set it"]);
        check("group: ''", "4:28", ["for kafka.group", "a text that is not empty"]);
        check("instance: i", "4:31", ["kafka.instance requires kafka.group", "name the consumer group"]);
    }

    #[test]
    fn the_topic_of_the_snapshots_is_its_own() {
        let with = |more: &str| format!("topic: t, partition_by: tenant, {more}");
        let words = |what| [what, "choose a topic that only contains snapshots"];
        check(&with("snapshots_topic: t"), "4:70", words("kafka.snapshots_topic is also a topic for users"));
        let both = with("positions_topic: p, snapshots_topic: p");
        check(&both, "4:90", words("kafka.snapshots_topic is also kafka.positions_topic"));
    }
}
