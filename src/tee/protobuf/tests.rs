//! The numbers of the fields are those of the files that consumers use.

use super::*;
use crate::model::UserId;

/// The fields of a message, by number. Every value is a text.
fn fields(mut data: &[u8]) -> Vec<(u8, String)> {
    let mut fields = Vec::new();
    while let [tag, length, rest @ ..] = data {
        assert_eq!(tag & 7, 2, "a text or a message");
        let (text, rest) = rest.split_at(usize::from(*length));
        fields.push((tag >> 3, String::from_utf8_lossy(text).into_owned()));
        data = rest;
    }
    fields
}

/// Each value is the name of its field.
fn check(schema: &str, message: &impl Message) {
    let fields = fields(&message.encode_to_vec());
    assert!(!fields.is_empty());
    for (number, name) in fields {
        assert!(schema.contains(&format!("string {name} = {number};")), "{name} {number}");
    }
}

#[test]
fn fields_have_the_numbers_of_the_published_files() {
    let text = str::to_owned;
    let (key, flat) =
        (include_str!("../../../config/kafka/key.proto"), include_str!("../../../config/kafka/upsert.proto"));
    let envelope = include_str!("../../../config/kafka/debezium.proto");
    check(key, &message::Key { tenant_id: Some(text("tenant_id")), id: text("id") });
    let [name, email] = [Some(text("name")), Some(text("email"))];
    let user = message::User { name, email, id: text("id"), raw_json: text("raw_json"), ..message::User::default() };
    check(flat, &user);
    let row = message::Row {
        id: text("id"),
        raw_json: Some(text("raw_json")),
        name: Some(text("name")),
        email: Some(text("email")),
        created_at: Some(text("created_at")),
        deleted_at: Some(text("deleted_at")),
        updated_at: Some(text("updated_at")),
    };
    check(envelope, &row);
}

#[test]
fn a_key_is_read_as_it_was_written_and_nothing_else_is() {
    let table = TableName { schema: "auth".into(), name: "users".into() };
    let protobuf = |names_tenant| {
        Protobuf::new(("slot", names_tenant), KafkaFormat::Debezium, "db", &table, TopicSchemaIds::default())
    };
    let key = |tenant: Option<&str>| {
        let mut out = Vec::new();
        push(7, &message::Key { tenant_id: tenant.map(str::to_owned), id: "ann".to_owned() }, &mut out);
        out
    };
    assert_eq!(key(None), [&[0, 0, 0, 0, 7, 0, 0x12, 3][..], b"ann"].concat());
    let read = |names_tenant, key: &[u8]| protobuf(names_tenant).read_key(key).map(|key| (key.tenant, key.user));
    assert_eq!(read(false, &key(None)), Some((None, "ann".to_owned())));
    assert_eq!(read(true, &key(Some("acme"))), Some((Some("acme".to_owned()), "ann".to_owned())));
    assert_eq!(read(true, &key(None)), None);
    assert_eq!(read(false, &key(Some("acme"))), None);
    assert_eq!(read(false, &key(None)[..7]), None);
    assert_eq!(read(false, &[0, 0, 0, 0, 7, 2, 0x12, 3]), None);
}

#[test]
fn times_of_flat_rows_are_seconds_and_nanoseconds() {
    let user = User {
        id: UserId::from("ann"),
        raw_json: "{}".to_owned(),
        name: None,
        email: None,
        created_at: Timestamp::from_unix_micros(-1),
        deleted_at: None,
        updated_at: Some(Timestamp::INFINITY),
        updated_at_derived: false,
    };
    let row = flat_row(&user);
    assert_eq!(row.created_at, Some(message::Time { seconds: -1, nanos: 999_999_000 }));
    assert_eq!(row.deleted_at, None);
    assert_eq!(row.updated_at, Some(message::Time { seconds: 253_402_300_799, nanos: 999_999_000 }));
}
