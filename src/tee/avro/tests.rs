//! Keys and values are read with the library of Avro's own project.

use super::*;
use crate::config::{Env, Kafka, parse};
use crate::model::{ByConfigured, Change, Deletes, Lsn, Timestamp, Xid};
use crate::tee::time_range::{FIRST_MICROS, LAST_MICROS};
use crate::tee::{Batch, CompleteChange, Encoder, EventPosition, messages};
use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use proptest::prelude::*;

const AT: Timestamp = Timestamp(800_000_000_000_001);
const IDS: SchemaIds = SchemaIds { key: 7, value: 0x0102_0304 };

fn kafka(format: KafkaFormat, topic: &str) -> Kafka {
    let text = format!(
        "source: {{url: postgres://u@h/auth}}\nusers: {{table: auth.users, id: id}}\n\
         tenants: [{{id: acme, target: postgres://u@h/acme}}]\n\
         kafka: {{brokers: b, topic: '{topic}', encoding: avro, registry: {{url: 'http://r'}}}}\n"
    );
    let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    Kafka { format, ..parse("test", &text, &env).unwrap().kafka.unwrap() }
}

fn encoder(kafka: &Kafka, limit: u64) -> Encoder {
    let table = TableName { schema: "auth".into(), name: "users".into() };
    let ids = ByConfigured::from_iter([IDS]);
    Encoder::new(kafka, "db", &table, ByConfigured::from_iter([limit]), ids)
}

fn parsed(schema: &serde_json::Value) -> Schema {
    Schema::parse(schema).unwrap()
}

fn decode(schema: &Schema, mut data: &[u8]) -> Value {
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let value = reader.read_value(&mut data).unwrap();
    assert!(data.is_empty(), "{} bytes follow {value:?}", data.len());
    value
}

/// A field of a record; what a union holds.
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, name| {
        let value = match value {
            Value::Union(_, value) => value,
            value => value,
        };
        let Value::Record(fields) = value else { panic!("{name} of {value:?}") };
        match &fields.iter().find(|(field, _)| field == name).unwrap_or_else(|| panic!("no {name}: {fields:?}")).1 {
            Value::Union(_, value) => value,
            value => value,
        }
    })
}

fn text(value: &Value, path: &str) -> Option<String> {
    match at(value, path) {
        Value::String(text) => Some(text.clone()),
        Value::Null => None,
        other => panic!("{path}: {other:?}"),
    }
}

fn long(value: &Value, path: &str) -> Option<i64> {
    match at(value, path) {
        Value::Long(number) | Value::TimestampMicros(number) => Some(*number),
        Value::Null => None,
        other => panic!("{path}: {other:?}"),
    }
}

fn user() -> User {
    User {
        id: "u\"1".into(),
        raw_json: "{\"id\": \"u\\\"1\", \"t\": \"\\u00e4\"}".to_owned(),
        name: Some("Ada ü".to_owned()),
        email: None,
        created_at: Some(Timestamp(1)),
        updated_at: Some(Timestamp::INFINITY),
        deleted_at: None,
        updated_at_derived: false,
    }
}

fn place() -> EventPosition {
    EventPosition {
        position: Lsn(0x16_B374_D848),
        ordinal: 3,
        xid: Some(Xid(u32::MAX)),
        at: AT,
        is_single: false,
        now: 1_700_000_000_123,
    }
}

/// The messages of a change with a limit of this many bytes.
fn batch(kafka: &Kafka, change: &Change, deletes: Deletes, before: Option<&User>, limit: u64) -> Batch {
    let tenant = ByConfigured::from_iter([()]).indexes().next().unwrap();
    let complete = CompleteChange { tenant, tenant_id: "acme", change, is_new: false, before, place: place() };
    let mut batch = Batch::default();
    messages(&complete, deletes, false, &encoder(kafka, limit), &mut batch);
    batch
}

/// The decoded values; `None` for a tombstone.
fn values(kafka: &Kafka, batch: &Batch) -> Vec<Option<Value>> {
    let schema = parsed(&value_schema(&kafka.slot, kafka.format));
    let values = batch.messages.iter().map(|message| {
        let data = batch.data(message.value.as_ref()?);
        assert_eq!(data[..5], [0, 1, 2, 3, 4]);
        Some(decode(&schema, &data[5..]))
    });
    values.collect()
}

fn time(text: Option<String>) -> Option<Timestamp> {
    text.map(|text| crate::tee::json::parse_time(&text).unwrap())
}

#[test]
fn a_key_is_read_as_it_was_written() {
    for (topic, tenant) in [("users.{tenant}", None), ("users", Some("acme"))] {
        let kafka = kafka(KafkaFormat::Debezium, topic);
        let batch = batch(&kafka, &Change::Upsert(user()), Deletes::Soft, None, 1_000_000);
        let key = batch.data(&batch.messages[0].key);
        assert_eq!(key[..5], [0, 0, 0, 0, 7]);
        let decoded = decode(&parsed(&key_schema(&kafka.slot, tenant.is_some())), &key[5..]);
        assert_eq!(text(&decoded, "id").as_deref(), Some("u\"1"));
        let encoder = encoder(&kafka, 1_000_000);
        let read = encoder.read_key(key).unwrap();
        assert_eq!((&*read.user, read.tenant.as_deref()), ("u\"1", tenant));
        assert_eq!(encoder.content_type(), "application/avro");
        for broken in [&key[..key.len() - 1], &key[1..], b"{\"id\":\"a\"}", b""] {
            assert!(encoder.read_key(broken).is_none(), "{broken:?}");
        }
    }
}

#[test]
fn an_envelope_has_what_debeziums_has() {
    let kafka = kafka(KafkaFormat::Debezium, "t.{tenant}");
    let before = User { name: None, ..user() };
    let batch = batch(&kafka, &Change::Upsert(user()), Deletes::Soft, Some(&before), 1_000_000);
    let [Some(value)] = &values(&kafka, &batch)[..] else { panic!("{batch:?}") };
    assert_eq!(text(value, "before.name"), None);
    assert_eq!(text(value, "after.name").as_deref(), Some("Ada ü"));
    assert_eq!(text(value, "after.raw_json"), Some(user().raw_json));
    assert_eq!(text(value, "after.updated_at").as_deref(), Some("infinity"));
    assert_eq!(text(value, "after.created_at").as_deref(), Some("2000-01-01T00:00:00.000001Z"));
    assert_eq!(text(value, "op").as_deref(), Some("u"));
    assert_eq!(text(value, "source.snapshot").as_deref(), Some("false"));
    let lsn = 0x16_B374_D848_i64;
    assert_eq!((long(value, "source.lsn"), long(value, "source.xmin")), (Some(lsn), None));
    assert_eq!(long(value, "source.txId"), Some(i64::from(u32::MAX)));
    assert_eq!(text(value, "source.sequence"), Some(format!("[null,\"{lsn}\"]")));
    assert_eq!(text(value, "transaction.id"), Some(format!("{}:{lsn}", u32::MAX)));
    assert_eq!(long(value, "transaction.total_order"), Some(3));
    assert_eq!(long(value, "ts_us"), Some(1_700_000_000_123_000));
    assert_eq!(long(value, "ts_ns"), Some(1_700_000_000_123_000_000));
    assert_eq!(long(value, "source.ts_us"), AT.unix_micros());
}

#[test]
fn deletes_are_tombstones_or_carry_the_key() {
    let delete = Change::Delete { id: user().id, at: AT };
    let debezium = kafka(KafkaFormat::Debezium, "t.{tenant}");
    let found = batch(&debezium, &delete, Deletes::Hard, None, 1_000_000);
    let [Some(value), None] = &values(&debezium, &found)[..] else { panic!("{found:?}") };
    assert_eq!(text(value, "before.id").as_deref(), Some("u\"1"));
    assert_eq!((at(value, "after"), text(value, "op").as_deref()), (&Value::Null, Some("d")));
    let upsert = kafka(KafkaFormat::Upsert, "t.{tenant}");
    assert_eq!(values(&upsert, &batch(&upsert, &delete, Deletes::Hard, None, 1_000_000)), [None]);
    let soft = batch(&upsert, &delete, Deletes::Soft, None, 1_000_000);
    let [Some(value)] = &values(&upsert, &soft)[..] else { panic!("{soft:?}") };
    assert_eq!(long(value, "deleted_at"), AT.unix_micros());
}

#[test]
fn a_delete_that_is_too_large_is_replaced_by_the_key_alone() {
    let kafka = kafka(KafkaFormat::Debezium, "t.{tenant}");
    let large = User { raw_json: format!("{{\"a\":\"{}\"}}", "x".repeat(5_000)), ..user() };
    let delete = Change::Delete { id: user().id, at: AT };
    let found = batch(&kafka, &delete, Deletes::Hard, Some(&large), 3_000);
    let [Some(value), None] = &values(&kafka, &found)[..] else { panic!("{found:?}") };
    assert_eq!(text(value, "before.raw_json"), None);
    assert!(found.len() < 3_000, "the buffers still hold {} bytes", found.len());
    let whole = batch(&kafka, &delete, Deletes::Hard, Some(&large), 30_000);
    assert_eq!(text(values(&kafka, &whole)[0].as_ref().unwrap(), "before.raw_json"), Some(large.raw_json));
}

#[test]
fn times_that_others_cannot_read_are_the_nearest_they_can() {
    assert_eq!(micros(Timestamp::NEG_INFINITY), FIRST_MICROS);
    assert_eq!(micros(Timestamp::INFINITY), LAST_MICROS);
    assert_eq!(micros(Timestamp(i64::MAX - 1)), LAST_MICROS);
    let [first, last] = [FIRST_MICROS, LAST_MICROS].map(|micros| Timestamp::from_unix_micros(micros).unwrap());
    assert_eq!(first.to_string(), "0001-01-01T00:00:00.000000Z");
    assert_eq!(last.to_string(), "9999-12-31T23:59:59.999999Z");
    assert_eq!((micros(first), micros(last)), (FIRST_MICROS, LAST_MICROS));
}

#[test]
fn a_slot_whose_name_begins_with_a_digit_has_valid_names() {
    for format in [KafkaFormat::Debezium, KafkaFormat::Upsert] {
        parsed(&value_schema("1st", format));
    }
    assert_eq!(key_schema("1st", true)["namespace"], "_1st.neon_auth.users_sync");
}

/// config/kafka has them for consumers, and for a registry in which nothing may register itself. UPDATE=1 writes them.
#[test]
fn the_schemas_are_those_of_the_repository() {
    let slot = "users_sync_kafka";
    for (name, schema) in [
        ("key", key_schema(slot, false)),
        ("key-tenant", key_schema(slot, true)),
        ("debezium", value_schema(slot, KafkaFormat::Debezium)),
        ("upsert", value_schema(slot, KafkaFormat::Upsert)),
    ] {
        parsed(&schema);
        let path = format!("{}/config/kafka/{name}.avsc", env!("CARGO_MANIFEST_DIR"));
        let shown = format!("{schema:#}\n");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &shown).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), shown, "{path}");
    }
}

/// Id, `raw_json`, name, email and the three times of a user.
type Columns = (String, String, Option<String>, Option<String>, [Option<i64>; 3]);

fn any_columns() -> impl Strategy<Value = Columns> {
    let time = proptest::option::of(prop_oneof![any::<i64>(), Just(i64::MAX), Just(i64::MIN)]);
    let text = || proptest::option::of("\\PC{0,80}");
    (".{0,80}", ".{1,200}", text(), text(), [time.clone(), time.clone(), time])
}

proptest! {
    #[test]
    fn every_user_is_read_as_it_was_written((id, raw_json, name, email, times) in any_columns()) {
        let [created_at, updated_at, deleted_at] = times.map(|time| time.map(Timestamp));
        let id = (*id).into();
        let user = User { id, raw_json, name, email, created_at, updated_at, deleted_at, updated_at_derived: false };
        let change = Change::Upsert(user.clone());
        let debezium = kafka(KafkaFormat::Debezium, "t.{tenant}");
        let found = values(&debezium, &batch(&debezium, &change, Deletes::Soft, None, 1_000_000));
        let value = found[0].as_ref().unwrap();
        prop_assert_eq!(text(value, "after.id"), Some(user.id.to_string()));
        prop_assert_eq!(text(value, "after.raw_json"), Some(user.raw_json.clone()));
        prop_assert_eq!(text(value, "after.email"), user.email.clone());
        let upsert = kafka(KafkaFormat::Upsert, "t");
        let found = values(&upsert, &batch(&upsert, &change, Deletes::Soft, None, 1_000_000));
        let value = found[0].as_ref().unwrap();
        prop_assert_eq!(text(value, "id"), Some(user.id.to_string()));
        prop_assert_eq!(text(value, "raw_json"), Some(user.raw_json.clone()));
        prop_assert_eq!(text(value, "name"), user.name.clone());
        for (column, time) in
            [("created_at", user.created_at), ("deleted_at", user.deleted_at), ("updated_at", user.updated_at)]
        {
            prop_assert_eq!(long(value, column), time.map(micros));
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(key in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = read_text(&key);
        let _ = encoder(&kafka(KafkaFormat::Upsert, "t"), 1).read_key(&key);
    }
}

#[test]
fn times_of_an_envelope_are_texts() {
    let kafka = kafka(KafkaFormat::Debezium, "t.{tenant}");
    let batch = batch(&kafka, &Change::Upsert(user()), Deletes::Soft, None, 1_000_000);
    let found = values(&kafka, &batch);
    let value = found[0].as_ref().unwrap();
    assert_eq!(time(text(value, "after.created_at")), user().created_at);
    assert_eq!(time(text(value, "after.deleted_at")), None);
}
