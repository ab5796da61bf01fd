//! Encodes a change of a user as a message: key, value and CloudEvents headers. Pure.

use super::avro::Avro;
use super::batch::{Batch, Data, Message};
use super::debezium::{self, Debezium};
use super::event::{Event, EventPosition, MessageKey, Op};
use super::protobuf::Protobuf;
use super::schema_id::{SchemaIds, TopicSchemaIds, push_prefix, without_prefix};
use super::upsert;
use crate::config::{Kafka, KafkaEncoding, KafkaFormat};
use crate::model::{ByConfigured, TableName, push_string};
use std::fmt::Write;

/// Upper bound of a message's headers and of what the record format adds, with names of usual length.
pub(crate) const HEADERS: usize = 1280;

/// [`Message::kind`] of a tombstone that follows the message of a delete.
pub(crate) const TOMBSTONE: &str = "users_sync.user.tombstone";

/// Encodes messages in the configured format.
#[derive(Debug)]
pub(crate) struct Encoder {
    slot: String,
    source: String,
    key_opens: String,
    key_closes: &'static str,
    names_tenant: bool,
    format: KafkaFormat,
    values: Values,
    /// The ids of the schemas in front of JSON; `None` without them.
    schema_ids: Option<TopicSchemaIds>,
    /// The largest record of each tenant's topic.
    limits: ByConfigured<u64>,
}

/// What writes values, and keys that are not JSON.
#[derive(Debug)]
enum Values {
    Debezium(Box<Debezium>),
    Upsert,
    Avro(Box<Avro>),
    Protobuf(Box<Protobuf>),
}

impl Encoder {
    /// An encoder for `kafka`'s format, with the names of the source database and the mapped table. `ids`: of the schemas, if
    /// the encoding has some.
    pub(crate) fn new(
        kafka: &Kafka,
        database: &str,
        table: &TableName,
        limits: ByConfigured<u64>,
        ids: TopicSchemaIds,
    ) -> Encoder {
        let names_tenant = !kafka.topic.contains("{tenant}");
        let (key_opens, key_closes) =
            if kafka.schemas { (debezium::key_opens(&kafka.slot, names_tenant), "}") } else { (String::new(), "") };
        let slot = &*kafka.slot;
        Encoder {
            slot: slot.to_owned(),
            source: format!("/{database}/{table}"),
            key_opens,
            key_closes,
            names_tenant,
            limits,
            format: kafka.format,
            schema_ids: (kafka.encoding == KafkaEncoding::JsonSchema).then(|| ids.clone()),
            values: match (kafka.encoding, kafka.format) {
                (KafkaEncoding::Json | KafkaEncoding::JsonSchema, KafkaFormat::Debezium) => {
                    Values::Debezium(Box::new(Debezium::new(slot, database, table, kafka.schemas)))
                }
                (KafkaEncoding::Json | KafkaEncoding::JsonSchema, KafkaFormat::Upsert) => Values::Upsert,
                (KafkaEncoding::Avro, format) => {
                    Values::Avro(Box::new(Avro::new((slot, names_tenant), format, database, table, ids)))
                }
                (KafkaEncoding::Protobuf, format) => {
                    Values::Protobuf(Box::new(Protobuf::new((slot, names_tenant), format, database, table, ids)))
                }
            },
        }
    }

    /// Header `content-type`.
    pub(crate) fn content_type(&self) -> &'static str {
        match self.values {
            Values::Debezium(_) | Values::Upsert => "application/json",
            Values::Avro(_) => "application/avro",
            Values::Protobuf(_) => "application/protobuf",
        }
    }

    /// CloudEvents header `ce_source`: the database and the table.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Appends the message of a change.
    pub(crate) fn put(&self, event: &Event<'_>, batch: &mut Batch) {
        let value = match (self.format, event.op, event.after) {
            (KafkaFormat::Upsert, Op::Delete, _) | (KafkaFormat::Upsert, _, None) => None,
            (KafkaFormat::Upsert, _, Some(_)) | (KafkaFormat::Debezium, ..) => self.value(event, batch),
        };
        let kind = match event.op {
            Op::Create => "users_sync.user.created",
            Op::Update => "users_sync.user.updated",
            Op::SoftDelete | Op::Delete => "users_sync.user.deleted",
            Op::Read => "users_sync.user.read",
        };
        self.finish(event, value, kind, "", batch);
    }

    fn value(&self, event: &Event<'_>, batch: &mut Batch) -> Option<Data> {
        match &self.values {
            Values::Debezium(format) => {
                Some(self.put_json(event, |ids| ids.value, |out| format.write(event, out), batch))
            }
            Values::Upsert => {
                event.after.map(|user| self.put_json(event, |ids| ids.value, |out| upsert::write(user, out), batch))
            }
            Values::Avro(avro) => Some(batch.put_binary(|out| avro.value(event, out))),
            Values::Protobuf(protobuf) => Some(batch.put_binary(|out| protobuf.value(event, out))),
        }
    }

    /// Appends JSON, behind the id of its schema if there is one.
    fn put_json(
        &self,
        event: &Event<'_>,
        id: impl FnOnce(SchemaIds) -> u32,
        write: impl FnOnce(&mut String),
        batch: &mut Batch,
    ) -> Data {
        let Some(ids) = &self.schema_ids else { return batch.put_json(write) };
        let id = id(ids[event.tenant]);
        batch.put_binary(|out| {
            push_prefix(id, out);
            let mut json = String::new();
            write(&mut json);
            out.extend(json.as_bytes());
        })
    }

    /// Whether the last message of the batch is larger than its topic takes, or close to that.
    pub(super) fn exceeds_limit(&self, batch: &Batch) -> bool {
        let Some(Message { tenant, key, value, .. }) = batch.messages.last() else { return false };
        let bytes = key.len() + value.as_ref().map_or(0, Data::len) + HEADERS;
        bytes as u64 > self.limits[*tenant]
    }

    /// Replaces the last message of the batch.
    pub(super) fn replace(&self, event: &Event<'_>, batch: &mut Batch) {
        batch.pop();
        self.put(event, batch);
    }

    /// Appends a tombstone. Compaction then removes the earlier messages of the key.
    pub(crate) fn put_tombstone(&self, event: &Event<'_>, batch: &mut Batch) {
        self.finish(event, None, TOMBSTONE, "t", batch);
    }

    /// Appends a message that only records that the user is left out, because its row cannot be mapped.
    pub(crate) fn put_unmappable(&self, event: &Event<'_>, reason: &str, batch: &mut Batch) {
        let reason = batch.put(|out| out.push_str(reason));
        self.finish(event, None, "", "", batch);
        if let Some(message) = batch.messages.last_mut() {
            message.unmappable = Some(reason);
        }
    }

    /// Whether the format encodes a delete as a tombstone.
    pub(crate) fn deletes_by_tombstone(&self) -> bool {
        self.format == KafkaFormat::Upsert
    }

    /// `mark` makes the id of a tombstone differ from the id of the message before it.
    fn finish(&self, event: &Event<'_>, value: Option<Data>, kind: &'static str, mark: &str, batch: &mut Batch) {
        let EventPosition { position, ordinal, xid, at, is_single, .. } = event.place;
        let key = match &self.values {
            Values::Debezium(_) | Values::Upsert => {
                self.put_json(event, |ids| ids.key, |out| self.key(event.tenant_id, event.id, out), batch)
            }
            Values::Avro(avro) => batch.put_binary(|out| avro.key(event, out)),
            Values::Protobuf(protobuf) => batch.put_binary(|out| protobuf.key(event, out)),
        };
        // Writing to a `String` cannot fail.
        let id = batch.put(|out| {
            let read = match (xid, is_single) {
                (Some(_), _) => "",
                (None, false) => "r",
                (None, true) => "s",
            };
            let _ = write!(out, "{}/{position}/{read}{ordinal}{mark}", self.slot);
        });
        let time = batch.put(|out| {
            let _ = write!(out, "{at}");
        });
        let millis = at.unix_millis_floor().unwrap_or(event.place.now);
        let tenant = event.tenant;
        batch.messages.push(Message {
            tenant,
            key,
            value,
            id,
            time,
            kind,
            millis,
            commit: xid.map(|_| position),
            unmappable: None,
            end_of_part: None,
        });
    }

    /// `{"id": ...}`. In a topic that tenants share, also `tenant_id`.
    fn key(&self, tenant: &str, id: &str, out: &mut String) {
        out.push_str(&self.key_opens);
        if self.names_tenant {
            out.push_str("{\"tenant_id\":");
            push_string(tenant, out);
            out.push_str(",\"id\":");
        } else {
            out.push_str("{\"id\":");
        }
        push_string(id, out);
        out.push('}');
        out.push_str(self.key_closes);
    }

    /// Parses a key that this encoder wrote.
    pub(crate) fn read_key(&self, key: &[u8]) -> Option<MessageKey> {
        match &self.values {
            Values::Avro(avro) => return avro.read_key(key),
            Values::Protobuf(protobuf) => return protobuf.read_key(key),
            Values::Debezium(_) | Values::Upsert => {}
        }
        let key = if self.schema_ids.is_some() { without_prefix(key)? } else { key };
        let mut key: serde_json::Value = serde_json::from_slice(key).ok()?;
        let fields = if self.key_opens.is_empty() { &mut key } else { key.get_mut("payload")? };
        let text = |value: Option<&serde_json::Value>| value?.as_str().map(str::to_owned);
        let tenant = if self.names_tenant { Some(text(fields.get("tenant_id"))?) } else { None };
        Some(MessageKey { tenant, user: text(fields.get("id"))? })
    }
}
