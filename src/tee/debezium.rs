//! The format `debezium`: its envelope, with or without the schema that Kafka Connect's JsonConverter expects. Pure.
//!
//! Source: Debezium's manual, "PostgreSQL connector", "Data change events"; Kafka Connect's JsonConverter.

use super::event::{Event, Op};
use super::json::{push_text, push_time};
use crate::model::{TableName, User, push_string};
use serde_json::{Value, json};
use std::fmt::Write;

#[derive(Debug)]
pub(super) struct Debezium {
    opens: String,
    closes: &'static str,
    /// The constant fields of `source` that precede the variable ones.
    names: String,
    /// The constant fields of `source` that follow the variable ones.
    table: String,
}

impl Debezium {
    pub(super) fn new(slot: &str, database: &str, table: &TableName, schemas: bool) -> Debezium {
        let version = env!("CARGO_PKG_VERSION");
        let mut names = format!("{{\"version\":\"{version}\",\"connector\":\"postgresql\",\"name\":");
        push_string(slot, &mut names);
        let mut columns = String::new();
        for (key, name) in [("db", database), ("schema", &*table.schema), ("table", &*table.name)] {
            push_text(key, Some(name), &mut columns);
        }
        let (opens, closes) = if schemas {
            (format!("{{\"schema\":{},\"payload\":", value_schema(slot)), "}")
        } else {
            (String::new(), "")
        };
        Debezium { opens, closes, names, table: columns }
    }

    pub(super) fn write(&self, event: &Event<'_>, out: &mut String) {
        out.push_str(&self.opens);
        out.push_str("{\"before\":");
        match (event.before, event.op) {
            (Some(user), _) => row(user, out),
            (None, Op::Delete) => key_only(event.id, out),
            (None, Op::Create | Op::Update | Op::SoftDelete | Op::Read) => out.push_str("null"),
        }
        out.push_str(",\"after\":");
        match event.after {
            Some(user) => row(user, out),
            None => out.push_str("null"),
        }
        self.source(event, out);
        let op = event.op.code();
        let place = &event.place;
        // Writing to a `String` cannot fail, here and below.
        let _ = match place.xid {
            Some(xid) => write!(
                out,
                ",\"transaction\":{{\"id\":\"{}:{}\",\"total_order\":{2},\"data_collection_order\":{2}}}",
                xid.0, place.position.0, place.ordinal
            ),
            None => write!(out, ",\"transaction\":null"),
        };
        let now = place.now;
        let _ = write!(out, ",\"op\":\"{op}\",\"ts_ms\":{now},\"ts_us\":{now}000,\"ts_ns\":{now}000000}}");
        out.push_str(self.closes);
    }

    fn source(&self, event: &Event<'_>, out: &mut String) {
        let place = &event.place;
        let micros = place.at_micros();
        out.push_str(",\"source\":");
        out.push_str(&self.names);
        let snapshot = event.op == Op::Read;
        let _ = write!(
            out,
            ",\"ts_ms\":{},\"ts_us\":{micros},\"ts_ns\":{micros}000,\"snapshot\":\"{snapshot}\"",
            micros.div_euclid(1_000)
        );
        out.push_str(&self.table);
        let lsn = place.position.0;
        let _ = write!(out, ",\"sequence\":\"[null,\\\"{lsn}\\\"]\",\"txId\":");
        let _ = match place.xid {
            Some(xid) => write!(out, "{}", xid.0),
            None => write!(out, "null"),
        };
        let _ = write!(out, ",\"lsn\":{lsn},\"xmin\":null}}");
    }
}

/// The seven columns. `raw_json` is a string, because Debezium emits json columns as strings.
fn row(user: &User, out: &mut String) {
    out.push_str("{\"id\":");
    push_string(&user.id, out);
    push_text("raw_json", Some(&user.raw_json), out);
    push_text("name", user.name.as_deref(), out);
    push_text("email", user.email.as_deref(), out);
    push_time("created_at", user.created_at, out);
    push_time("deleted_at", user.deleted_at, out);
    push_time("updated_at", user.updated_at, out);
    out.push('}');
}

/// The old row as a replica identity of the key alone carries it: every other column is null.
fn key_only(id: &str, out: &mut String) {
    out.push_str("{\"id\":");
    push_string(id, out);
    for column in ["raw_json", "name", "email", "created_at", "deleted_at", "updated_at"] {
        push_text(column, None, out);
    }
    out.push('}');
}

/// The text in front of a key's fields if keys carry their schema.
pub(super) fn key_opens(slot: &str, names_tenant: bool) -> String {
    let id = json!({"type": "string", "optional": false, "field": "id"});
    let tenant = json!({"type": "string", "optional": false, "field": "tenant_id"});
    let fields = if names_tenant { vec![tenant, id] } else { vec![id] };
    let name = format!("{slot}.neon_auth.users_sync.Key");
    let schema = json!({"type": "struct", "fields": fields, "optional": false, "name": name});
    format!("{{\"schema\":{schema},\"payload\":")
}

fn value_schema(slot: &str) -> Value {
    let name = |part: &str| format!("{slot}.neon_auth.users_sync.{part}");
    let plain = |kind: &str, field: &str, optional: bool| json!({"type": kind, "optional": optional, "field": field});
    let named = |field: &str, name: &str| json!({"type": "string", "optional": true, "name": name, "version": 1, "field": field});
    let columns = json!([
        plain("string", "id", false),
        named("raw_json", "io.debezium.data.Json"),
        plain("string", "name", true),
        plain("string", "email", true),
        named("created_at", "io.debezium.time.ZonedTimestamp"),
        named("deleted_at", "io.debezium.time.ZonedTimestamp"),
        named("updated_at", "io.debezium.time.ZonedTimestamp"),
    ]);
    let row = |field: &str| json!({"type": "struct", "fields": columns, "optional": true, "name": name("Value"), "field": field});
    let snapshot = json!({
        "type": "string", "optional": true, "name": "io.debezium.data.Enum", "version": 1, "field": "snapshot",
        "parameters": {"allowed": "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},
        "default": "false",
    });
    let source = json!({
        "type": "struct", "optional": false, "name": "io.debezium.connector.postgresql.Source", "field": "source",
        "fields": [
            plain("string", "version", false),
            plain("string", "connector", false),
            plain("string", "name", false),
            plain("int64", "ts_ms", false),
            plain("int64", "ts_us", true),
            plain("int64", "ts_ns", true),
            snapshot,
            plain("string", "db", false),
            plain("string", "schema", false),
            plain("string", "table", false),
            plain("string", "sequence", true),
            plain("int64", "txId", true),
            plain("int64", "lsn", true),
            plain("int64", "xmin", true),
        ],
    });
    let transaction = json!({
        "type": "struct", "optional": true, "name": "event.block", "version": 1, "field": "transaction",
        "fields": [
            plain("string", "id", false),
            plain("int64", "total_order", false),
            plain("int64", "data_collection_order", false),
        ],
    });
    json!({
        "type": "struct", "optional": false, "name": name("Envelope"), "version": 2,
        "fields": [
            row("before"),
            row("after"),
            source,
            transaction,
            plain("string", "op", false),
            plain("int64", "ts_ms", true),
            plain("int64", "ts_us", true),
            plain("int64", "ts_ns", true),
        ],
    })
}
