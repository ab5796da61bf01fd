//! Records of the positions topic, and whether the slot can resume from them. Pure.
//!
//! A record is written in the same Kafka transaction as the messages before it, so the two cannot disagree.

use crate::model::{Generation, Lsn, TeeRestart, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// The key of a record: the stream of a slot, or one of its tenants.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    slot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
}

/// The position up to which the stream is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamPosition {
    /// Every transaction that ends at or before this position is published.
    #[serde(with = "text")]
    pub position: Lsn,
    /// System identifier of the server that `position` belongs to.
    pub system: String,
    /// Timeline of that server.
    pub timeline: i32,
    /// The state's generation of that history.
    pub generation: i64,
    /// A transaction behind `position` that is published in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// A source transaction that was published in several Kafka transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Split {
    /// The start of its commit record.
    #[serde(with = "text")]
    pub commit: Lsn,
    /// The number of its rows whose messages are published.
    pub rows: u64,
    /// The number of its changes that have an ordinal.
    #[serde(default)]
    pub changes: u64,
}

/// A tenant whose snapshot is in its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TenantPosition {
    /// The snapshot's position.
    #[serde(with = "text")]
    pub position: Lsn,
    /// The topic that holds its users.
    pub topic: String,
    /// Fingerprint of the mapping that produced them.
    pub mapping: String,
}

/// The content of the positions topic for one slot.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    /// The stream's position. `None` if nothing was published.
    pub stream: Option<StreamPosition>,
    /// The tenants whose snapshot is published.
    pub tenants: HashMap<TenantId, TenantPosition>,
}

/// A record of the positions topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PositionRecord {
    /// The record's key.
    pub key: String,
    /// The record's value. `None` removes the key.
    pub value: Option<String>,
}

impl Positions {
    /// Applies a record, in topic order. Records of other slots, and records that users-sync did not write, are ignored.
    pub(crate) fn take(&mut self, slot: &str, key: &[u8], value: Option<&[u8]>) {
        let Ok(key) = serde_json::from_slice::<Key>(key) else { return };
        if key.slot != slot {
            return;
        }
        match key.tenant {
            None => self.stream = value.and_then(|value| serde_json::from_slice(value).ok()),
            Some(tenant) => {
                let tenant = TenantId::new(&tenant);
                match value.and_then(|value| serde_json::from_slice(value).ok()) {
                    Some(position) => self.tenants.insert(tenant, position),
                    None => self.tenants.remove(&tenant),
                };
            }
        }
    }
}

impl StreamPosition {
    pub(crate) fn record(&self, slot: &str) -> PositionRecord {
        PositionRecord { key: json(&Key { slot: slot.to_owned(), tenant: None }), value: Some(json(self)) }
    }
}

impl TenantPosition {
    /// The record for a tenant's position. Without a position, the record that removes it.
    pub(crate) fn record(slot: &str, tenant: &TenantId, position: Option<&TenantPosition>) -> PositionRecord {
        let key = Key { slot: slot.to_owned(), tenant: Some(tenant.to_string()) };
        PositionRecord { key: json(&key), value: position.map(json) }
    }
}

/// Whether the slot can resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// It resumes from the topics' position.
    From(StreamPosition),
    /// It cannot resume: a new slot is created, and every tenant takes a snapshot.
    Restart(TeeRestart),
}

/// The source and the slot as observed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    /// System identifier of the server.
    pub system: &'a str,
    /// Timeline of that server.
    pub timeline: i32,
    /// The state's generation.
    pub generation: Generation,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed: Lsn,
    /// The end of the server's WAL.
    pub flushed: Lsn,
}

/// Compares the topics' position with the source and its slot.
pub(crate) fn decide_resume(known: Option<&StreamPosition>, source: &Source<'_>) -> Resume {
    let Some(known) = known else { return Resume::Restart(TeeRestart::NoPosition) };
    let breaks = [
        (known.system != source.system, TeeRestart::OtherServer),
        (known.timeline != source.timeline, TeeRestart::Promoted),
        (known.generation != source.generation.0, TeeRestart::NewGeneration),
        (source.confirmed > known.position, TeeRestart::SlotAhead),
        (known.position > source.flushed, TeeRestart::SourceRestored),
    ];
    match breaks.into_iter().find(|(applies, _)| *applies) {
        Some((_, why)) => Resume::Restart(why),
        None => Resume::From(known.clone()),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An LSN in its text form, `16/B374D848`.
mod text {
    use crate::model::Lsn;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(position: u64) -> StreamPosition {
        StreamPosition { position: Lsn(position), system: "7".into(), timeline: 1, generation: 2, split: None }
    }

    #[test]
    fn records_round_trip_and_the_last_record_of_a_key_wins() {
        let mut positions = Positions::default();
        let mut take = |slot, held: PositionRecord| {
            positions.take(slot, held.key.as_bytes(), held.value.as_deref().map(str::as_bytes));
        };
        let split = Some(Split { commit: Lsn(0x1_0000_0000), rows: 9, changes: 11 });
        let (acme, globex) = (TenantId::new("acme"), TenantId::new("globex"));
        let tenant = TenantPosition { position: Lsn(5), topic: "t".into(), mapping: "m".into() };
        take("s", stream(1).record("s"));
        take("s", StreamPosition { split: split.clone(), ..stream(2) }.record("s"));
        take("s", stream(99).record("another"));
        take("s", TenantPosition::record("s", &acme, Some(&tenant)));
        take("s", TenantPosition::record("s", &globex, Some(&tenant)));
        take("s", TenantPosition::record("s", &globex, None));
        take("s", PositionRecord { key: "no JSON".into(), value: None });
        assert_eq!(positions.stream, Some(StreamPosition { split, ..stream(2) }));
        assert_eq!(positions.tenants, HashMap::from([(acme, tenant)]));
    }

    #[test]
    fn a_slot_resumes_if_topics_and_history_agree() {
        let found = Source { system: "7", timeline: 1, generation: Generation(2), confirmed: Lsn(5), flushed: Lsn(20) };
        let check = |known: Option<StreamPosition>, found: Source<'_>, expected: Resume| {
            assert_eq!(decide_resume(known.as_ref(), &found), expected);
        };
        let (ten, restart) = (|| Some(stream(10)), Resume::Restart);
        check(ten(), Source { confirmed: Lsn(10), flushed: Lsn(10), ..found }, Resume::From(stream(10)));
        check(ten(), found, Resume::From(stream(10)));
        check(None, found, restart(TeeRestart::NoPosition));
        check(ten(), Source { system: "8", ..found }, restart(TeeRestart::OtherServer));
        check(ten(), Source { timeline: 2, ..found }, restart(TeeRestart::Promoted));
        check(ten(), Source { generation: Generation(3), ..found }, restart(TeeRestart::NewGeneration));
        check(ten(), Source { confirmed: Lsn(11), ..found }, restart(TeeRestart::SlotAhead));
        check(ten(), Source { flushed: Lsn(9), ..found }, restart(TeeRestart::SourceRestored));
    }
}
