//! How far the topics are: what stands in the positions topic, and what that makes of the slot. Pure.
//!
//! A record is written in the Kafka transaction of the messages before it, so the two cannot disagree.

use crate::model::{Generation, Lsn, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// What a record is about.
#[derive(Debug, Serialize, Deserialize)]
struct Key {
    slot: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
}

/// How far the stream is in the topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPosition {
    /// Every transaction that ends up to here is.
    #[serde(with = "text")]
    pub position: Lsn,
    /// Of the server whose positions these are.
    pub system: String,
    /// Its timeline.
    pub timeline: i32,
    /// The unbroken history that they belong to, as the state counts it.
    pub generation: i64,
    /// A transaction beyond of which a part is in the topics already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
}

/// A transaction that was too large for one of Kafka's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The start of its commit record.
    #[serde(with = "text")]
    pub commit: Lsn,
    /// What became of that many rows of it is there.
    pub rows: u64,
    /// So many changes of it have got a number.
    #[serde(default)]
    pub changes: u64,
}

/// A tenant whose users are in its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPosition {
    /// Of its snapshot.
    #[serde(with = "text")]
    pub position: Lsn,
    /// The topic that they are in.
    pub topic: String,
    /// Fingerprint of the mapping that they were made with.
    pub mapping: String,
}

/// Everything that the positions topic says of one slot.
#[derive(Debug, Default)]
pub struct Positions {
    /// Of the stream, once anything was published.
    pub stream: Option<StreamPosition>,
    /// By tenant.
    pub tenants: HashMap<TenantId, TenantPosition>,
}

/// A record of the positions topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its key.
    pub key: String,
    /// Its value; `None` takes it away.
    pub value: Option<String>,
}

impl Positions {
    /// Takes a record in the topic's order; those of other slots, or that nobody here wrote, are passed over.
    pub fn take(&mut self, slot: &str, key: &[u8], value: Option<&[u8]>) {
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
    /// The record that says so.
    pub fn record(&self, slot: &str) -> Held {
        Held { key: json(&Key { slot: slot.to_owned(), tenant: None }), value: Some(json(self)) }
    }
}

impl TenantPosition {
    /// The record that says so; without a position, the one that takes it away.
    pub fn record(slot: &str, tenant: &TenantId, position: Option<&TenantPosition>) -> Held {
        let key = Key { slot: slot.to_owned(), tenant: Some(tenant.to_string()) };
        Held { key: json(&key), value: position.map(json) }
    }
}

/// What the slot is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It goes on from what the topics hold.
    From(StreamPosition),
    /// It cannot, and why: a new one is made, and every tenant takes a snapshot.
    Anew(&'static str),
}

/// The source and the slot, as they are found.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The server's system identifier.
    pub system: &'a str,
    /// Its timeline.
    pub timeline: i32,
    /// The state's history.
    pub generation: Generation,
    /// What the slot has confirmed.
    pub confirmed: Lsn,
    /// The end of the server's log.
    pub flushed: Lsn,
}

/// Holds what the topics say against the slot.
pub fn decide_resume(known: Option<&StreamPosition>, source: &Source<'_>) -> Resume {
    let Some(known) = known else { return Resume::Anew("the positions topic does not know how far it was") };
    let breaks = [
        (known.system != source.system, "the source is another server"),
        (known.timeline != source.timeline, "the source was promoted: its timeline is another one"),
        (known.generation != source.generation.0, "a new generation has begun: everything is resynced"),
        (source.confirmed > known.position, "its slot is further than its topics"),
        (known.position > source.flushed, "the source was restored to an older point"),
    ];
    match breaks.into_iter().find(|(applies, _)| *applies) {
        Some((_, why)) => Resume::Anew(why),
        None => Resume::From(known.clone()),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A position as people write it.
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
    fn what_is_written_is_read_and_the_last_record_counts() {
        let mut positions = Positions::default();
        let mut take = |slot, held: Held| {
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
        take("s", Held { key: "no JSON".into(), value: None });
        assert_eq!(positions.stream, Some(StreamPosition { split, ..stream(2) }));
        assert_eq!(positions.tenants, HashMap::from([(acme, tenant)]));
    }

    #[test]
    fn a_slot_goes_on_where_topics_and_history_agree() {
        let found = Source { system: "7", timeline: 1, generation: Generation(2), confirmed: Lsn(5), flushed: Lsn(20) };
        let check = |known: Option<StreamPosition>, found: Source<'_>| match decide_resume(known.as_ref(), &found) {
            Resume::From(from) => from.position.to_string(),
            Resume::Anew(why) => why.to_owned(),
        };
        let ten = || Some(stream(10));
        assert_eq!(check(ten(), Source { confirmed: Lsn(10), flushed: Lsn(10), ..found }), "0/A");
        assert_eq!(check(ten(), found), "0/A");
        assert!(check(None, found).contains("does not know"));
        assert!(check(ten(), Source { system: "8", ..found }).contains("another server"));
        assert!(check(ten(), Source { timeline: 2, ..found }).contains("promoted"));
        assert!(check(ten(), Source { generation: Generation(3), ..found }).contains("generation"));
        assert!(check(ten(), Source { confirmed: Lsn(11), ..found }).contains("further"));
        assert!(check(ten(), Source { flushed: Lsn(9), ..found }).contains("restored"));
    }
}
