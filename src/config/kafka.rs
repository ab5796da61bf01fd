//! The section `kafka`. Pure.

use super::error::Fault;
use super::interpolate::Env;
use super::raw::{Key, Node};
use super::section::{self, SLOT, Section, is_slot};
use super::settings::{Kafka, KafkaFormat, Tenant};
use crate::config::Topics;
use crate::map::Rules;
use crate::pg::Secret;
use std::collections::BTreeMap;

const DEFAULT_TOPIC: &str = "users_sync.{tenant}";
const DEFAULT_POSITIONS: &str = "users_sync.positions";

/// What the guarantee rests on is not for a file to change.
const OURS: [(&str, &str); 9] = [
    ("bootstrap.servers", "it is kafka.brokers"),
    ("metadata.broker.list", "it is kafka.brokers"),
    ("acks", "it is all: less would lose changes"),
    ("request.required.acks", "it is all: less would lose changes"),
    ("enable.idempotence", "it is true: without it a retry would write a change twice, or out of order"),
    ("enable.gapless.guarantee", "order is kept by enable.idempotence"),
    ("transactional.id", "it is made of kafka.slot, so that one process at a time writes"),
    ("partitioner", "it is murmur2_random, as Java's producers do it"),
    ("isolation.level", "it is read_committed"),
];

pub(super) fn kafka(
    node: &Node,
    source_slot: &str,
    users: &Rules,
    tenants: &[Tenant],
    from: &Env<'_>,
) -> Result<Kafka, Fault> {
    if !cfg!(feature = "kafka") {
        let fault = Fault::new(&node.span, "this build of users-sync has no Kafka");
        return Err(fault.help("take a build with the cargo feature `kafka` (it is on by default), or leave it out"));
    }
    let section = Section::of(node, &section::KAFKA, from)?;
    let brokers = section.required("brokers", "for example brokers: kafka-1:9092,kafka-2:9092")?;
    let brokers = section::text(brokers, "kafka.brokers", from)?;
    let text = |name, default: &str| section.parsed(name, default.to_owned(), |text| Some(text.to_owned()), "a text");
    let topic = text("topic", DEFAULT_TOPIC)?;
    let positions_topic = text("positions_topic", DEFAULT_POSITIONS)?;
    let span = |name| section.node(name).map_or(&node.span, |node| &node.span);
    let format = section.parsed(
        "format",
        KafkaFormat::Debezium,
        |text| match text {
            "debezium" => Some(KafkaFormat::Debezium),
            "upsert" => Some(KafkaFormat::Upsert),
            _ => None,
        },
        "debezium or upsert",
    )?;
    let schemas = section.switch("schemas", false)?;
    if schemas && format == KafkaFormat::Upsert {
        let fault = Fault::new(span("schemas"), "kafka.schemas is for the format debezium");
        return Err(fault.help("leave it out, or take format: debezium"));
    }
    let ids = tenants.iter().map(|tenant| &tenant.id);
    let topics = Topics::new(&topic, &users.table, ids);
    let topics = topics.map_err(|error| {
        Fault::new(span("topic"), error.to_string())
            .help("with a fixed name, without {tenant}, all tenants share a topic")
    })?;
    if topics.distinct().contains(&&*positions_topic) {
        let fault = Fault::new(span("positions_topic"), "kafka.positions_topic is also the topic of users");
        return Err(fault.help("positions need a topic of their own"));
    }
    let slot = section.parsed(
        "slot",
        format!("{}_kafka", source_slot.chars().take(57).collect::<String>()),
        |name| is_slot(name).then(|| name.to_owned()),
        SLOT,
    )?;
    if slot == source_slot {
        let fault = Fault::new(span("slot"), "kafka.slot is source.slot");
        return Err(fault.help("the tee reads a slot of its own, so that a broker that is down holds back no target"));
    }
    Ok(Kafka {
        brokers,
        topic,
        format,
        schemas,
        tombstone_on_delete: section.switch("tombstone_on_delete", false)?,
        exactly_once: section.switch("exactly_once", true)?,
        snapshot: section.switch("snapshot", true)?,
        create_topics: section.switch("create_topics", true)?,
        partitions: section.parsed("partitions", 1, count, "a count from 1")?,
        replication: section.parsed("replication", -1, replication, "a count from 1, or default")?,
        positions_topic,
        slot,
        properties: properties(section.free("properties")?)?,
    })
}

fn count(text: &str) -> Option<i32> {
    text.parse().ok().filter(|count| *count > 0)
}

fn replication(text: &str) -> Option<i32> {
    if text == "default" { Some(-1) } else { count(text) }
}

fn properties(given: Vec<(&Key, String)>) -> Result<BTreeMap<String, Secret>, Fault> {
    let mut properties = BTreeMap::new();
    for (key, value) in given {
        if let Some((_, why)) = OURS.iter().find(|(name, _)| *name == key.name) {
            let fault = Fault::new(&key.span, format!("kafka.properties.{} is not for the file to set", key.name));
            return Err(fault.help(why.to_string()));
        }
        if key.name == "sasl.oauthbearer.method" && value.eq_ignore_ascii_case("oidc") {
            let what = "kafka.properties.sasl.oauthbearer.method: oidc fetches its token with libcurl, which is not built in here";
            let fault = Fault::new(&key.span, what.to_owned());
            return Err(
                fault.help("use SCRAM, PLAIN with an API key, or a client certificate (ssl.certificate.location)")
            );
        }
        properties.insert(key.name.clone(), Secret(value));
    }
    Ok(properties)
}
