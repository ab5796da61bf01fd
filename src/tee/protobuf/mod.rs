//! Keys and values in Protocol Buffers, behind the ids of their schemas. Pure.
//!
//! Source: Confluent's manual, "Wire Format": between the id and the message is the place of its type in the schema.

mod message;
#[cfg(test)]
mod tests;

use super::event::{Event, MessageKey, Op};
use super::schema_id::{SchemaIds, TopicSchemaIds, push_prefix, without_prefix};
use super::time_range::micros;
use crate::config::KafkaFormat;
use crate::model::{TableName, Timestamp, User};
use prost::Message;

/// The place of the first type of a schema: the list `[0]` in its short form.
const FIRST_TYPE: u8 = 0;

/// Writes keys and values.
#[derive(Debug)]
pub(super) struct Protobuf {
    format: KafkaFormat,
    names_tenant: bool,
    ids: TopicSchemaIds,
    slot: String,
    database: String,
    table: TableName,
}

impl Protobuf {
    pub(super) fn new(
        (slot, names_tenant): (&str, bool),
        format: KafkaFormat,
        database: &str,
        table: &TableName,
        ids: TopicSchemaIds,
    ) -> Protobuf {
        let (slot, database) = (slot.to_owned(), database.to_owned());
        Protobuf { format, names_tenant, ids, slot, database, table: table.clone() }
    }

    fn ids(&self, event: &Event<'_>) -> SchemaIds {
        self.ids[event.tenant]
    }

    pub(super) fn key(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        let tenant_id = self.names_tenant.then(|| event.tenant_id.to_owned());
        push(self.ids(event).key, &message::Key { tenant_id, id: event.id.to_owned() }, out);
    }

    /// Reads what [`Protobuf::key`] wrote.
    pub(super) fn read_key(&self, key: &[u8]) -> Option<MessageKey> {
        let (FIRST_TYPE, rest) = without_prefix(key)?.split_first().map(|(first, rest)| (*first, rest))? else {
            return None;
        };
        let message::Key { tenant_id, id } = message::Key::decode(rest).ok()?;
        (tenant_id.is_some() == self.names_tenant).then_some(MessageKey { tenant: tenant_id, user: id })
    }

    /// The value of an event that has one.
    pub(super) fn value(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        let id = self.ids(event).value;
        match (self.format, event.after) {
            (KafkaFormat::Debezium, _) => push(id, &self.envelope(event), out),
            (KafkaFormat::Upsert, Some(user)) => push(id, &flat_row(user), out),
            (KafkaFormat::Upsert, None) => {}
        }
    }

    fn envelope(&self, event: &Event<'_>) -> message::Envelope {
        let place = &event.place;
        let before = match (event.before, event.op) {
            (Some(user), _) => Some(row(user)),
            (None, Op::Delete) => Some(message::Row { id: event.id.to_owned(), ..message::Row::default() }),
            (None, Op::Create | Op::Update | Op::SoftDelete | Op::Read) => None,
        };
        message::Envelope {
            before,
            after: event.after.map(row),
            source: Some(self.source(event)),
            transaction: place.xid.map(|xid| message::Transaction {
                id: format!("{}:{}", xid.0, place.position.0),
                total_order: place.ordinal.cast_signed(),
                data_collection_order: place.ordinal.cast_signed(),
            }),
            op: event.op.code().to_owned(),
            ts_ms: place.now,
            ts_us: place.now * 1_000,
            ts_ns: place.now * 1_000_000,
        }
    }

    fn source(&self, event: &Event<'_>) -> message::Source {
        let place = &event.place;
        let micros = place.at_micros();
        let lsn = place.position.0;
        message::Source {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connector: "postgresql".to_owned(),
            name: self.slot.clone(),
            ts_ms: micros.div_euclid(1_000),
            ts_us: micros,
            ts_ns: micros.saturating_mul(1_000),
            snapshot: (event.op == Op::Read).to_string(),
            db: self.database.clone(),
            schema: self.table.schema.to_string(),
            table: self.table.name.to_string(),
            sequence: format!("[null,\"{lsn}\"]"),
            tx_id: place.xid.map(|xid| i64::from(xid.0)),
            lsn: lsn.cast_signed(),
        }
    }
}

fn push(id: u32, message: &impl Message, out: &mut Vec<u8>) {
    push_prefix(id, out);
    out.push(FIRST_TYPE);
    out.extend(message.encode_to_vec());
}

fn row(user: &User) -> message::Row {
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string());
    message::Row {
        id: user.id.to_string(),
        raw_json: Some(user.raw_json.clone()),
        name: user.name.clone(),
        email: user.email.clone(),
        created_at: text(user.created_at),
        deleted_at: text(user.deleted_at),
        updated_at: text(user.updated_at),
    }
}

fn flat_row(user: &User) -> message::User {
    let time = |time: Option<Timestamp>| {
        time.map(micros).map(|micros| message::Time {
            seconds: micros.div_euclid(1_000_000),
            // Below a billion.
            nanos: micros.rem_euclid(1_000_000) as i32 * 1_000,
        })
    };
    message::User {
        id: user.id.to_string(),
        raw_json: user.raw_json.clone(),
        name: user.name.clone(),
        email: user.email.clone(),
        created_at: time(user.created_at),
        deleted_at: time(user.deleted_at),
        updated_at: time(user.updated_at),
    }
}
