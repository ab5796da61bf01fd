//! Records of the positions topic, and whether the slot can resume from them. Pure.
//!
//! A record is written in the same Kafka transaction as the messages before it, so the two cannot disagree.

use super::owner::{Opened, Origin, Owner};
use crate::model::{Generation, Lsn, TeeRestart, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::Duration;

/// The key of a record: the stream of a slot, one of its tenants, or one of its topics.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    slot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
}

/// The key of the record that says whether a process publishes from a slot.
#[derive(Debug, Serialize, Deserialize)]
struct PresenceKey {
    publishes: String,
}

/// Interval at which a process that has nothing else to write says that it publishes.
pub(crate) const PRESENCE_INTERVAL: Duration = Duration::from_secs(30);

/// A process publishes from the slot. Its end removes the record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Presence {}

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
    /// The topic lacks users from before `position`: `kafka.snapshot` was false when the tenant was new.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// What a topic held when its record was written, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopicEnds {
    pub(crate) ends: BTreeMap<i32, PartitionEnd>,
}

/// The end of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionEnd {
    /// The offset behind the last record that was written or looked at.
    pub(crate) next: i64,
    /// Header `ce_id` of the last record, if this installation wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
}

/// The content of the positions topic, as its last records say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Positions {
    /// The stream's position.
    pub(super) stream: Option<Opened<StreamPosition>>,
    /// The tenants whose snapshot is published.
    pub(super) tenants: HashMap<TenantId, Opened<TenantPosition>>,
    /// What the topics held.
    pub(super) topics: HashMap<String, Opened<TopicEnds>>,
    /// The tenants of other slots.
    pub(super) others: HashMap<(String, TenantId), Opened<TenantPosition>>,
}

/// Which of the topics of users-sync itself a record is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordTopic {
    Positions,
    Snapshots,
}

/// A record of the positions topic or the snapshots topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PositionRecord {
    pub topic: RecordTopic,
    /// The record's key.
    pub key: String,
    /// The record's value. `None` removes the key.
    pub value: Option<String>,
}

impl Positions {
    /// Applies a record, in topic order. Records whose key users-sync did not write are ignored.
    pub(crate) fn take(&mut self, owner: &Owner, key: &[u8], value: Option<&[u8]>) {
        let Ok(text) = std::str::from_utf8(key) else { return };
        let Some((slot, subject)) = read_key(text) else { return };
        match (slot == owner.slot, subject) {
            (true, Subject::Stream) => self.stream = value.map(|value| owner.open(text, value)),
            (true, Subject::Tenant(tenant)) => {
                put(&mut self.tenants, tenant, value.map(|value| owner.open(text, value)));
            }
            (true, Subject::Topic(topic)) => put(&mut self.topics, topic, value.map(|value| owner.open(text, value))),
            (false, Subject::Tenant(tenant)) => {
                put(&mut self.others, (slot, tenant), value.map(|value| owner.open(text, value)));
            }
            (false, Subject::Stream | Subject::Topic(_)) | (_, Subject::Presence) => {}
        }
    }
}

fn put<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Presence {
    /// The record that says whether this process publishes.
    pub(crate) fn record(owner: &Owner, publishes: bool) -> PositionRecord {
        sealed(owner, &PresenceKey { publishes: owner.slot.clone() }, publishes.then_some(&Presence {}))
    }
}

/// What a record of the positions topic is about.
pub(super) enum Subject {
    Presence,
    Stream,
    Tenant(TenantId),
    Topic(String),
}

/// Whether a record with this key belongs to the slot.
pub(crate) fn is_of_slot(key: &[u8], slot: &str) -> bool {
    std::str::from_utf8(key).ok().and_then(read_key).is_some_and(|(of, _)| of == slot)
}

/// Reads a record's key: the slot, and what the record is about. `None` if users-sync did not write it.
pub(super) fn read_key(key: &str) -> Option<(String, Subject)> {
    if let Ok(PresenceKey { publishes }) = serde_json::from_str(key) {
        return Some((publishes, Subject::Presence));
    }
    let Key { slot, tenant, topic } = serde_json::from_str(key).ok()?;
    let subject = match (tenant, topic) {
        (Some(tenant), _) => Subject::Tenant(TenantId::new(&tenant)),
        (None, Some(topic)) => Subject::Topic(topic),
        (None, None) => Subject::Stream,
    };
    Some((slot, subject))
}

impl StreamPosition {
    /// Reads the position of the owner's slot, for `users-sync apply`; `None` for any other record. The publisher may have another
    /// state, and then another signature.
    pub(crate) fn read(owner: &Owner, key: &[u8], value: Option<&[u8]>) -> Option<StreamPosition> {
        let text = std::str::from_utf8(key).ok()?;
        let is_own = matches!(read_key(text)?, (slot, Subject::Stream) if slot == owner.slot);
        match owner.open(text, value.filter(|_| is_own)?) {
            Opened { origin: Origin::Own | Origin::Foreign(_), content } => content,
            // Written by another program.
            Opened { .. } => None,
        }
    }

    /// The record that removes the position of a slot.
    pub(super) fn removal(owner: &Owner) -> PositionRecord {
        sealed(owner, &Key { slot: owner.slot.clone(), tenant: None, topic: None }, None::<&StreamPosition>)
    }

    pub(crate) fn record(&self, owner: &Owner) -> PositionRecord {
        sealed(owner, &Key { slot: owner.slot.clone(), tenant: None, topic: None }, Some(self))
    }
}

impl TenantPosition {
    /// The record for a tenant's position. Without a position, the record that removes it.
    pub(crate) fn record(owner: &Owner, tenant: &TenantId, position: Option<&TenantPosition>) -> PositionRecord {
        let key = Key { slot: owner.slot.clone(), tenant: Some(tenant.to_string()), topic: None };
        sealed(owner, &key, position)
    }

    /// The record that removes the position of a tenant of any slot.
    pub(super) fn removal(owner: &Owner, slot: &str, tenant: &TenantId) -> PositionRecord {
        let key = Key { slot: slot.to_owned(), tenant: Some(tenant.to_string()), topic: None };
        sealed(owner, &key, None::<&TenantPosition>)
    }
}

impl TopicEnds {
    pub(crate) fn record(&self, owner: &Owner, topic: &str) -> PositionRecord {
        let key = Key { slot: owner.slot.clone(), tenant: None, topic: Some(topic.to_owned()) };
        sealed(owner, &key, Some(self))
    }
}

fn sealed(owner: &Owner, key: &impl Serialize, content: Option<&impl Serialize>) -> PositionRecord {
    let key = serde_json::to_string(key).unwrap_or_default();
    let value = content.map(|content| owner.seal(&key, content));
    PositionRecord { topic: RecordTopic::Positions, key, value }
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

/// An LSN in its text form, `16/B374D848`.
pub(super) mod text {
    use crate::model::Lsn;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::tee) fn serialize<S: Serializer>(lsn: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(lsn)
    }

    pub(in crate::tee) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CheckpointKey;
    use crate::tee::owner::Origin;

    fn stream(position: u64) -> StreamPosition {
        StreamPosition { position: Lsn(position), system: "7".into(), timeline: 1, generation: 2, split: None }
    }

    #[test]
    fn records_round_trip_and_the_last_record_of_a_key_wins() {
        let owner = |slot| Owner::new(slot, &CheckpointKey::new(&[7; 32]).unwrap());
        let (own, another) = (owner("s"), owner("another"));
        let mut positions = Positions::default();
        let mut take = |record: PositionRecord| {
            positions.take(&own, record.key.as_bytes(), record.value.as_deref().map(str::as_bytes));
        };
        let split = Some(Split { commit: Lsn(0x1_0000_0000), rows: 9, changes: 11 });
        let (acme, globex) = (TenantId::new("acme"), TenantId::new("globex"));
        let tenant = TenantPosition { position: Lsn(5), topic: "t".into(), mapping: "m".into(), partial: true };
        let ends = TopicEnds { ends: BTreeMap::from([(0, PartitionEnd { next: 7, id: Some("x".into()) })]) };
        take(stream(1).record(&own));
        take(StreamPosition { split: split.clone(), ..stream(2) }.record(&own));
        take(stream(99).record(&another));
        take(TenantPosition::record(&own, &acme, Some(&tenant)));
        take(TenantPosition::record(&own, &globex, Some(&tenant)));
        take(TenantPosition::record(&own, &globex, None));
        take(TenantPosition::record(&another, &acme, Some(&tenant)));
        take(ends.record(&own, "t"));
        take(PositionRecord { topic: RecordTopic::Positions, key: "no JSON".into(), value: None });
        let opened = Opened { origin: Origin::Own, content: Some(tenant) };
        let known = Opened { origin: Origin::Own, content: Some(StreamPosition { split, ..stream(2) }) };
        assert_eq!(positions.stream, Some(known));
        assert_eq!(positions.tenants, HashMap::from([(acme.clone(), opened.clone())]));
        assert_eq!(positions.others, HashMap::from([(("another".to_owned(), acme), opened)]));
        assert_eq!(positions.topics["t"].content, Some(ends));
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
