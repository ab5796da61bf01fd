//! What consumers receive: formats, keys, headers and partitions.

use crate::bed::{TeeBed, of, once, ops};
use crate::broker::Broker;
use crate::consumer::{Message, arrive, read};
use crate::support::process::Process;
use serde_json::{Value, json};

const ANN: &str =
    "INSERT INTO auth.users (id, org, first_name, last_name, email, encrypted_password, profile, created_at)
    VALUES ('ann', 'acme', 'Ann', E'O''Neill \"x\" \\\\ \\n', 'ann@example.com', 'secret', '{\"a\": [1, \"ü\"]}',
            '2024-05-01 12:00:00.000001+00')";
const LIFE: &str = "
    UPDATE auth.users SET first_name = 'Anna', updated_at = '2024-06-01' WHERE id = 'ann';
    INSERT INTO auth.users (id, org, first_name, email) VALUES ('bob', 'acme', 'Bob', ''), ('cy', 'acme', NULL, 'c@d');
    DELETE FROM auth.users WHERE id = 'bob';
    UPDATE auth.users SET id = 'cyd' WHERE id = 'cy';
    UPDATE auth.users SET org = 'globex' WHERE id = 'ann'";

/// Runs each statement as a transaction of its own.
async fn live(bed: &TeeBed) {
    for statement in LIFE.split(';') {
        bed.auth(statement).await;
    }
}

/// Asserts that every key and value matches its JSON Schema.
fn validate(messages: &[Message], schema: &str) {
    let load = |name: &str| {
        let path = format!("{}/config/kafka/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
        jsonschema::validator_for(&serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).unwrap()
    };
    let (key, value) = (load("key"), load(schema));
    assert!(!messages.is_empty() && !value.is_valid(&json!({"id": 1})) && !key.is_valid(&json!({})));
    for message in messages {
        let unwrapped = |value: &Value| value.get("payload").cloned().unwrap_or_else(|| value.clone());
        if let Err(error) = key.validate(&unwrapped(&message.key)) {
            panic!("{error}: {message:#?}");
        }
        if let Some(Err(error)) =
            message.value.as_ref().map(|found| value.validate(&unwrapped(found)).map_err(|e| e.to_string()))
        {
            panic!("{error}: {message:#?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn debezium_events_describe_each_kind_of_change() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "debezium", "", "").await;
    bed.auth(ANN).await;
    let process = Process::start(&bed.file);
    assert_eq!(ops(&of(&arrive(broker, "debezium.acme", 1), "ann")), "r");
    live(&bed).await;
    let acme = bed.equal("acme").await;
    let globex = bed.equal("globex").await;
    assert!(process.stop().await.success());
    // A soft delete is an update. A user whose id or tenant changes is deleted under the old one.
    assert_eq!(["ann", "bob", "cy", "cyd"].map(|id| ops(&of(&acme, id))), ["ruu", "cu", "cu", "c"]);
    assert_eq!(ops(&of(&globex, "ann")), "c");
    validate(&acme, "debezium");
    validate(&globex, "debezium");
    once(&acme);
    let updated = of(&acme, "ann")[1];
    let value = updated.value.as_ref().unwrap();
    assert_eq!(value["after"]["name"], "Anna O'Neill \"x\" \\ \n");
    assert_eq!(value["after"]["created_at"], "2024-05-01T12:00:00.000001Z");
    assert_eq!(value["after"]["updated_at"], "2024-06-01T00:00:00.000000Z");
    assert!(!format!("{acme:?}{globex:?}").contains("secret"));
    let source = &value["source"];
    assert_eq!(
        (&source["connector"], &source["schema"], &source["table"]),
        (&json!("postgresql"), &json!("auth"), &json!("users"))
    );
    assert_eq!(source["snapshot"], "false");
    let transaction = format!("{}:{}", source["txId"], source["lsn"]);
    assert_eq!(value["transaction"], json!({"id": transaction, "total_order": 1, "data_collection_order": 1}));
    assert_eq!(source["ts_ms"].as_i64(), updated.timestamp);
    let header = |name: &str| updated.headers[name].as_str();
    assert!(header("ce_id").starts_with("users_sync_kafka/0/") && header("ce_id").ends_with("/1"), "{updated:?}");
    assert_eq!([header("ce_specversion"), header("ce_source")], ["1.0", "/auth/auth.users"]);
    assert_eq!([header("ce_type"), header("ce_tenant")], ["users_sync.user.updated", "acme"]);
    assert_eq!(header("content-type"), "application/json");
    let gone = of(&acme, "bob")[1];
    assert_eq!(gone.headers["ce_type"], "users_sync.user.deleted");
    assert_eq!(gone.value.as_ref().unwrap()["after"]["deleted_at"], gone.headers["ce_time"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_deletes_end_in_a_tombstone_and_full_identity_fills_before() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "hard", "", "deletes: hard").await;
    bed.auth(ANN).await;
    let process = Process::start(&bed.file);
    arrive(broker, "hard.acme", 1);
    live(&bed).await;
    let acme = bed.equal("acme").await;
    assert_eq!(["ann", "bob", "cy"].map(|id| ops(&of(&acme, id))), ["rudt", "cdt", "cdt"]);
    let gone = of(&acme, "bob")[1].value.clone().unwrap();
    assert_eq!(
        (&gone["before"]["id"], &gone["before"]["email"], &gone["after"]),
        (&json!("bob"), &json!(null), &json!(null))
    );
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
    bed.auth("UPDATE auth.users SET first_name = 'Cyd' WHERE id = 'cyd'").await;
    bed.auth("DELETE FROM auth.users WHERE id = 'cyd'").await;
    let acme = bed.equal("acme").await;
    let [_, updated, gone, _] = of(&acme, "cyd")[..] else { panic!("{acme:#?}") };
    let [updated, gone] = [updated, gone].map(|message| message.value.clone().unwrap());
    assert_eq!((&updated["before"]["name"], &updated["after"]["name"]), (&json!(null), &json!("Cyd")));
    assert_eq!((&gone["before"]["name"], &gone["before"]["email"]), (&json!("Cyd"), &json!("c@d")));
    validate(&acme, "debezium");
    once(&acme);
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn before_never_holds_the_row_of_another_user_or_tenant() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "before", "", "").await;
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
    bed.auth(ANN).await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    // A user inserted as already deleted follows another user's update, and arrives from another tenant.
    bed.auth(
        "BEGIN; UPDATE auth.users SET first_name = 'Anna', deleted_at = now(), updated_at = now() WHERE id = 'ann'; \
         INSERT INTO auth.users (id, org, deleted_at) VALUES ('bob', 'acme', now()); \
         UPDATE auth.users SET org = 'globex', updated_at = now() WHERE id = 'ann'; COMMIT",
    )
    .await;
    let globex = arrive(broker, "before.globex", 1);
    let acme = arrive(broker, "before.acme", 4);
    assert_eq!(["ann", "bob"].map(|id| ops(&of(&acme, id))), ["ruu", "c"]);
    assert_eq!(ops(&of(&globex, "ann")), "c");
    for created in [of(&acme, "bob")[0], of(&globex, "ann")[0]] {
        let value = created.value.as_ref().unwrap();
        assert!(value["before"].is_null() && value["after"]["deleted_at"].is_string(), "{created:#?}");
    }
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_deletes_keep_the_profile_with_full_identity_and_may_end_in_a_tombstone() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "soft", "tombstone_on_delete: true", "").await;
    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY FULL").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    bed.auth(ANN).await;
    bed.auth("DELETE FROM auth.users WHERE id = 'ann'").await;
    let acme = arrive(broker, "soft.acme", 3);
    assert_eq!(ops(&of(&acme, "ann")), "cut");
    let after = &acme[1].value.as_ref().unwrap()["after"];
    assert_eq!(after["email"], "ann@example.com");
    assert!(after["raw_json"].as_str().unwrap().contains("ü") && after["deleted_at"].is_string());
    validate(&acme, "debezium");
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn upsert_has_the_seven_columns_and_null_for_a_deleted_user() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "upsert", "format: upsert", "deletes: hard").await;
    bed.auth(ANN).await;
    let process = Process::start(&bed.file);
    arrive(broker, "upsert.acme", 1);
    live(&bed).await;
    let acme = bed.equal("acme").await;
    bed.equal("globex").await;
    assert_eq!(["ann", "bob"].map(|id| ops(&of(&acme, id))), ["??t", "?t"]);
    assert_eq!(acme[0].value.as_ref().unwrap()["raw_json"]["profile"], json!({"a": [1, "ü"]}));
    assert_eq!(of(&acme, "bob")[1].headers["ce_type"], "users_sync.user.deleted");
    validate(&acme, "upsert");
    once(&acme);
    assert!(process.stop().await.success());
}

/// Asserts that a payload matches the Kafka Connect schema beside it.
fn fits(schema: &Value, payload: &Value, place: &str) {
    if payload.is_null() {
        return assert_eq!(schema["optional"], true, "{place}");
    }
    match schema["type"].as_str().unwrap() {
        "struct" => {
            let fields = schema["fields"].as_array().unwrap();
            let names: Vec<&str> = fields.iter().map(|field| field["field"].as_str().unwrap()).collect();
            let unknown = payload.as_object().unwrap().keys().find(|key| !names.contains(&key.as_str()));
            assert_eq!(unknown, None, "{place}");
            fields.iter().zip(names).for_each(|(field, name)| fits(field, &payload[name], &format!("{place}.{name}")));
        }
        "string" => assert!(payload.is_string(), "{place}: {payload}"),
        "int64" => assert!(payload.is_i64(), "{place}: {payload}"),
        other => panic!("{place}: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_true_adds_a_schema_to_keys_and_values() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "schemas", "schemas: true", "deletes: hard").await;
    bed.auth(ANN).await;
    let process = Process::start(&bed.file);
    arrive(broker, "schemas.acme", 1);
    live(&bed).await;
    let acme = bed.equal("acme").await;
    for message in &acme {
        fits(&message.key["schema"], &message.key["payload"], "key");
        if let Some(value) = &message.value {
            fits(&value["schema"], &value["payload"], "value");
            assert!(value["schema"]["name"].as_str().unwrap().ends_with(".Envelope"));
        }
    }
    validate(&acme, "debezium");
    assert!(process.stop().await.success());
    // A new process recognises its own keys in the topic.
    bed.auth("DELETE FROM auth.users WHERE id = 'cyd'").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync_kafka')").await;
    let process = Process::start(&bed.file);
    let acme = bed.equal("acme").await;
    assert!(ops(&of(&acme, "cyd")).ends_with("dt"), "{acme:#?}");
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_topic_has_the_tenant_in_its_keys_and_javas_partitions() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "shared", "topic: 'shared.{table}', partitions: 6, format: upsert", "").await;
    let many = "INSERT INTO auth.users (id, org) SELECT 'u' || n, (ARRAY['acme', 'globex'])[1 + n % 2] FROM generate_series(1, 60) n";
    bed.auth(many).await;
    let process = Process::start(&bed.file);
    let messages = arrive(broker, "shared.auth.users", 60);
    validate(&messages, "upsert");
    for message in &messages {
        assert_eq!(message.key["tenant_id"], message.headers["ce_tenant"]);
    }
    // Kafka's own producer, with the same keys.
    let settings = ["--bootstrap-server", &broker.address(), "--create", "--topic", "java", "--partitions", "6"];
    broker.tool("org.apache.kafka.tools.TopicCommand", &settings).await;
    let lines = bed.file.path().with_extension("keys");
    let text: String = messages.iter().map(|message| format!("{}\t1\n", message.key)).collect();
    // serde_json sorts keys; the real order is tenant_id, id.
    let text = messages.iter().fold(text, |text, message| {
        let (tenant, id) = (&message.key["tenant_id"], &message.key["id"]);
        text.replace(&message.key.to_string(), &format!("{{\"tenant_id\":{tenant},\"id\":{id}}}"))
    });
    std::fs::write(&lines, text).unwrap();
    broker.produce(&lines, "java").await;
    let theirs = arrive(broker, "java", 60);
    let place = |messages: &[Message]| {
        let mut places: Vec<_> = messages.iter().map(|m| (m.key.to_string(), m.partition)).collect();
        places.sort();
        places
    };
    assert_eq!(place(&messages), place(&theirs));
    assert!(messages.iter().any(|message| message.partition != messages[0].partition));
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn values_missing_from_the_stream_are_read_before_publishing() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "toast", "format: upsert", "").await;
    bed.auth("ALTER TABLE auth.users ALTER profile SET STORAGE EXTERNAL").await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    let large = "INSERT INTO auth.users (id, org, profile) SELECT 'u' || n, 'acme',
        jsonb_build_object('about', repeat(md5(n::text), 1000)) FROM generate_series(1, 5) n";
    bed.auth(large).await;
    for n in 1..=3 {
        bed.auth(&format!("UPDATE auth.users SET first_name = 'n{n}'")).await;
    }
    // In one transaction a large value changes between two updates that do not carry it.
    bed.auth(
        "BEGIN; UPDATE auth.users SET email = 'a@b'; UPDATE auth.users SET profile = jsonb_build_object('about', repeat('x', 40000)) \
         WHERE id = 'u1'; UPDATE auth.users SET last_name = 'l' WHERE id IN ('u1', 'u2'); DELETE FROM auth.users WHERE id = 'u3'; COMMIT",
    )
    .await;
    let acme = bed.equal("acme").await;
    validate(&acme, "upsert");
    once(&acme);
    let names: Vec<_> = of(&acme, "u4").iter().map(|m| m.value.as_ref().unwrap()["name"].clone()).collect();
    assert_eq!(names, [json!(null), json!("n1"), json!("n2"), json!("n3"), json!("n3")]);
    for message in acme.iter().filter(|message| message.headers["ce_type"] != "users_sync.user.deleted") {
        let about = message.value.as_ref().unwrap()["raw_json"]["profile"]["about"].as_str();
        assert!(about.is_some_and(|about| about.len() >= 32_000), "{:?} of {:?}", about.map(str::len), message.headers);
    }
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_false_publishes_changes_only() {
    let broker = Broker::shared();
    let bed = TeeBed::start(broker, "nosnapshot", "snapshot: false", "").await;
    bed.auth(ANN).await;
    let process = Process::start(&bed.file);
    bed.tee_is("following").await;
    assert!(read(broker, "nosnapshot.acme").is_empty());
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bob', 'acme')").await;
    let acme = arrive(broker, "nosnapshot.acme", 1);
    assert_eq!((acme.len(), acme[0].id(), acme[0].op()), (1, "bob", "c"));
    assert!(process.stop().await.success());
}
