//! Records of the snapshots topic: where the last complete snapshot of each tenant begins. Pure.
//!
//! A record is written in the same Kafka transaction as the tenant's position, behind the snapshot's messages. It is removed
//! before a further snapshot of the tenant begins, so that one always stands for a snapshot that the topic holds.

use super::owner::{Opened, Origin, Owner};
use super::ownership::Foreign;
use super::positions::{PositionRecord, RecordTopic, text};
use crate::model::{Generation, Lsn, TenantId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// The key of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotKey {
    /// The slot of the Kafka output.
    pub(crate) slot: String,
    pub(crate) tenant: String,
}

/// The last complete snapshot of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    /// The generation of `position`.
    #[serde(with = "number")]
    pub(crate) generation: Generation,
    /// The snapshot's position.
    #[serde(with = "text")]
    pub(crate) position: Lsn,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The snapshot's first message has this offset or a later one. What is before it in the partition is superseded.
    pub(crate) offset: i64,
    /// Fingerprint of the mapping that produced its users.
    pub(crate) mapping: String,
}

impl SnapshotRecord {
    /// The record for a tenant's snapshot. Without one, the record that removes it.
    pub(crate) fn record(owner: &Owner, tenant: &TenantId, snapshot: Option<&SnapshotRecord>) -> PositionRecord {
        let key = SnapshotKey { slot: owner.slot.clone(), tenant: tenant.to_string() };
        let key = serde_json::to_string(&key).unwrap_or_default();
        let value = snapshot.map(|snapshot| owner.seal(&key, snapshot));
        PositionRecord { topic: RecordTopic::Snapshots, key, value }
    }

    /// Reads a record for `users-sync apply`: the tenant, and its snapshot unless the record removes it. The publisher may have
    /// another state, and then another signature. `None` for a record of another slot, and for one that cannot be relied on.
    pub(crate) fn read(owner: &Owner, key: &[u8], value: Option<&[u8]>) -> Option<(TenantId, Option<SnapshotRecord>)> {
        let (text, tenant) = read_key(owner, key)?;
        let snapshot = match value.map(|value| owner.open::<SnapshotRecord>(text, value)) {
            None => None,
            Some(Opened { origin: Origin::Own | Origin::Foreign(_), content: Some(snapshot) }) => Some(snapshot),
            Some(Opened { .. }) => return None,
        };
        Some((tenant, snapshot))
    }
}

/// The text of a key, and its tenant; `None` for a record of another slot or program.
fn read_key<'k>(owner: &Owner, key: &'k [u8]) -> Option<(&'k str, TenantId)> {
    let text = std::str::from_utf8(key).ok()?;
    let SnapshotKey { slot, tenant } = serde_json::from_str(text).ok()?;
    (slot == owner.slot).then(|| (text, TenantId::new(&tenant)))
}

/// The snapshots of a slot, as the topic's last records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshots {
    /// Those that this installation has recorded.
    pub(crate) tenants: HashMap<TenantId, SnapshotRecord>,
    /// Tenants whose record cannot be relied on, with the id of the installation that wrote it, if it names one.
    pub(crate) strange: BTreeMap<TenantId, Option<String>>,
}

impl Snapshots {
    /// Applies a record, in topic order. Those of other slots, and those whose key users-sync did not write, are ignored.
    /// Returns the tenant.
    pub(crate) fn take(&mut self, owner: &Owner, key: &[u8], value: Option<&[u8]>) -> Option<TenantId> {
        let (text, tenant) = read_key(owner, key)?;
        self.tenants.remove(&tenant);
        self.strange.remove(&tenant);
        let opened = value.map(|value| owner.open::<SnapshotRecord>(text, value));
        match opened {
            None => {}
            Some(Opened { origin: Origin::Own, content: Some(snapshot) }) => {
                self.tenants.insert(tenant.clone(), snapshot);
            }
            Some(Opened { origin: Origin::Foreign(id), .. }) => {
                self.strange.insert(tenant.clone(), Some(id));
            }
            Some(Opened { .. }) => drop(self.strange.insert(tenant.clone(), None)),
        }
        Some(tenant)
    }

    /// An error if another installation writes under this slot.
    pub(crate) fn judge(&self, owner: &Owner) -> Result<(), Foreign> {
        let slot = &owner.slot;
        match self.strange.values().flatten().next() {
            Some(id) => {
                Err(Foreign(format!("the snapshots of slot {slot} in Kafka belong to another installation (id {id})")))
            }
            None => Ok(()),
        }
    }

    /// The records that make the topic say what `published` does, at the start of a session. `published`: the tenants whose
    /// users are in their topic and that take no snapshot now, with `offset` 0: what the topic holds in front of a snapshot is no
    /// more than superseded. A record that agrees with it keeps its offset.
    pub(crate) fn corrections(
        &self,
        owner: &Owner,
        published: &HashMap<TenantId, SnapshotRecord>,
    ) -> Vec<PositionRecord> {
        let agrees = |tenant: &TenantId, expected: &SnapshotRecord| {
            let known = self.tenants.get(tenant);
            known.is_some_and(|known| *known == SnapshotRecord { offset: known.offset, ..expected.clone() })
        };
        let missing = published.iter().filter(|(tenant, expected)| !agrees(tenant, expected));
        let missing = missing.map(|(tenant, expected)| SnapshotRecord::record(owner, tenant, Some(expected)));
        let stale = self.tenants.keys().chain(self.strange.keys()).filter(|tenant| !published.contains_key(*tenant));
        missing.chain(stale.map(|tenant| SnapshotRecord::record(owner, tenant, None))).collect()
    }

    /// The records that remove what other programs wrote.
    pub(super) fn removals(&self, owner: &Owner) -> impl Iterator<Item = PositionRecord> {
        self.strange.keys().map(|tenant| SnapshotRecord::record(owner, tenant, None))
    }
}

mod number {
    use crate::model::Generation;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(generation: &Generation, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(generation.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Generation, D::Error> {
        i64::deserialize(deserializer).map(Generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CheckpointKey;

    fn owner(key: u8, slot: &str) -> Owner {
        Owner::new(slot, &CheckpointKey::new(&[key; 32]).unwrap())
    }

    fn snapshot(offset: i64) -> SnapshotRecord {
        SnapshotRecord {
            generation: Generation(3),
            position: Lsn(0x16_b374_d848),
            topic: "t".into(),
            partition: 2,
            offset,
            mapping: "m".into(),
        }
    }

    fn taken(owner: &Owner, records: &[PositionRecord]) -> Snapshots {
        let mut snapshots = Snapshots::default();
        for PositionRecord { key, value, .. } in records {
            snapshots.take(owner, key.as_bytes(), value.as_deref().map(str::as_bytes));
        }
        snapshots
    }

    #[test]
    fn a_record_has_the_documented_form_and_the_last_one_wins() {
        let own = owner(1, "s");
        let (acme, globex) = (TenantId::new("acme"), TenantId::new("globex"));
        let record = SnapshotRecord::record(&own, &acme, Some(&snapshot(7)));
        assert_eq!((record.topic, &*record.key), (RecordTopic::Snapshots, r#"{"slot":"s","tenant":"acme"}"#));
        let mut value: serde_json::Value = serde_json::from_str(record.value.as_ref().unwrap()).unwrap();
        let fields = value.as_object_mut().unwrap();
        assert!(fields.remove("signature").is_some() && fields.remove("installation").is_some());
        let expected = serde_json::json!({"generation": 3, "position": "16/B374D848", "topic": "t", "partition": 2, "offset": 7,
            "mapping": "m"});
        assert_eq!(value, expected);
        let records = [
            SnapshotRecord::record(&own, &acme, Some(&snapshot(1))),
            record,
            SnapshotRecord::record(&own, &globex, Some(&snapshot(1))),
            SnapshotRecord::record(&own, &globex, None),
            SnapshotRecord::record(&owner(1, "another"), &globex, Some(&snapshot(1))),
            PositionRecord { topic: RecordTopic::Snapshots, key: "no JSON".into(), value: None },
        ];
        let expected = Snapshots { tenants: HashMap::from([(acme, snapshot(7))]), strange: BTreeMap::new() };
        assert_eq!(taken(&own, &records), expected);
    }

    #[test]
    fn a_record_of_another_writer_is_not_believed() {
        let own = owner(1, "s");
        let acme = TenantId::new("acme");
        let altered = PositionRecord {
            value: Some(r#"{"generation":1}"#.into()),
            ..SnapshotRecord::record(&own, &acme, Some(&snapshot(1)))
        };
        let found = taken(&own, &[altered]);
        assert_eq!((found.tenants.len(), found.judge(&own)), (0, Ok(())));
        assert_eq!(found.removals(&own).collect::<Vec<_>>(), [SnapshotRecord::record(&own, &acme, None)]);
        let foreign = taken(&own, &[SnapshotRecord::record(&owner(2, "s"), &acme, Some(&snapshot(1)))]);
        assert!(foreign.judge(&own).is_err() && foreign.tenants.is_empty());
    }

    #[test]
    fn only_records_that_disagree_with_the_positions_are_written() {
        let own = owner(1, "s");
        let [kept, other, missing, removed] = ["kept", "other", "missing", "removed"].map(TenantId::new);
        let mapped = SnapshotRecord { mapping: "older".into(), ..snapshot(9) };
        let known = taken(
            &own,
            &[
                SnapshotRecord::record(&own, &kept, Some(&snapshot(7))),
                SnapshotRecord::record(&own, &other, Some(&mapped)),
                SnapshotRecord::record(&own, &removed, Some(&snapshot(8))),
            ],
        );
        let published = [&kept, &other, &missing].map(|tenant| (tenant.clone(), snapshot(0)));
        let corrected = taken(&own, &known.corrections(&own, &HashMap::from(published.clone())));
        assert_eq!(corrected.tenants, HashMap::from([(other, snapshot(0)), (missing, snapshot(0))]));
        let removals = known.corrections(&own, &HashMap::from(published));
        assert_eq!(removals.last(), Some(&SnapshotRecord::record(&own, &removed, None)));
    }
}
