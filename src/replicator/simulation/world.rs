//! What the simulation's world is made of, and what a target does with a write.

use crate::apply::{Checkpoint, RecordedTarget};
use crate::model::{Change, Epoch, Generation, Lsn, TargetId, TenantId, Timestamp, User};
use crate::progress::Progress;
use crate::route::{Batch, Queue};
use crate::state::SourceRow;
use fastrand::Rng;
use std::collections::BTreeMap;

/// How many tenants there are.
pub(crate) const TENANTS: usize = 3;
/// The targets' mapping never changes here.
pub(crate) const MAPPING: &str = "m";

/// A user's version, by which everybody can be told apart; `None` once it is gone.
pub(crate) type Version = Option<u64>;

#[derive(Clone)]
pub(crate) struct Transaction {
    pub(crate) commit: Lsn,
    pub(crate) end: Lsn,
    pub(crate) changes: Vec<(usize, usize, Version)>,
}

#[derive(Clone, Default)]
pub(crate) struct Table {
    pub(crate) rows: BTreeMap<usize, Version>,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Which of the source's pasts it was written from.
    pub(crate) branch: u32,
}

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) following: bool,
    pub(crate) target_id: Option<TargetId>,
    pub(crate) generation: Generation,
    pub(crate) position: Lsn,
}

/// What is durable at the source: its log with the slot, and the state.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) log: Vec<Transaction>,
    pub(crate) end: Lsn,
    pub(crate) next_version: u64,
    pub(crate) slot: Option<Lsn>,
    pub(crate) state: SourceRow,
    pub(crate) epochs: BTreeMap<Epoch, Lsn>,
    pub(crate) rows: Vec<Option<Row>>,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) source: Source,
    /// Older points that may be gone back to.
    pub(crate) source_before: Option<Source>,
    pub(crate) clock: i64,
    /// How often the source went back.
    pub(crate) branch: u32,
    pub(crate) targets: Vec<Table>,
    pub(crate) targets_before: Vec<Option<Table>>,
    pub(crate) is_up: [bool; TENANTS],
    pub(crate) processes: Vec<Process>,
    /// Statements of processes that are gone or frozen, still on their way to a target.
    pub(crate) late: Vec<(usize, Write)>,
}

/// What is sent to a target: rows, and where the checkpoint goes from where.
#[derive(Clone)]
pub(crate) struct Write {
    pub(crate) rows: Vec<(usize, Version)>,
    pub(crate) who: Checkpoint,
    /// `None` for a merge, which replaces everything.
    pub(crate) from: Option<Lsn>,
}

pub(crate) struct Process {
    pub(crate) epoch: Epoch,
    pub(crate) generation: Generation,
    pub(crate) epochs: BTreeMap<Epoch, Lsn>,
    pub(crate) read: usize,
    pub(crate) progress: Progress,
    pub(crate) held: BTreeMap<usize, Lsn>,
    pub(crate) lanes: Vec<TenantHandle>,
    pub(crate) frozen: bool,
}

#[derive(Default)]
pub(crate) struct TenantHandle {
    pub(crate) queue: Queue,
    pub(crate) phase: Phase,
    pub(crate) row: Option<Row>,
    pub(crate) position: Lsn,
    pub(crate) pending: Option<Batch>,
    pub(crate) has_opened: bool,
}

#[derive(Default, PartialEq)]
pub(crate) enum Phase {
    #[default]
    Closed,
    /// It gathers, and its snapshot comes next.
    Joining,
    Following,
    Parked,
}

pub(crate) fn tenant(index: usize) -> TenantId {
    TenantId::new(&index.to_string())
}

pub(crate) fn change(user: usize, version: Version) -> Change {
    let id = user.to_string().into();
    match version {
        None => Change::Delete { id, at: Timestamp(0) },
        Some(version) => Change::Upsert(User {
            id,
            raw_json: String::new(),
            name: None,
            email: None,
            created_at: None,
            updated_at: Some(Timestamp(version as i64)),
            deleted_at: None,
            updated_at_derived: false,
        }),
    }
}

pub(crate) fn said(change: &Change) -> (usize, Version) {
    match change {
        Change::Upsert(user) => (user.id.parse().unwrap(), user.updated_at.map(|at| at.0 as u64)),
        Change::Delete { id, .. } => (id.parse().unwrap(), None),
        Change::Patch(_) | Change::Reread { .. } => unreachable!("nobody makes these here"),
    }
}

impl Source {
    /// The table of a tenant as a snapshot now would show it.
    pub(crate) fn table(&self, tenant: usize) -> BTreeMap<usize, Version> {
        let mut rows = BTreeMap::new();
        for (_, user, version) in self.log.iter().flat_map(|t| &t.changes).filter(|(of, ..)| *of == tenant) {
            rows.insert(*user, *version);
        }
        rows.retain(|_, version| version.is_some());
        rows
    }

    pub(crate) fn tenant_position(&self, tenant: usize) -> Option<RecordedTarget> {
        self.rows[tenant].as_ref().map(recorded_target)
    }
}

pub(crate) fn recorded_target(row: &Row) -> RecordedTarget {
    RecordedTarget {
        following: row.following,
        target_id: row.target_id.clone(),
        position: row.position,
        generation: row.generation,
        relation: None,
    }
}

pub(crate) fn checkpoint(
    epoch: Epoch,
    generation: Generation,
    index: usize,
    target_id: TargetId,
    position: Lsn,
) -> Checkpoint {
    Checkpoint { tenant: tenant(index), target_id, generation, position, epoch, mapping: MAPPING.into() }
}

pub(crate) fn write_of(
    epoch: Epoch,
    generation: Generation,
    index: usize,
    lane: &TenantHandle,
    batch: &Batch,
) -> Write {
    let target_id = lane.row.as_ref().and_then(|row| row.target_id.clone()).unwrap_or(TargetId::new(""));
    let to = batch.end.unwrap_or(lane.position);
    Write {
        rows: batch.entries.values().map(|entry| said(&entry.change)).collect(),
        who: checkpoint(epoch, generation, index, target_id, to),
        from: Some(lane.position),
    }
}

/// The guard, as the statements of a target have it; within a history no user goes back in time by it.
pub(crate) fn take(target: &mut Table, write: &Write, branch: u32) -> bool {
    let admits = match (&target.checkpoint, write.from) {
        (Some(found), Some(from)) => {
            found.tenant == write.who.tenant
                && found.target_id == write.who.target_id
                && found.generation == write.who.generation
                && found.position == from
                && found.epoch <= write.who.epoch
        }
        (None, Some(_)) => false,
        (Some(found), None) => {
            found.tenant == write.who.tenant
                && found.epoch <= write.who.epoch
                && (found.generation != write.who.generation
                    || found.target_id != write.who.target_id
                    || found.position <= write.who.position)
        }
        (None, None) => true,
    };
    if !admits {
        return false;
    }
    let same_history = std::mem::replace(&mut target.branch, branch) == branch;
    if write.from.is_none() {
        let absent: Vec<usize> = target.rows.keys().copied().collect();
        for user in absent {
            if !write.rows.iter().any(|(written, _)| *written == user) {
                target.rows.insert(user, None);
            }
        }
    }
    for (user, version) in &write.rows {
        let before = target.rows.insert(*user, *version).flatten();
        if let (Some(before), Some(after), true) = (before, *version, same_history) {
            let is_replay = write.from.is_some() && before == after;
            assert!(before <= after && !is_replay, "user {user} went from version {before} to {after}");
        }
    }
    target.checkpoint = Some(write.who.clone());
    true
}
