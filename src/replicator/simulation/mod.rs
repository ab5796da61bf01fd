//! The decisions of the whole service (progress, queue, standing, history) against a world in memory that breaks in
//! every way that it can: lost replies, crashes, frozen processes whose writes arrive late, parked tenants, targets and
//! a source that go back in time, slots that are lost. Thousands of schedules; `USERS_SYNC_SEED=<number>` plays one again.

mod process;
mod world;

use crate::model::{Epoch, Generation, Lsn};
use crate::state::SourceRow;
use fastrand::Rng;
use std::collections::BTreeMap;
use world::*;

const USERS: usize = 4;
const STEPS: usize = 250;
const SCHEDULES: u64 = 4_000;

impl World {
    fn new(seed: u64) -> World {
        let state = SourceRow {
            generation: Generation(0),
            system_identifier: String::new(),
            timeline: 1,
            confirmed: Lsn(0),
            received: Lsn(0),
            behind: Vec::new(),
            publication: String::new(),
            epoch: Epoch(0),
            holder: String::new(),
            lease_seconds: 0.0,
        };
        let source = Source {
            log: Vec::new(),
            end: Lsn(100),
            next_version: 1,
            slot: None,
            state,
            epochs: BTreeMap::new(),
            rows: vec![None; TENANTS],
        };
        World {
            rng: Rng::with_seed(seed),
            source,
            source_before: None,
            clock: 0,
            branch: 0,
            targets: vec![Table::default(); TENANTS],
            targets_before: vec![None; TENANTS],
            is_up: [true; TENANTS],
            processes: Vec::new(),
            late: Vec::new(),
        }
    }

    fn step(&mut self) {
        let which = self.rng.usize(..TENANTS);
        match self.rng.u8(..100) {
            0..25 => self.commit(),
            25..50 => self.with_process(World::read),
            50..80 => self.with_process(|world, process| world.work(process, which)),
            80..87 => self.with_process(World::confirm),
            87..89 => self.start(),
            89 => self.crash(),
            90 => self.freeze_or_thaw(),
            91 => self.is_up[which] = !self.is_up[which],
            92 => self.with_process(|world, process| world.park(process, which)),
            93 => self.with_process(|world, process| world.ask(process, which)),
            94 => self.late_write(),
            95 => self.targets_before[which] = Some(self.targets[which].clone()),
            96 => self.restore_target(which),
            97 => self.source_before = Some(self.source.clone()),
            98 if self.rng.u8(..4) == 0 => self.restore_source(),
            99 if self.rng.u8(..4) == 0 => self.lose_slot(),
            _ => {}
        }
    }

    fn with_process(&mut self, act: impl FnOnce(&mut World, &mut Process)) {
        // Only the one that holds the slot; a frozen one does nothing.
        let Some(mut process) = self.processes.pop() else { return };
        if !process.frozen {
            act(self, &mut process);
        }
        if process.epoch != Epoch(-1) {
            self.processes.push(process);
        }
    }

    fn commit(&mut self) {
        let changes = (0..self.rng.usize(1..4)).map(|_| {
            let version = (self.rng.u8(..5) > 0).then(|| {
                self.source.next_version += 1;
                self.source.next_version
            });
            (self.rng.usize(..TENANTS), self.rng.usize(..USERS), version)
        });
        let (commit, end) = (Lsn(self.source.end.0 + 10), Lsn(self.source.end.0 + 20));
        let changes = changes.collect();
        self.source.log.push(Transaction { commit, end, changes });
        self.source.end = end;
    }

    /// Whoever is connected to it loses the connection.
    fn restore_target(&mut self, index: usize) {
        let Some(before) = self.targets_before[index].take() else { return };
        self.targets[index] = before;
        self.late.retain(|(of, _)| *of != index);
        for lane in self.processes.iter_mut().map(|process| &mut process.lanes[index]) {
            if lane.phase != Phase::Parked {
                lane.phase = Phase::Closed;
                lane.queue.gather(true);
            }
        }
    }

    /// The source goes back with its slot and its state; what runs loses its connections.
    fn restore_source(&mut self) {
        let Some(before) = self.source_before.take() else { return };
        for mut process in std::mem::take(&mut self.processes) {
            self.give_up(&mut process);
        }
        self.branch += 1;
        // Versions of the time that is gone are not used again, so that they can be told apart.
        let next_version = self.source.next_version;
        self.source = Source { next_version, ..before };
        // Somebody looks at the log before it has grown past what it had been; at the targets, when they are up.
        self.start();
        self.late.clear();
    }

    fn lose_slot(&mut self) {
        for mut process in std::mem::take(&mut self.processes) {
            self.give_up(&mut process);
        }
        // Or somebody makes it anew, or moves it on.
        self.source.slot = self.rng.bool().then_some(self.source.end);
    }

    /// What must hold at any moment.
    fn check(&self, seed: u64, step: usize) {
        let Some(slot) = self.source.slot else { return };
        for index in 0..TENANTS {
            let Some(row) = &self.source.rows[index] else { continue };
            let target = &self.targets[index];
            let Some(checkpoint) = &target.checkpoint else { continue };
            // It follows, as everybody will agree who looks: then all that was confirmed is there.
            let agrees = row.following
                && row.generation == self.source.state.generation
                && checkpoint.generation == row.generation
                && Some(&checkpoint.target_id) == row.target_id.as_ref()
                && checkpoint.position >= row.position
                && !self.source.state.system_identifier.is_empty()
                && slot <= self.source.state.confirmed;
            let lacking = self.source.log.iter().find(|transaction| {
                transaction.end <= slot
                    && transaction.end > checkpoint.position
                    && transaction.changes.iter().any(|(of, ..)| *of == index)
            });
            if let (true, Some(lacking)) = (agrees, lacking) {
                panic!(
                    "USERS_SYNC_SEED={seed} step {step}: confirmed {slot}, but tenant {index} follows from {} and lacks {}",
                    checkpoint.position, lacking.end
                );
            }
        }
    }

    /// Everything is mended, and everybody gets the time that it takes.
    fn settle(&mut self, seed: u64) {
        self.is_up = [true; TENANTS];
        self.late.clear();
        self.start();
        for _ in 0..400 {
            if self.processes.is_empty() {
                self.start();
            }
            self.processes.iter_mut().for_each(|process| process.frozen = false);
            self.with_process(World::read);
            for index in 0..TENANTS {
                self.with_process(|world, process| world.work(process, index));
            }
            self.with_process(World::confirm);
        }
        for index in 0..TENANTS {
            let expected = self.source.table(index);
            let mut held = self.targets[index].rows.clone();
            held.retain(|_, version| version.is_some());
            assert_eq!(held, expected, "USERS_SYNC_SEED={seed}: tenant {index} is not equal at the end");
            assert!(self.source.tenant_position(index).is_some_and(|recorded| recorded.following), "{seed}: {index}");
        }
        assert_eq!(
            self.source.slot,
            Some(self.source.end),
            "USERS_SYNC_SEED={seed}: the slot is held back for nothing"
        );
    }
}

#[test]
fn no_fault_order_loses_a_change_or_turns_a_user_back() {
    let replayed = std::env::var("USERS_SYNC_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = replayed.unwrap_or_else(|| fastrand::u64(..1 << 40));
    let schedules = if replayed.is_some() { 1 } else { SCHEDULES };
    println!("seeds from {first}");
    for seed in first..first + schedules {
        let mut world = World::new(seed);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for step in 0..STEPS {
                world.step();
                world.check(seed, step);
            }
            world.settle(seed);
        }));
        if let Err(failure) = run {
            println!("USERS_SYNC_SEED={seed}");
            std::panic::resume_unwind(failure);
        }
    }
}
