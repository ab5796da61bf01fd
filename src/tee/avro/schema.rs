//! The Avro schemas of keys and values. For the format `debezium` they are those that Kafka Connect's Avro converter makes of
//! Debezium's own messages. Pure.
//!
//! Source: Confluent's AvroData: `connect.name` and its like keep what Avro has no word for.

use crate::config::KafkaFormat;
use serde_json::{Value, json};

/// A name of Avro begins with a letter or an underscore; that of a slot may begin with a digit.
fn namespace(slot: &str) -> String {
    let opens = if slot.starts_with(|first: char| first.is_ascii_digit()) { "_" } else { "" };
    format!("{opens}{slot}.neon_auth.users_sync")
}

/// The schema of keys. `names_tenant`: tenants share the topic.
pub(crate) fn key_schema(slot: &str, names_tenant: bool) -> Value {
    let names: &[&str] = if names_tenant { &["tenant_id", "id"] } else { &["id"] };
    let fields: Vec<Value> = names.iter().map(|name| field(name, json!("string"))).collect();
    record(&namespace(slot), "Key", &json!(fields), None)
}

/// The schema of values.
pub(crate) fn value_schema(slot: &str, format: KafkaFormat) -> Value {
    match format {
        KafkaFormat::Debezium => envelope(&namespace(slot)),
        KafkaFormat::Upsert => row(&namespace(slot)),
    }
}

fn field(name: &str, of: Value) -> Value {
    json!({"name": name, "type": of})
}

fn optional(name: &str, of: Value) -> Value {
    json!({"name": name, "type": ["null", of], "default": null})
}

/// `version`: that of the schema in Kafka Connect.
fn record(namespace: &str, name: &str, fields: &Value, version: Option<u32>) -> Value {
    let full = format!("{namespace}.{name}");
    let mut record =
        json!({"type": "record", "name": name, "namespace": namespace, "fields": fields, "connect.name": full});
    if let Some(version) = version {
        record["connect.version"] = json!(version);
    }
    record
}

/// The seven columns as a flat record.
fn row(namespace: &str) -> Value {
    let time = || json!({"type": "long", "logicalType": "timestamp-micros"});
    let fields = json!([
        field("id", json!("string")),
        field("raw_json", json!("string")),
        optional("name", json!("string")),
        optional("email", json!("string")),
        optional("created_at", time()),
        optional("deleted_at", time()),
        optional("updated_at", time()),
    ]);
    record(namespace, "Value", &fields, None)
}

fn envelope(namespace: &str) -> Value {
    let named = |name: &str| json!({"type": "string", "connect.version": 1, "connect.name": name});
    let columns = json!([
        field("id", json!("string")),
        optional("raw_json", named("io.debezium.data.Json")),
        optional("name", json!("string")),
        optional("email", json!("string")),
        optional("created_at", named("io.debezium.time.ZonedTimestamp")),
        optional("deleted_at", named("io.debezium.time.ZonedTimestamp")),
        optional("updated_at", named("io.debezium.time.ZonedTimestamp")),
    ]);
    let mut snapshot = named("io.debezium.data.Enum");
    snapshot["connect.parameters"] =
        json!({"allowed": "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"});
    snapshot["connect.default"] = json!("false");
    let source = json!([
        field("version", json!("string")),
        field("connector", json!("string")),
        field("name", json!("string")),
        field("ts_ms", json!("long")),
        optional("ts_us", json!("long")),
        optional("ts_ns", json!("long")),
        // The type of the default is the first of a union.
        json!({"name": "snapshot", "type": [snapshot, "null"], "default": "false"}),
        field("db", json!("string")),
        field("schema", json!("string")),
        field("table", json!("string")),
        optional("sequence", json!("string")),
        optional("txId", json!("long")),
        optional("lsn", json!("long")),
        optional("xmin", json!("long")),
    ]);
    let transaction = json!([
        field("id", json!("string")),
        field("total_order", json!("long")),
        field("data_collection_order", json!("long")),
    ]);
    let fields = json!([
        optional("before", record(namespace, "Value", &columns, None)),
        // A record is defined where it is first used.
        optional("after", json!("Value")),
        field("source", record("io.debezium.connector.postgresql", "Source", &source, None)),
        optional("transaction", record("event", "block", &transaction, Some(1))),
        field("op", json!("string")),
        optional("ts_ms", json!("long")),
        optional("ts_us", json!("long")),
        optional("ts_ns", json!("long")),
    ]);
    record(namespace, "Envelope", &fields, Some(2))
}
