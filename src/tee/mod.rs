//! The Kafka output (tee): the same changes as messages, `capture -> map -> encode -> publish`, on a slot of its own.
//!
//! Messages and positions are decided here without I/O ([`Encoder`], [`Positions`]). `kafka` does the I/O.

mod avro;
mod batch;
mod claims;
mod debezium;
mod decode;
mod encode;
mod event;
mod json;
pub(crate) mod kafka;
mod messages;
mod owner;
mod ownership;
mod parts;
mod positions;
mod protobuf;
mod schema_id;
mod schema_registry;
mod snapshot_record;
mod time_range;
mod upsert;

pub(crate) use batch::{Batch, Message};
pub(crate) use claims::{Claims, SILENT_AFTER, Writer};
#[cfg(test)]
pub(crate) use decode::RecordTransaction;
pub(crate) use decode::{DecodeFault, RecordContent, RecordHeaders, RecordOrigin, RecordPlace, content, user_of_key};
pub(crate) use encode::{Encoder, HEADERS, TOMBSTONE};
pub(crate) use event::{Event, EventPosition, MessageKey, Op};
pub(crate) use messages::{CompleteChange, messages};
pub(crate) use owner::Owner;
pub(crate) use ownership::{Foreign, Holds, Known, Mark, Own, PartitionView, TopicView, judge_positions, judge_topic};
pub(crate) use parts::{PartEnd, PartEnds, TransactionEnd, arrange, ends_of_parts};
pub(crate) use positions::{
    PRESENCE_INTERVAL, PartitionEnd, PositionRecord, Positions, Presence, RecordTopic, Resume, Source, Split,
    StreamPosition, TenantPosition, TopicEnds, decide_resume, is_of_slot,
};
pub(crate) use schema_id::{SchemaIds, TopicSchemaIds};
pub(crate) use schema_registry::{
    Refusal as SchemaRefusal, Request as SchemaRequest, Schemas, Subject as SchemaSubject,
};
pub(crate) use snapshot_record::{SnapshotRecord, Snapshots};
