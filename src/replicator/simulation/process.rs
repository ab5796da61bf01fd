//! What a process does, step by step, with the service's own decisions.

use crate::apply::{NIL_TARGET_ID, ObservedTarget, RecordedTarget, Session, TargetAssessment, assess_target};
use crate::model::{Change, Epoch, Lsn, TargetId, Timestamp, Xid};
use crate::progress::Progress;
use crate::replicator::simulation::world::*;
use crate::replicator::source::history::{History, HistoryFacts, decide_history};
use std::collections::BTreeMap;

impl World {
    /// A process starts and takes the slot; who had it before is cut off from it.
    pub(crate) fn start(&mut self) {
        let created = self.source.slot.is_none();
        let from = *self.source.slot.get_or_insert(self.source.end);
        for mut old in std::mem::take(&mut self.processes) {
            self.give_up(&mut old);
        }
        let source = &mut self.source;
        // The clock goes on, whatever goes back.
        self.clock += 1;
        source.state.epoch = Epoch(self.clock.max(source.state.epoch.0 + 1));
        source.epochs.insert(source.state.epoch, source.end);
        let found = HistoryFacts {
            system_identifier: "1",
            timeline: 1,
            slot_created: created,
            confirmed: from,
            flushed: source.end,
            publication: "",
        };
        if let History::New(generation, _) = decide_history(&source.state, &found) {
            source.state.generation = generation;
            source.state.system_identifier = "1".into();
            source.state.confirmed = from;
        }
        let generation = source.state.generation;
        let mut process = Process {
            epoch: source.state.epoch,
            generation,
            epochs: source.epochs.clone(),
            read: source.log.iter().position(|t| t.end > from).unwrap_or(source.log.len()),
            progress: Progress::new(from),
            held: BTreeMap::new(),
            lanes: Vec::new(),
            frozen: false,
        };
        for row in &source.rows {
            let mut lane = TenantHandle { row: row.clone(), ..TenantHandle::default() };
            if row.as_ref().is_some_and(|row| row.following && row.generation == generation) {
                lane.queue.open();
            }
            process.lanes.push(lane);
        }
        self.processes.push(process);
    }

    /// What a process has sent may still arrive when it is gone.
    pub(crate) fn give_up(&mut self, process: &mut Process) {
        for (index, lane) in process.lanes.iter_mut().enumerate() {
            let (Phase::Following, true) = (&lane.phase, self.rng.bool()) else { continue };
            if let Some(batch) = lane.pending.take().or_else(|| lane.queue.take()) {
                let write = write_of(process.epoch, process.generation, index, lane, &batch);
                self.late.push((index, write));
            }
        }
    }

    pub(crate) fn crash(&mut self) {
        if let Some(mut process) = self.processes.pop() {
            self.give_up(&mut process);
        }
    }

    pub(crate) fn freeze_or_thaw(&mut self) {
        if let Some(process) = self.processes.last_mut() {
            process.frozen = !process.frozen;
        }
    }

    pub(crate) fn read(&mut self, process: &mut Process) {
        let Some(transaction) = self.source.log.get(process.read).cloned() else {
            process.progress.idle(self.source.end);
            return;
        };
        process.read += 1;
        let mut queued = Vec::new();
        for index in 0..TENANTS {
            let of_tenant = transaction.changes.iter().filter(|(of, ..)| *of == index);
            let mut changes: Vec<Change> = of_tenant.map(|(_, user, version)| change(*user, *version)).collect();
            if changes.is_empty() {
                continue;
            }
            let pushed = process.lanes[index].queue.push(
                &mut changes,
                transaction.commit,
                Xid(transaction.end.0 as u32),
                Timestamp(0),
                Some(transaction.end),
            );
            if pushed == crate::route::Pushed::Queued {
                queued.push(tenant(index));
            }
        }
        process.progress.commit(transaction.end, &queued);
    }

    /// One step of a tenant's task.
    pub(crate) fn work(&mut self, process: &mut Process, index: usize) {
        match process.lanes[index].phase {
            Phase::Closed | Phase::Parked => self.open(process, index),
            Phase::Joining => self.snapshot(process, index),
            Phase::Following => self.apply(process, index),
        }
    }

    pub(crate) fn open(&mut self, process: &mut Process, index: usize) {
        if !self.is_up[index] {
            return;
        }
        let id = tenant(index);
        let decide = |world: &World, lane: &TenantHandle, epochs| {
            let recorded = lane.row.as_ref().map(recorded_target);
            let recorded =
                recorded.map(|recorded| RecordedTarget { position: recorded.position.max(lane.position), ..recorded });
            let target = &world.targets[index];
            let observed = ObservedTarget {
                checkpoint: target.checkpoint.clone(),
                created: false,
                has_rows: !target.rows.is_empty(),
                relation: None,
            };
            let (generation, epoch) = (process.generation, process.epoch);
            let session = Session { generation, epoch, mapping: MAPPING, epochs };
            assess_target(&id, recorded.as_ref(), &observed, &session)
        };
        let lane = &process.lanes[index];
        let mut standing = decide(self, lane, (!lane.has_opened).then_some(&process.epochs));
        if matches!(standing, TargetAssessment::Resume(_) | TargetAssessment::Snapshot(_)) {
            // The fence.
            self.end_merges(index);
            if let Some(checkpoint) = &mut self.targets[index].checkpoint {
                checkpoint.epoch = checkpoint.epoch.max(process.epoch);
            }
            standing = decide(self, lane, None);
        }
        process.lanes[index].has_opened |=
            matches!(standing, TargetAssessment::Resume(_) | TargetAssessment::Snapshot(_));
        match standing {
            TargetAssessment::Resume(position) => {
                let lane = &mut process.lanes[index];
                if let Some(mut batch) = lane.pending.take() {
                    batch.entries.retain(|_, entry| entry.commit_lsn >= position);
                    lane.pending = batch.end.is_some_and(|end| end > position).then_some(batch);
                }
                lane.position = position;
                lane.queue.discard_applied(position);
                lane.queue.gather(false);
                lane.phase = Phase::Following;
                process.progress.acknowledge(&id, position);
                process.held.insert(index, position);
            }
            TargetAssessment::Snapshot(_) => {
                let known = process.lanes[index].row.as_ref().and_then(|row| row.target_id.clone());
                let found = self.targets[index].checkpoint.as_ref().map(|checkpoint| checkpoint.target_id.clone());
                let target_id = known.filter(|known| found.as_ref().is_none_or(|found| found == known));
                let target_id = target_id.unwrap_or_else(|| TargetId::new(&format!("{index}-{}", self.rng.u64(..))));
                if !self.put(process, index, false, Some(target_id), Lsn::ZERO) {
                    return;
                }
                let lane = &mut process.lanes[index];
                (lane.pending, lane.position, lane.phase) = (None, Lsn::ZERO, Phase::Joining);
                lane.queue.open();
                process.progress.join(&id);
            }
            // The state may have gone back to before it knew the tenant. A person looks, and hands the target over.
            TargetAssessment::Park(reason) => {
                assert!(self.branch > 0, "nobody else writes here, but: {reason}");
                if let Some(checkpoint) = &mut self.targets[index].checkpoint {
                    (checkpoint.target_id, checkpoint.epoch) = (TargetId::new(NIL_TARGET_ID), Epoch(0));
                }
            }
            TargetAssessment::Superseded(seen) if self.source.state.epoch == process.epoch => {
                self.break_history(process, seen)
            }
            TargetAssessment::Superseded(_) => process.epoch = Epoch(-1),
            TargetAssessment::SourceRewound(seen) => self.break_history(process, seen),
        }
    }

    pub(crate) fn break_history(&mut self, process: &mut Process, seen: Epoch) {
        if self.source.state.epoch == process.epoch {
            self.source.state.system_identifier = String::new();
            self.source.state.epoch = Epoch(self.source.state.epoch.0.max(seen.0) + 1);
        }
        process.epoch = Epoch(-1);
    }

    /// A write of the state: only by the newest process.
    pub(crate) fn put(
        &mut self,
        process: &mut Process,
        index: usize,
        following: bool,
        target_id: Option<TargetId>,
        position: Lsn,
    ) -> bool {
        if self.source.state.epoch != process.epoch {
            process.epoch = Epoch(-1);
            return false;
        }
        let row = Row { following, target_id, generation: process.generation, position };
        self.source.rows[index] = Some(row.clone());
        process.lanes[index].row = Some(row);
        true
    }

    /// Snapshot and merge: the target's answer may be lost, before or after it has committed.
    pub(crate) fn snapshot(&mut self, process: &mut Process, index: usize) {
        let position = self.source.end;
        let rows = self.source.table(index).into_iter().collect();
        let Some(target_id) = process.lanes[index].row.as_ref().and_then(|row| row.target_id.clone()) else { return };
        let who = checkpoint(process.epoch, process.generation, index, target_id.clone(), position);
        match self.send(index, Write { rows, who, from: None }) {
            Some(true) if self.put(process, index, true, Some(target_id), position) => {
                let lane = &mut process.lanes[index];
                lane.position = position;
                lane.queue.discard_applied(position);
                lane.queue.gather(false);
                lane.phase = Phase::Following;
                process.progress.joined(&tenant(index), position);
                process.held.insert(index, position);
            }
            Some(true) => {}
            Some(false) | None => process.lanes[index].phase = Phase::Closed,
        }
    }

    pub(crate) fn apply(&mut self, process: &mut Process, index: usize) {
        let lane = &mut process.lanes[index];
        let Some(batch) = lane.pending.take().or_else(|| lane.queue.take()) else { return };
        let write = write_of(process.epoch, process.generation, index, lane, &batch);
        let end = write.who.position;
        match self.send(index, write) {
            Some(true) => {
                let lane = &mut process.lanes[index];
                lane.queue.finish(batch.bytes);
                lane.position = end;
                process.progress.acknowledge(&tenant(index), end);
                process.held.insert(index, end);
            }
            Some(false) | None => {
                let lane = &mut process.lanes[index];
                lane.pending = Some(batch);
                lane.phase = Phase::Closed;
                lane.queue.gather(true);
            }
        }
    }

    /// A merge holds the checkpoint's lock from its first statement on: whoever wants it waits until that has committed,
    /// or ends it.
    pub(crate) fn end_merges(&mut self, index: usize) {
        let of_it = |(of, write): &(usize, Write)| *of == index && write.from.is_none();
        let (merges, others) = std::mem::take(&mut self.late).into_iter().partition(of_it);
        self.late = others;
        for (_, write) in merges {
            if self.rng.bool() {
                take(&mut self.targets[index], &write, self.branch);
            }
        }
    }

    /// Whether the target took it; `None` where no answer came back.
    pub(crate) fn send(&mut self, index: usize, write: Write) -> Option<bool> {
        self.end_merges(index);
        match (self.is_up[index], self.rng.u8(..20)) {
            (false, _) | (true, 0) => None,
            (true, 1) => {
                self.late.push((index, write));
                None
            }
            (true, 2) => {
                take(&mut self.targets[index], &write, self.branch);
                None
            }
            (true, _) => Some(take(&mut self.targets[index], &write, self.branch)),
        }
    }

    pub(crate) fn late_write(&mut self) {
        if !self.late.is_empty() {
            let (index, write) = self.late.swap_remove(self.rng.usize(..self.late.len()));
            take(&mut self.targets[index], &write, self.branch);
        }
    }

    /// The state first, then the slot; the message to the source may be lost.
    pub(crate) fn confirm(&mut self, process: &mut Process) {
        let safe = process.progress.safe();
        if self.source.state.epoch != process.epoch {
            process.epoch = Epoch(-1);
            return;
        }
        self.source.state.confirmed = self.source.state.confirmed.max(safe);
        for (index, position) in std::mem::take(&mut process.held) {
            if let Some(row) = &mut self.source.rows[index] {
                row.position = row.position.max(position);
            }
        }
        process.progress.confirm(safe);
        if self.rng.u8(..4) > 0 {
            self.source.slot = self.source.slot.map(|slot| slot.max(safe));
        }
    }

    pub(crate) fn park(&mut self, process: &mut Process, index: usize) {
        let lane = &process.lanes[index];
        if lane.phase == Phase::Parked {
            return;
        }
        process.progress.retain(&tenant(index));
        process.lanes[index].queue.close();
        let target_id = process.lanes[index].row.as_ref().and_then(|row| row.target_id.clone());
        if self.put(process, index, false, target_id, Lsn::ZERO) {
            let lane = &mut process.lanes[index];
            (lane.pending, lane.position, lane.phase) = (None, Lsn::ZERO, Phase::Parked);
            process.progress.release(&tenant(index));
            process.held.remove(&index);
        }
    }

    /// A resync is asked for.
    pub(crate) fn ask(&mut self, process: &mut Process, index: usize) {
        process.progress.retain(&tenant(index));
        process.lanes[index].queue.close();
        let target_id = process.lanes[index].row.as_ref().and_then(|row| row.target_id.clone());
        if self.put(process, index, false, target_id, Lsn::ZERO) {
            let lane = &mut process.lanes[index];
            (lane.pending, lane.position, lane.phase) = (None, Lsn::ZERO, Phase::Closed);
        }
    }
}
