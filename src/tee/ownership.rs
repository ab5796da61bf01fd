//! Whether topics and positions belong to this installation, and whether they still hold what it wrote. Pure.
//!
//! The state's own record decides: a record of the positions topic that contradicts it leads to a snapshot. Topics of
//! another installation are never written to.

use super::owner::{Opened, Origin, Owner};
use super::positions::{Positions, StreamPosition, TenantPosition, TopicEnds};
use crate::model::{TeeRestart, TenantId};
use crate::state::TeePublished;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The positions that can be relied on.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The stream's position. `None` if nothing was published, or it is not known what.
    pub(crate) stream: Option<StreamPosition>,
    /// The tenants whose snapshot is published.
    pub(crate) tenants: HashMap<TenantId, TenantPosition>,
    /// What the topics held.
    pub(crate) topics: HashMap<String, TopicEnds>,
    /// Why every tenant takes a snapshot although the source's history is intact.
    pub(crate) restart: Option<TeeRestart>,
    /// Tenants that were published before, whatever the positions topic says.
    pub(crate) published: HashSet<TenantId>,
    /// Tenants whose record was written by another program.
    pub(crate) altered: Vec<TenantId>,
}

/// Why nothing may be published: what belongs to another installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Foreign(pub(crate) String);

/// What this installation knows of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    pub(crate) owner: &'a Owner,
    /// System identifier of the source.
    pub(crate) system: &'a str,
    /// What the state has recorded. `None` before anything was published by a version that records it.
    pub(crate) published: Option<&'a TeePublished>,
    /// The topics that it is about to write to.
    pub(crate) topics: &'a [&'a str],
}

/// Compares the records of the positions topic with the state.
pub(crate) fn judge_positions(positions: Positions, own: &Own<'_>) -> Result<Known, Foreign> {
    let Positions { stream, tenants, topics, others } = positions;
    let slot = &own.owner.slot;
    let foreign = |by: String| Err(Foreign(format!("the positions of slot {slot} in Kafka belong to {by}")));
    let mut known = Known::default();
    match stream {
        None => known.restart = own.published.map(|_| TeeRestart::NoPosition),
        Some(Opened { origin: Origin::Foreign(id), content }) => {
            let system = content.map(|content| format!(", system identifier {}", content.system)).unwrap_or_default();
            return foreign(format!("another installation (id {id}{system})"));
        }
        Some(Opened { origin: Origin::Unsigned, content: Some(found) }) if found.system != own.system => {
            return foreign(format!("an installation on another server (system identifier {})", found.system));
        }
        Some(Opened { origin: Origin::Own, content: Some(found) })
            if found.system != own.system && own.published.is_none_or(|published| !moved_from(published, &found)) =>
        {
            return foreign(format!("a copy of this installation (system identifier {})", found.system));
        }
        Some(Opened { origin: Origin::Unsigned, content }) if own.published.is_none() => known.stream = content,
        Some(Opened { origin: Origin::Altered | Origin::Unsigned, .. }) => {
            known.restart = Some(TeeRestart::PositionAltered);
        }
        Some(Opened { origin: Origin::Own, content }) => {
            let is_older = |found: &StreamPosition| {
                let published = own.published.filter(|published| published.system == found.system);
                published.is_some_and(|published| found.position < published.position)
            };
            known.restart = content.as_ref().filter(|found| is_older(found)).map(|_| TeeRestart::PositionOlder);
            known.stream = content;
        }
    }
    for ((slot, tenant), Opened { origin, content }) in others {
        let Some(topic) = content.map(|content| content.topic).filter(|topic| own.topics.contains(&&**topic)) else {
            continue;
        };
        let by = match origin {
            Origin::Foreign(id) => format!("id {id}, slot {slot}"),
            // Without a position of its own, this installation cannot have had that slot before.
            Origin::Unsigned if known.stream.is_none() => format!("slot {slot}"),
            Origin::Unsigned | Origin::Own | Origin::Altered => continue,
        };
        return Err(Foreign(format!("topic {topic} belongs to another installation ({by}): its tenant {tenant}")));
    }
    known.published = own.published.map(|published| published.tenants.clone()).unwrap_or_default();
    for (tenant, Opened { origin, content }) in tenants {
        let is_its = origin == Origin::Own || origin == Origin::Unsigned && own.published.is_none();
        match content.filter(|_| is_its) {
            Some(position) => drop(known.tenants.insert(tenant, position)),
            None => {
                known.published.insert(tenant.clone());
                known.altered.push(tenant);
            }
        }
    }
    let own_topics = topics.into_iter().filter(|(_, opened)| opened.origin == Origin::Own);
    known.topics = own_topics.filter_map(|(topic, opened)| Some((topic, opened.content?))).collect();
    Ok(known)
}

/// Whether the source moved to another server, and nothing was published since by the one before. Otherwise the state is a copy,
/// and its original still publishes.
fn moved_from(published: &TeePublished, found: &StreamPosition) -> bool {
    published.system == found.system && found.position <= published.position
}

/// What is read of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionView {
    /// The offset behind its last record.
    pub(crate) end: i64,
    /// Its last records, committed or not.
    pub(crate) records: Vec<Mark>,
}

/// What tells a record's writer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) offset: i64,
    /// Header `ce_installation`.
    pub(crate) installation: Option<String>,
    /// Header `ce_id`, which begins with the slot.
    pub(crate) id: Option<String>,
    /// Its time in milliseconds since the Unix epoch.
    pub(crate) at: Option<i64>,
}

/// The partitions of a topic.
pub(crate) type TopicView = BTreeMap<i32, PartitionView>;

/// Whether a topic still holds what was published to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    Everything,
    /// It was created again, or lost its last records.
    NotEverything,
}

/// Compares a topic with what the positions topic says. `is_known`: it is a topic of this installation according to the
/// positions or the state.
pub(crate) fn judge_topic(
    topic: &str,
    view: &TopicView,
    known: Option<&TopicEnds>,
    is_known: bool,
    owner: &Owner,
) -> Result<Holds, Foreign> {
    let is_lost = known.is_some_and(|known| lacks(view, known));
    for (partition, PartitionView { records, .. }) in view {
        let known_end =
            known.filter(|_| !is_lost).and_then(|known| known.ends.get(partition)).map_or(0, |end| end.next);
        for mark in records.iter().filter(|mark| mark.offset >= known_end) {
            if let Some(by) = stranger(mark, is_known || known.is_some(), owner) {
                return Err(Foreign(format!("topic {topic} has records of {by}")));
            }
        }
    }
    Ok(if is_lost { Holds::NotEverything } else { Holds::Everything })
}

fn lacks(view: &TopicView, known: &TopicEnds) -> bool {
    known.ends.iter().any(|(partition, known)| {
        let Some(found) = view.get(partition) else { return true };
        // Compaction may have removed the record.
        let last = found.records.iter().find(|mark| mark.offset == known.next - 1);
        found.end < known.next || known.id.is_some() && last.is_some_and(|last| last.id != known.id)
    })
}

/// The writer of a record, if it is not this installation.
pub(super) fn stranger(mark: &Mark, is_known: bool, owner: &Owner) -> Option<String> {
    let slot = mark.id.as_ref().and_then(|id| id.split_once('/')).map(|(slot, _)| slot);
    match (&mark.installation, slot) {
        (Some(id), slot) if *id != owner.installation => {
            Some(format!("another installation (id {id}, slot {})", slot.unwrap_or_default()))
        }
        (Some(_), _) => None,
        // Version 0.2.0 wrote no installation.
        (None, Some(slot)) if slot != owner.slot || !is_known => Some(format!("another installation (slot {slot})")),
        (None, None) if !is_known => Some("another program".to_owned()),
        (None, _) => None,
    }
}

#[cfg(test)]
mod tests;
