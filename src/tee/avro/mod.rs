//! Keys and values in Avro's binary encoding, behind the ids of their schemas. Pure.
//!
//! The schemas are fixed, so that a row is written into the batch's buffer without a tree of values in between. Source: Avro's
//! specification, "Binary Encoding".

mod schema;
#[cfg(test)]
mod tests;

use super::event::{Event, MessageKey, Op};
use super::schema_id::{SchemaIds, TopicSchemaIds, push_prefix, without_prefix};
use super::time_range::micros;
use crate::config::KafkaFormat;
use crate::model::{TableName, User};
pub(crate) use schema::{key_schema, value_schema};

/// Writes keys and values.
#[derive(Debug)]
pub(super) struct Avro {
    format: KafkaFormat,
    names_tenant: bool,
    ids: TopicSchemaIds,
    /// The fields `version`, `connector` and `name` of `source`.
    opens: Vec<u8>,
    /// Its fields `db`, `schema` and `table`.
    table: Vec<u8>,
}

impl Avro {
    pub(super) fn new(
        (slot, names_tenant): (&str, bool),
        format: KafkaFormat,
        database: &str,
        table: &TableName,
        ids: TopicSchemaIds,
    ) -> Avro {
        let texts = |texts: [&str; 3]| {
            let mut out = Vec::new();
            texts.into_iter().for_each(|text| push_text(text, &mut out));
            out
        };
        Avro {
            format,
            names_tenant,
            ids,
            opens: texts([env!("CARGO_PKG_VERSION"), "postgresql", slot]),
            table: texts([database, &table.schema, &table.name]),
        }
    }

    fn ids(&self, event: &Event<'_>) -> SchemaIds {
        self.ids[event.tenant]
    }

    pub(super) fn key(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        push_prefix(self.ids(event).key, out);
        if self.names_tenant {
            push_text(event.tenant_id, out);
        }
        push_text(event.id, out);
    }

    /// Reads what [`Avro::key`] wrote.
    pub(super) fn read_key(&self, key: &[u8]) -> Option<MessageKey> {
        let rest = without_prefix(key)?;
        let (tenant, rest) = if self.names_tenant {
            let (tenant, rest) = read_text(rest)?;
            (Some(tenant), rest)
        } else {
            (None, rest)
        };
        let (user, rest) = read_text(rest)?;
        rest.is_empty().then_some(MessageKey { tenant, user })
    }

    /// The value of an event that has one.
    pub(super) fn value(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        push_prefix(self.ids(event).value, out);
        match (self.format, event.after) {
            (KafkaFormat::Debezium, _) => self.envelope(event, out),
            (KafkaFormat::Upsert, Some(user)) => flat_row(user, out),
            (KafkaFormat::Upsert, None) => {}
        }
    }

    fn envelope(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        match (event.before, event.op) {
            (Some(user), _) => optional(Some(user), out, row),
            (None, Op::Delete) => optional(Some(event.id), out, key_only),
            (None, Op::Create | Op::Update | Op::SoftDelete | Op::Read) => push_null(out),
        }
        optional(event.after, out, row);
        self.source(event, out);
        let place = &event.place;
        optional(place.xid, out, |xid, out| {
            push_text(&format!("{}:{}", xid.0, place.position.0), out);
            let order = place.ordinal.cast_signed();
            push_long(order, out);
            push_long(order, out);
        });
        push_text(event.op.code(), out);
        for scale in [1, 1_000, 1_000_000] {
            optional(Some(place.now * scale), out, push_long);
        }
    }

    fn source(&self, event: &Event<'_>, out: &mut Vec<u8>) {
        let place = &event.place;
        let micros = place.at_micros();
        out.extend(&self.opens);
        push_long(micros.div_euclid(1_000), out);
        optional(Some(micros), out, push_long);
        optional(Some(micros.saturating_mul(1_000)), out, push_long);
        // The text is the first type of this union.
        push_long(0, out);
        push_text(if event.op == Op::Read { "true" } else { "false" }, out);
        out.extend(&self.table);
        let lsn = place.position.0;
        optional(Some(&*format!("[null,\"{lsn}\"]")), out, push_text);
        optional(place.xid.map(|xid| i64::from(xid.0)), out, push_long);
        optional(Some(lsn.cast_signed()), out, push_long);
        push_null(out);
    }
}

/// A row of the format `debezium`.
fn row(user: &User, out: &mut Vec<u8>) {
    push_text(&user.id, out);
    optional(Some(&*user.raw_json), out, push_text);
    optional(user.name.as_deref(), out, push_text);
    optional(user.email.as_deref(), out, push_text);
    for time in [user.created_at, user.deleted_at, user.updated_at] {
        optional(time, out, |time, out| push_text(&time.to_string(), out));
    }
}

/// The old row as a replica identity of the key alone carries it.
fn key_only(id: &str, out: &mut Vec<u8>) {
    push_text(id, out);
    (0..6).for_each(|_| push_null(out));
}

/// A row of the format `upsert`.
fn flat_row(user: &User, out: &mut Vec<u8>) {
    push_text(&user.id, out);
    push_text(&user.raw_json, out);
    optional(user.name.as_deref(), out, push_text);
    optional(user.email.as_deref(), out, push_text);
    for time in [user.created_at, user.deleted_at, user.updated_at] {
        optional(time, out, |time, out| push_long(micros(time), out));
    }
}

/// A union of null and a type, in this order.
fn optional<T>(value: Option<T>, out: &mut Vec<u8>, write: impl FnOnce(T, &mut Vec<u8>)) {
    match value {
        Some(value) => {
            push_long(1, out);
            write(value, out);
        }
        None => push_null(out),
    }
}

fn push_null(out: &mut Vec<u8>) {
    push_long(0, out);
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    // A text is in memory, so that its size fits.
    push_long(text.len().cast_signed() as i64, out);
    out.extend(text.as_bytes());
}

fn push_long(value: i64, out: &mut Vec<u8>) {
    // Zigzag: the sign is the lowest bit.
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The text at the beginning, and what follows.
fn read_text(data: &[u8]) -> Option<(String, &[u8])> {
    let (mut zigzag, mut data) = (0_u64, data);
    for shift in (0..63).step_by(7) {
        let (byte, rest) = data.split_first()?;
        data = rest;
        zigzag |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // A negative length is odd.
            let length = usize::try_from(zigzag >> 1).ok().filter(|_| zigzag & 1 == 0)?;
            let (text, rest) = data.split_at_checked(length)?;
            return Some((std::str::from_utf8(text).ok()?.to_owned(), rest));
        }
    }
    None
}
