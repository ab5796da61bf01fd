//! Encodings with a schema registry: users arrive with the schemas of a real registry, and what it refuses is reported.

use crate::bed::{TeeBed, of, once, ops, rebuild};
use crate::broker::{Broker, until};
use crate::consumer::{Message, read_raw};
use crate::registry_server::{Registry, schema_id};
use crate::support::lights::{Lights, free_address};
use crate::support::process::Process;
use crate::support::{DEADLINE, pause};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

const ANN: &str =
    "INSERT INTO auth.users (id, org, first_name, last_name, email, encrypted_password, profile, created_at)
    VALUES ('ann', 'acme', 'Ann', E'O''Neill \"x\" \\\\ \\n', 'ann@example.com', 'secret', '{\"a\": [1, \"ü\"]}',
            '2024-05-01 12:00:00.000001+00')";
const LIFE: [&str; 5] = [
    "UPDATE auth.users SET first_name = 'Anna', updated_at = '2024-06-01' WHERE id = 'ann'",
    "INSERT INTO auth.users (id, org, first_name, email) VALUES ('bob', 'acme', 'Bob', ''), ('cy', 'acme', NULL, 'c@d')",
    "DELETE FROM auth.users WHERE id = 'bob'",
    "UPDATE auth.users SET id = 'cyd' WHERE id = 'cy'",
    "UPDATE auth.users SET org = 'globex' WHERE id = 'ann'",
];

/// Waits until a topic rebuilds exactly these users. Returns its messages, decoded.
#[track_caller]
fn holds<'a>(
    bed: &'a TeeBed,
    registry: &'a Registry,
    topic: &'a str,
    expected: impl AsyncFn() -> BTreeMap<String, Value> + 'a,
) -> impl Future<Output = Vec<Message>> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let expected = expected().await;
            let (brokers, name) = (bed.brokers.clone(), topic.to_owned());
            let raw = tokio::task::spawn_blocking(move || read_raw(&brokers, &name, &[])).await.unwrap();
            let mut messages = registry.decode(raw).await;
            messages.iter_mut().filter_map(|message| message.value.as_mut()).for_each(with_texts);
            let held = rebuild(&messages);
            if held == expected {
                return messages;
            }
            assert!(Instant::now() < deadline, "{caller}: {topic} holds {held:#?}\nthe source has {expected:#?}");
            pause().await;
        }
    }
}

/// The times of a flat record become texts, as in JSON.
fn with_texts(value: &mut Value) {
    for column in ["created_at", "deleted_at", "updated_at"] {
        let micros = value.get(column).and_then(Value::as_i64);
        if let Some(time) = micros.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok()) {
            value[column] = json!(time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_is_waited_for_and_debezium_events_arrive_in_avro() {
    let (broker, registry) = (Broker::shared(), Registry::reserve());
    let at = free_address();
    let top = format!("deletes: hard\nadmin: {{listen: '{at}'}}");
    let mut bed = TeeBed::start(broker, "avro", &registry.section("avro", ""), &top).await;
    bed.auth(ANN).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('zed', 'globex')").await;
    let file = std::mem::replace(&mut bed.file, tempfile::NamedTempFile::new().unwrap());
    let mut lights = Lights::new(file, at);
    let process = lights.run().await;
    lights.show("degraded", "kafka_registry").await;
    assert!(lights.reason("kafka_registry").await.contains("no answer of the schema registry"));
    assert!(read_raw(&bed.brokers, "avro.acme", &[]).is_empty());
    registry.run().await;
    lights.show("ok", "").await;
    for statement in LIFE {
        bed.auth(statement).await;
    }
    let acme = holds(&bed, &registry, "avro.acme", async || bed.expected("acme").await).await;
    let globex = holds(&bed, &registry, "avro.globex", async || bed.expected("globex").await).await;
    assert_eq!(["ann", "bob", "cy", "cyd"].map(|id| ops(&of(&acme, id))), ["rudt", "cdt", "cdt", "c"]);
    assert_eq!(ops(&of(&globex, "ann")), "c");
    once(&acme);
    let subjects = ["acme", "globex"].map(|tenant| ["key", "value"].map(|part| format!("avro.{tenant}-{part}")));
    assert_eq!(registry.subjects().await, subjects.into_iter().flatten().collect());
    let (key, value) = (registry.id("avro.acme-key").await, registry.id("avro.acme-value").await);
    for raw in read_raw(&bed.brokers, "avro.acme", &[]) {
        assert_eq!(schema_id(&raw.key), key);
        assert!(raw.value.as_ref().is_none_or(|data| schema_id(data) == value), "{raw:?}");
        assert_eq!(raw.headers["content-type"], "application/avro");
    }
    let updated = of(&acme, "ann")[1].value.as_ref().unwrap();
    assert_eq!(updated["after"]["name"], "Anna O'Neill \"x\" \\ \n");
    assert_eq!(updated["after"]["updated_at"], "2024-06-01T00:00:00.000000Z");
    assert_eq!(
        (&updated["source"]["connector"], &updated["source"]["snapshot"]),
        (&json!("postgresql"), &json!("false"))
    );
    assert_eq!(of(&acme, "ann")[0].value.as_ref().unwrap()["source"]["snapshot"], "true");
    assert!(!format!("{acme:?}{globex:?}").contains("secret"));

    // A session that publishes needs no registry.
    registry.kill();
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('dan', 'acme')").await;
    until("the user arrives", async || read_raw(&bed.brokers, "avro.acme", &[]).len() > acme.len()).await;
    assert!(process.stop().await.success(), "{}", lights.log());
    // Another process recognises its own keys in the topic.
    registry.run().await;
    bed.auth("DELETE FROM auth.users WHERE id = 'cyd'").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync_kafka')").await;
    let process = lights.run().await;
    let acme = holds(&bed, &registry, "avro.acme", async || bed.expected("acme").await).await;
    assert!(ops(&of(&acme, "cyd")).ends_with("dt"), "{acme:#?}");
    assert!(process.stop().await.success(), "{}", lights.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn flat_records_of_a_shared_topic_end_in_a_tombstone() {
    let (broker, registry) = (Broker::shared(), Registry::start().await);
    let keys = registry.section("avro", "") + ", topic: 'flat', format: upsert, tombstone_on_delete: true";
    let bed = TeeBed::start(broker, "flat", &keys, "").await;
    bed.auth(ANN).await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('eve', 'globex', 'infinity')").await;
    bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('bob', 'acme', 'Bob')").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'bob'").await;
    let both = async || {
        let mut users = bed.expected("acme").await;
        users.extend(bed.expected("globex").await);
        users
    };
    let messages = holds(&bed, &registry, "flat", both).await;
    assert_eq!(["ann", "bob", "eve"].map(|id| ops(&of(&messages, id))), ["?", "??t", "?"]);
    let eve = of(&messages, "eve")[0];
    assert_eq!(eve.key["tenant_id"], "globex");
    // The last microsecond of the year 9999.
    assert_eq!(eve.value.as_ref().unwrap()["updated_at"], 253_402_300_799_999_999_i64);
    let deleted = of(&messages, "bob")[1];
    assert_eq!(deleted.value.as_ref().unwrap()["deleted_at"], deleted.headers["ce_time"]);
    assert_eq!(registry.subjects().await, ["flat-key", "flat-value"].map(str::to_owned).into());
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incompatible_subject_and_schemas_that_are_not_registered_are_reported_until_they_are_corrected() {
    let (broker, registry) = (Broker::shared(), Registry::start().await);
    let other = r#"{"type": "record", "name": "Other", "fields": [{"name": "other", "type": "int"}]}"#;
    registry.register("unfit.acme-value", "AVRO", other).await;
    registry.set_compatibility("unfit.acme-value", "BACKWARD").await;
    let at = free_address();
    let top = format!("admin: {{listen: '{at}'}}");
    let TeeBed { bed, file, .. } = TeeBed::start(broker, "unfit", &registry.section("avro", ""), &top).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('zed', 'globex')").await;
    let mut lights = Lights::new(file, at);
    let process = lights.run().await;
    lights.show("degraded", "kafka_registry").await;
    let reason = lights.reason("kafka_registry").await;
    let expected =
        "subject unfit.acme-value in the schema registry: the schema is not compatible with the registered ones";
    assert!(reason.contains(expected), "{reason}");
    assert!(lights.log().contains("set the subject's compatibility to BACKWARD or NONE"), "{}", lights.log());
    registry.set_compatibility("unfit.acme-value", "NONE").await;
    lights.show("ok", "").await;
    assert!(process.stop().await.success(), "{}", lights.log());

    let keys = registry.section("avro", ", register: false");
    let TeeBed { bed, file, .. } = TeeBed::start(broker, "given", &keys, &top).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('ann', 'acme'), ('zed', 'globex')").await;
    let mut lights = Lights::new(file, at);
    let process = lights.run().await;
    lights.show("degraded", "kafka_registry").await;
    let reason = lights.reason("kafka_registry").await;
    assert!(reason.contains("in the schema registry: the schema is not registered"), "{reason}");
    assert!(!registry.subjects().await.iter().any(|subject| subject.starts_with("given")));
    // With the files of the repository.
    for tenant in ["acme", "globex"] {
        for (part, name) in [("key", "key"), ("value", "debezium")] {
            let path = format!("{}/config/kafka/{name}.avsc", env!("CARGO_MANIFEST_DIR"));
            let schema = std::fs::read_to_string(path).unwrap();
            registry.register(&format!("given.{tenant}-{part}"), "AVRO", &schema).await;
        }
    }
    lights.show("ok", "").await;
    assert!(process.stop().await.success(), "{}", lights.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_with_a_json_schema_satisfy_it() {
    arrive_in_both_formats("json_schema", "application/json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_protocol_buffers_are_read_with_the_schema_of_the_registry() {
    arrive_in_both_formats("protobuf", "application/protobuf").await;
}

/// All kinds of changes, in a topic of each tenant and in one that tenants share.
async fn arrive_in_both_formats(encoding: &str, content_type: &str) {
    let (broker, registry) = (Broker::shared(), Registry::start().await);
    let [events, rows] = ["events", "rows"].map(|name| format!("{encoding}.{name}"));
    for (name, more) in [(&events, "format: debezium".to_owned()), (&rows, format!("format: upsert, topic: {rows}"))] {
        let keys = registry.section(encoding, "") + ", " + &more;
        let bed = TeeBed::start(broker, name, &keys, "deletes: hard").await;
        bed.auth(ANN).await;
        let process = Process::start(&bed.file);
        bed.tee_is("following").await;
        for statement in LIFE {
            bed.auth(statement).await;
        }
        let is_shared = name == &rows;
        let topic = &*if is_shared { rows.clone() } else { format!("{events}.acme") };
        let expected = async || {
            let mut users = bed.expected("acme").await;
            if is_shared {
                users.extend(bed.expected("globex").await);
            }
            users
        };
        let messages = holds(&bed, &registry, topic, expected).await;
        assert!(messages.iter().any(|message| message.value.is_none()));
        for (number, raw) in read_raw(&bed.brokers, topic, &[]).iter().enumerate() {
            assert_eq!(raw.headers["content-type"], content_type, "{number}");
            assert_eq!(schema_id(&raw.key), registry.id(&format!("{topic}-key")).await);
        }
        let subjects =
            if is_shared { vec![rows.clone()] } else { ["acme", "globex"].map(|of| format!("{events}.{of}")).to_vec() };
        for topic in subjects {
            assert!(registry.subjects().await.contains(&format!("{topic}-value")));
        }
        assert!(process.stop().await.success());
        // Another process recognises its own keys.
        bed.auth("DELETE FROM auth.users WHERE id = 'cyd'").await;
        bed.auth("SELECT pg_drop_replication_slot('users_sync_kafka')").await;
        let process = Process::start(&bed.file);
        holds(&bed, &registry, topic, expected).await;
        assert!(process.stop().await.success());
    }
}
