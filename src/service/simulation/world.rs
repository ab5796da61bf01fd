//! What the simulation's world is made of, and what a target does with a write.

use crate::apply::{Checkpoint, Mirror};
use crate::model::{Change, Epoch, Generation, Lsn, TargetId, TenantId, Timestamp, User};
use crate::progress::Progress;
use crate::route::{Batch, Queue};
use crate::state::SourceRow;
use fastrand::Rng;
use std::collections::BTreeMap;

/// How many tenants there are.
pub(super) const TENANTS: usize = 3;
/// The targets' mapping never changes here.
pub(super) const MAPPING: &str = "m";

/// A user's version, by which everybody can be told apart; `None` once it is gone.
pub(super) type Version = Option<u64>;

#[derive(Clone)]
pub(super) struct Transaction {
    pub(super) commit: Lsn,
    pub(super) end: Lsn,
    pub(super) changes: Vec<(usize, usize, Version)>,
}

#[derive(Clone, Default)]
pub(super) struct Table {
    pub(super) rows: BTreeMap<usize, Version>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Which of the source's pasts it was written from.
    pub(super) branch: u32,
}

#[derive(Clone)]
pub(super) struct Row {
    pub(super) following: bool,
    pub(super) target_id: Option<TargetId>,
    pub(super) generation: Generation,
    pub(super) position: Lsn,
}

/// What is durable at the source: its log with the slot, and the state.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) log: Vec<Transaction>,
    pub(super) end: Lsn,
    pub(super) next_version: u64,
    pub(super) slot: Option<Lsn>,
    pub(super) state: SourceRow,
    pub(super) epochs: BTreeMap<Epoch, Lsn>,
    pub(super) rows: Vec<Option<Row>>,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) source: Source,
    /// Older points that may be gone back to.
    pub(super) source_before: Option<Source>,
    pub(super) clock: i64,
    /// How often the source went back.
    pub(super) branch: u32,
    pub(super) targets: Vec<Table>,
    pub(super) targets_before: Vec<Option<Table>>,
    pub(super) is_up: [bool; TENANTS],
    pub(super) processes: Vec<Process>,
    /// Statements of processes that are gone or frozen, still on their way to a target.
    pub(super) late: Vec<(usize, Write)>,
}

/// What is sent to a target: rows, and where the checkpoint goes from where.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) rows: Vec<(usize, Version)>,
    pub(super) who: Checkpoint,
    /// `None` for a merge, which replaces everything.
    pub(super) from: Option<Lsn>,
}

pub(super) struct Process {
    pub(super) epoch: Epoch,
    pub(super) generation: Generation,
    pub(super) epochs: BTreeMap<Epoch, Lsn>,
    pub(super) read: usize,
    pub(super) progress: Progress,
    pub(super) held: BTreeMap<usize, Lsn>,
    pub(super) lanes: Vec<Lane>,
    pub(super) frozen: bool,
}

#[derive(Default)]
pub(super) struct Lane {
    pub(super) queue: Queue,
    pub(super) phase: Phase,
    pub(super) row: Option<Row>,
    pub(super) position: Lsn,
    pub(super) pending: Option<Batch>,
    pub(super) has_opened: bool,
}

#[derive(Default, PartialEq)]
pub(super) enum Phase {
    #[default]
    Closed,
    /// It gathers, and its snapshot comes next.
    Joining,
    Following,
    Parked,
}

pub(super) fn tenant(index: usize) -> TenantId {
    TenantId::new(&index.to_string())
}

pub(super) fn change(user: usize, version: Version) -> Change {
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

pub(super) fn said(change: &Change) -> (usize, Version) {
    match change {
        Change::Upsert(user) => (user.id.parse().unwrap(), user.updated_at.map(|at| at.0 as u64)),
        Change::Delete { id, .. } => (id.parse().unwrap(), None),
        Change::Patch(_) | Change::Reread { .. } => unreachable!("nobody makes these here"),
    }
}

impl Source {
    /// The table of a tenant as a snapshot now would show it.
    pub(super) fn table(&self, tenant: usize) -> BTreeMap<usize, Version> {
        let mut rows = BTreeMap::new();
        for (_, user, version) in self.log.iter().flat_map(|t| &t.changes).filter(|(of, ..)| *of == tenant) {
            rows.insert(*user, *version);
        }
        rows.retain(|_, version| version.is_some());
        rows
    }

    pub(super) fn tenant_position(&self, tenant: usize) -> Option<Mirror> {
        self.rows[tenant].as_ref().map(mirror)
    }
}

pub(super) fn mirror(row: &Row) -> Mirror {
    Mirror {
        following: row.following,
        target_id: row.target_id.clone(),
        position: row.position,
        generation: row.generation,
        relation: None,
    }
}

pub(super) fn checkpoint(
    epoch: Epoch,
    generation: Generation,
    index: usize,
    target_id: TargetId,
    position: Lsn,
) -> Checkpoint {
    Checkpoint { tenant: tenant(index), target_id, generation, position, epoch, mapping: MAPPING.into() }
}

pub(super) fn write_of(epoch: Epoch, generation: Generation, index: usize, lane: &Lane, batch: &Batch) -> Write {
    let target_id = lane.row.as_ref().and_then(|row| row.target_id.clone()).unwrap_or(TargetId::new(""));
    let to = batch.end.unwrap_or(lane.position);
    Write {
        rows: batch.entries.values().map(|entry| said(&entry.change)).collect(),
        who: checkpoint(epoch, generation, index, target_id, to),
        from: Some(lane.position),
    }
}

/// The guard, as the statements of a target have it; within a history no user goes back in time by it.
pub(super) fn take(target: &mut Table, write: &Write, branch: u32) -> bool {
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
