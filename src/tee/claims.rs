//! What other installations have written to topics that this one would take over, whether one of them still publishes, and the
//! records that make the topics this installation's. Pure.

use super::owner::{Opened, Origin};
use super::ownership::{Own, TopicView, stranger};
use super::positions::{
    PRESENCE_INTERVAL, PartitionEnd, PositionRecord, StreamPosition, Subject, TenantPosition, TopicEnds, read_key,
};
use super::snapshot_record::Snapshots;
use crate::model::{Lsn, TenantId};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// An installation that has written nothing for this long does not run: a running one writes every [`PRESENCE_INTERVAL`].
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(3 * PRESENCE_INTERVAL.as_secs());

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// By slot.
    slots: BTreeMap<String, Claim>,
    /// The ends and last records of the topics.
    topics: HashMap<String, TopicView>,
    /// Of the own slot.
    snapshots: Snapshots,
}

/// What the positions topic says about a slot. Records of this installation are left out.
#[derive(Debug, Default)]
struct Claim {
    /// Id of the installation. `None`: version 0.2.0, or another program.
    installation: Option<String>,
    stream: Option<Option<StreamPosition>>,
    /// The topics of its tenants.
    tenants: BTreeMap<TenantId, Option<String>>,
    /// Time of its last record in milliseconds since the Unix epoch.
    last: Option<i64>,
    has_stopped: bool,
}

/// Another installation that has written to the topics, for people.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Writer {
    /// Which one, and what it wrote.
    pub(crate) what: String,
    /// Time since its last record.
    pub(crate) silent_for: Option<Duration>,
    /// It wrote recently, and has not said that it stops.
    pub(crate) may_run: bool,
}

impl Writer {
    /// The time since its last record, for people.
    pub(crate) fn age(&self) -> String {
        self.silent_for.map_or_else(String::new, |age| format!(", last record {} s ago", age.as_secs()))
    }
}

impl Claims {
    pub(crate) fn of_topics(topics: HashMap<String, TopicView>) -> Claims {
        Claims { topics, ..Claims::default() }
    }

    /// Applies a record of the positions topic, in topic order. `at`: its time in milliseconds since the Unix epoch.
    pub(crate) fn take(&mut self, own: &Own<'_>, key: &[u8], value: Option<&[u8]>, at: Option<i64>) {
        let Ok(text) = std::str::from_utf8(key) else { return };
        let Some((slot, subject)) = read_key(text) else { return };
        let claim = self.slots.entry(slot).or_default();
        let Some(value) = value else {
            match subject {
                Subject::Presence => claim.has_stopped = true,
                Subject::Stream => claim.stream = None,
                Subject::Tenant(tenant) => drop(claim.tenants.remove(&tenant)),
                Subject::Topic(_) => {}
            }
            return;
        };
        let origin = match subject {
            Subject::Stream => {
                let Opened { origin, content } = own.owner.open::<StreamPosition>(text, value);
                // Another server under the same key is a copy of this installation.
                let is_own = origin == Origin::Own && content.as_ref().is_none_or(|found| found.system == own.system);
                claim.stream = (!is_own).then_some(content);
                if is_own { Origin::Own } else { known_writer(origin) }
            }
            Subject::Tenant(tenant) => {
                let Opened { origin, content } = own.owner.open::<TenantPosition>(text, value);
                match origin {
                    Origin::Own => drop(claim.tenants.remove(&tenant)),
                    _ => drop(claim.tenants.insert(tenant, content.map(|content| content.topic))),
                }
                origin
            }
            Subject::Presence | Subject::Topic(_) => own.owner.open::<serde_json::Value>(text, value).origin,
        };
        match origin {
            Origin::Own => return,
            Origin::Foreign(id) => claim.installation = Some(id),
            Origin::Unsigned | Origin::Altered => {}
        }
        claim.has_stopped = false;
        claim.last = claim.last.max(at);
    }

    /// Applies a record of the snapshots topic, in topic order.
    pub(crate) fn take_snapshot(&mut self, own: &Own<'_>, key: &[u8], value: Option<&[u8]>) {
        self.snapshots.take(own.owner, key, value);
    }

    /// The installations that have written to the topics. `now`: milliseconds since the Unix epoch.
    pub(crate) fn writers(&self, own: &Own<'_>, now: i64) -> Vec<Writer> {
        let since = |at: Option<i64>| at.map(|at| Duration::from_millis(now.saturating_sub(at).max(0).unsigned_abs()));
        let is_recent = |since: Option<Duration>| since.is_some_and(|since| since < SILENT_AFTER);
        let claims = self.slots.iter().filter(|(slot, claim)| claim.concerns(slot, own));
        let mut writers: Vec<Writer> = claims
            .map(|(slot, claim)| {
                let silent_for = since(claim.last);
                let may_run = is_recent(silent_for) && !claim.has_stopped;
                Writer { what: claim.describe(slot), silent_for, may_run }
            })
            .collect();
        let mut topics: Vec<_> = self.topics.iter().collect();
        topics.sort_by_key(|(topic, _)| *topic);
        for (topic, view) in topics {
            let marks = view.values().flat_map(|partition| &partition.records);
            let strange = marks.filter_map(|mark| Some((mark, stranger(mark, true, own.owner)?)));
            let Some((mark, by)) = strange.max_by_key(|(mark, _)| mark.at) else { continue };
            let silent_for = since(mark.at);
            // The positions topic is more exact about an installation that it has.
            let is_its = |claim: &Claim| claim.installation.is_some() && claim.installation == mark.installation;
            let is_listed = self.slots.values().any(is_its);
            let may_run = !is_listed && is_recent(silent_for);
            writers.push(Writer { what: format!("topic {topic}: records of {by}"), silent_for, may_run });
        }
        writers
    }

    /// The records that make the topics this installation's. `tenants`: the configured ones, each with its topic.
    ///
    /// Each tenant has a position of no mapping afterwards, so that the next session publishes its users, and deletes for
    /// those who are gone.
    pub(crate) fn take_over(&self, own: &Own<'_>, tenants: &[(&TenantId, &str)]) -> Vec<PositionRecord> {
        let mut records = Vec::new();
        for (topic, view) in self.topics.iter().filter(|(_, view)| !view.is_empty()) {
            let ends = view.iter().map(|(partition, view)| (*partition, PartitionEnd { next: view.end, id: None }));
            records.push(TopicEnds { ends: ends.collect() }.record(own.owner, topic));
        }
        for (slot, claim) in &self.slots {
            for (tenant, topic) in &claim.tenants {
                let is_ours = topic.as_deref().is_some_and(|topic| own.topics.contains(&topic));
                if *slot == own.owner.slot || is_ours {
                    records.push(TenantPosition::removal(own.owner, slot, tenant));
                }
            }
        }
        for (tenant, topic) in tenants.iter().filter(|(_, topic)| self.topics.contains_key(*topic)) {
            let topic = (*topic).to_owned();
            let unknown = TenantPosition { position: Lsn::ZERO, topic, mapping: String::new(), partial: false };
            records.push(TenantPosition::record(own.owner, tenant, Some(&unknown)));
        }
        records.extend(self.snapshots.removals(own.owner));
        // Last: without transactions, the topics belong to the other installation until then.
        if self.slots.get(&own.owner.slot).is_some_and(|claim| claim.stream.is_some()) {
            records.push(StreamPosition::removal(own.owner));
        }
        records
    }
}

impl Claim {
    /// Whether it has something that this installation would take over.
    fn concerns(&self, slot: &str, own: &Own<'_>) -> bool {
        let is_ours = |topic: &Option<String>| topic.as_deref().is_some_and(|topic| own.topics.contains(&topic));
        let is_own_slot = slot == own.owner.slot && (self.stream.is_some() || !self.tenants.is_empty());
        is_own_slot || self.tenants.values().any(is_ours)
    }

    fn describe(&self, slot: &str) -> String {
        let id = self.installation.as_deref().map_or_else(String::new, |id| format!(", installation {id}"));
        let at = self.stream.as_ref().and_then(Option::as_ref).map(|found| {
            let StreamPosition { position, system, .. } = found;
            format!(", published up to {position} of system identifier {system}")
        });
        format!("slot {slot}{id}{}, {} tenants", at.unwrap_or_default(), self.tenants.len())
    }
}

/// The writer of a stream's position that is not this installation's on this server.
fn known_writer(origin: Origin) -> Origin {
    match origin {
        Origin::Own => Origin::Unsigned,
        origin => origin,
    }
}

#[cfg(test)]
mod tests;
