//! The workers of the service, with their queues, progress and decisions, in a world in memory where everything can break:
//! answers get lost, processes crash or freeze and write late, tenants are parked, targets and the source are restored, slots
//! are lost, owners of targets change checkpoints. Thousands of schedules; `USERS_SYNC_SEED=<number>` replays one.

mod access;
mod coverage;
mod process;
mod world;

use crate::apply::{Authenticity, NIL_TARGET_ID};
use crate::model::{Epoch, ParkCause, Reason, RestartSignal, TargetId, TenantIdx};
use crate::replicator::error::ServiceError;
use crate::state::{Pause, Request, RequestId, RequestKind, TenantState};
use coverage::Coverage;
use process::Process;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use world::{KEY, Shared, TENANT_IDS, TENANTS, each, pick};

const USERS: usize = 4;
const STEPS: usize = 300;
const SCHEDULES: u64 = 2_000;
/// Rounds of the end, in which everything works. Parked tenants wait the longest.
const ROUNDS: usize = 400;

/// The processes of a world.
struct Simulation {
    world: Shared,
    /// The process that has the slot.
    current: Option<Process>,
    /// Processes that have lost the slot, and do not know it yet.
    former: Vec<Process>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        Simulation { world: Shared::new(seed), current: None, former: Vec::new() }
    }

    fn roll(&self, sides: u8) -> u8 {
        self.world.lock().rng.u8(..sides)
    }

    async fn step(&mut self) {
        let which = pick(&mut self.world.lock().rng);
        match self.roll(100) {
            0..13 => self.world.lock().commit(USERS),
            13..30 => self.run(Process::read),
            30..60 => TENANT_IDS.indexes().for_each(|index| self.try_run(|process| process.work(index))),
            60..76 => (0..TENANTS).for_each(|_| self.world.lock().deliver()),
            76..82 => self.run(Process::serve_joins),
            82..88 => self.try_run(Process::record),
            88..92 => self.run(Process::report),
            92..96 => self.run_former(which),
            _ => self.fail(which),
        }
        self.recover(which);
        let pause = match self.roll(200) {
            0 => Duration::from_secs(70),
            1..10 => Duration::from_secs(2),
            _ => Duration::from_millis(50),
        };
        tokio::time::advance(pause).await;
    }

    /// Something breaks.
    fn fail(&mut self, which: TenantIdx) {
        match self.roll(19) {
            0..2 => self.start(),
            2 => self.current = None,
            3 => {
                if let Some(process) = &mut self.current {
                    process.is_frozen = true;
                }
            }
            4..6 => self.world.lock().take_down(which),
            6..8 => self.interrupt(which),
            8 if self.roll(3) == 0 => self.request(which, RequestKind::Resume),
            8 => self.request(which, RequestKind::Resync { allow_deletes: false, adopt: None }),
            9..11 => self.world.lock().restore_target(which),
            11 => self.lose_newest(),
            12 => self.world.lock().back_up_source(),
            13 if self.roll(2) == 0 => self.restore_source(),
            14 if self.roll(2) == 0 => self.lose_slot(),
            15 => self.run(Process::drain),
            16 => self.world.lock().tamper(which),
            17 => self.pause(which),
            _ => {}
        }
    }

    /// What broke before may work again.
    fn recover(&mut self, which: TenantIdx) {
        if self.roll(8) > 0 {
            return;
        }
        {
            let mut world = self.world.lock();
            world.is_up[which] = true;
            if world.rng.u8(..4) == 0 {
                world.targets_before[which] = Some(world.targets[which].clone());
            }
        }
        match &mut self.current {
            None => self.start(),
            Some(process) => process.is_frozen = false,
        }
        self.hand_over();
    }

    /// Lets the current process do something, unless it is frozen.
    fn run(&mut self, act: impl FnOnce(&mut Process)) {
        if let Some(process) = self.current.as_mut().filter(|process| !process.is_frozen) {
            act(process);
        }
    }

    /// As [`Simulation::run`]. A session that ends in an error ends the process.
    fn try_run(&mut self, act: impl FnOnce(&mut Process) -> Result<(), ServiceError>) {
        let Some(process) = self.current.as_mut().filter(|process| !process.is_frozen) else { return };
        let result = act(process);
        if result.is_err() || process.is_drained() {
            self.current = None;
            self.world.lock().coverage.failed_sessions += u64::from(result.is_err());
        }
    }

    /// A process starts and takes the slot. The one before may not have noticed it.
    fn start(&mut self) {
        if let Some(process) = self.current.take()
            && self.roll(2) == 0
        {
            self.former.push(process);
        }
        self.current = Some(Process::start(&self.world));
    }

    fn run_former(&mut self, which: TenantIdx) {
        let Some(mut process) = self.former.pop() else { return };
        let result = match self.roll(8) {
            0 => return,
            1 => {
                process.serve_joins();
                Ok(())
            }
            2 => process.record(),
            _ => process.work(which),
        };
        if result.is_ok() {
            self.former.push(process);
        }
    }

    fn interrupt(&mut self, which: TenantIdx) {
        let signals = [RestartSignal::OverBudget, RestartSignal::Truncated];
        let signal = signals[usize::from(self.roll(2))];
        self.run(|process| process.interrupt(which, signal));
    }

    fn request(&mut self, which: TenantIdx, kind: RequestKind) {
        let mut world = self.world.lock();
        let source = &mut world.source;
        source.next_request += 1;
        let request = Request { id: RequestId(source.next_request), tenant: TENANT_IDS[which].clone(), kind };
        source.requests.push(request);
    }

    /// A person pauses the tenant, or resumes it.
    fn pause(&self, which: TenantIdx) {
        let tenant = TENANT_IDS[which].clone();
        let pauses = &mut self.world.lock().source.pauses;
        if pauses.remove(&tenant).is_none() {
            let pause = Pause { reason: String::new(), by: String::new(), since_seconds: 0.0, is_effective: false };
            pauses.insert(tenant, pause);
        }
    }

    /// The source goes back with its slot and its state. What runs loses its connections to them, and may still write to
    /// targets what it has read.
    fn restore_source(&mut self) {
        let Some(before) = self.world.lock().source_before.take() else { return };
        self.former.extend(self.current.take());
        {
            let mut world = self.world.lock();
            world.branch += 1;
            // Versions of the lost branch are not used again, so that they can be told apart.
            let next_version = world.source.next_version;
            world.source = world::Source { next_version, ..before };
        }
        // A process looks at the log before it has grown past what it had been; at the targets, when they are up.
        self.start();
    }

    /// The source loses its newest transactions while they are on their way to the targets.
    fn lose_newest(&mut self) {
        self.world.lock().back_up_source();
        self.world.lock().commit(USERS);
        for _ in 0..3 {
            self.run(Process::read);
            TENANT_IDS.indexes().for_each(|index| self.try_run(|process| process.work(index)));
        }
        self.restore_source();
    }

    /// The slot is dropped, or another program creates or moves it.
    fn lose_slot(&mut self) {
        (self.current, self.former) = (None, Vec::new());
        let mut world = self.world.lock();
        world.source.slot = world.rng.bool().then_some(world.source.end);
        world.source.slot_is_foreign = true;
    }

    /// A person looks at targets that seem to belong to another installation, and hands them over. That may only be needed
    /// once the state has gone back to before it knew the target.
    fn hand_over(&self) {
        let mut world = self.world.lock();
        for (index, tenant) in TENANT_IDS.iter() {
            let Some(row) = world.source.rows.get_mut(tenant) else { continue };
            if (row.state, row.reason_code) != (TenantState::Parked, Some(Reason::Park(ParkCause::Foreign))) {
                continue;
            }
            row.reason_code = None;
            let reason = row.reason.clone();
            let is_expected = world.branch > 0 || world.tampered[index];
            assert!(is_expected, "no other installation writes here, but: {reason:?}");
            if let Some(checkpoint) = &mut world.targets[index].checkpoint {
                (checkpoint.target_id, checkpoint.epoch) = (TargetId::new(NIL_TARGET_ID), Epoch(0));
            }
        }
    }

    /// What must hold at any moment.
    fn check(&self, step: usize) {
        let world = self.world.lock();
        assert!(!world.was_given_up, "step {step}: the source never went back, but its history was given up");
        let source = &world.source;
        let Some(slot) = source.slot else { return };
        assert!(
            slot <= source.state.confirmed || source.slot_is_foreign,
            "step {step}: {slot} was confirmed to the source before the state had it"
        );
        for (index, tenant) in TENANT_IDS.iter() {
            let Some(row) = source.rows.get(tenant) else { continue };
            let target = &world.targets[index];
            let Some(checkpoint) = &target.checkpoint else { continue };
            // It follows, as every process will find: then all that was confirmed is there.
            let follows = row.state == TenantState::Following
                && checkpoint.authenticity(Some(&KEY)) == Authenticity::Verified
                && row.generation == source.state.generation
                && checkpoint.generation == row.generation
                && Some(&checkpoint.target_id) == row.target_id.as_ref()
                && checkpoint.position >= row.position
                && !source.state.system_identifier.is_empty()
                && slot <= source.state.confirmed;
            let lacking = source.log.iter().find(|transaction| {
                transaction.end <= slot
                    && transaction.end > checkpoint.position
                    && transaction.writes.iter().any(|write| write.tenant == index)
            });
            if follows && let Some(lacking) = lacking {
                panic!(
                    "step {step}: confirmed {slot}, but tenant {tenant} follows from {} and lacks {}",
                    checkpoint.position, lacking.end
                );
            }
        }
    }

    /// Everything works, and every tenant gets the time that it needs.
    async fn run_to_quiescence(&mut self) {
        self.former.clear();
        {
            let mut world = self.world.lock();
            world.is_up = each(true);
            world.source.pauses.clear();
            world.in_flight.clear();
        }
        self.start();
        self.former.clear();
        // Nothing else contacts a target that sleeps: what was restored meanwhile is noticed with the next change.
        self.world.lock().commit_to_all();
        for _ in 0..ROUNDS {
            if self.current.is_none() {
                self.start();
            }
            self.run(Process::read);
            self.run(Process::serve_joins);
            self.try_run(Process::record);
            for index in TENANT_IDS.indexes() {
                self.try_run(|process| process.work(index));
                self.world.lock().deliver();
            }
            self.run(Process::report);
            self.hand_over();
            if self.lacking().is_none() {
                return;
            }
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        panic!("{}", self.lacking().unwrap_or_default());
    }

    /// What is not as it should be at the end.
    fn lacking(&self) -> Option<String> {
        let world = self.world.lock();
        for (index, tenant) in TENANT_IDS.iter() {
            let mut held = world.targets[index].rows.clone();
            held.retain(|_, version| version.is_some());
            if held != world.source.table(index) {
                let (row, checkpoint) = (world.source.rows.get(tenant), &world.targets[index].checkpoint);
                return Some(format!("tenant {tenant} is not equal at the end: {checkpoint:?}, {row:?}"));
            }
            let row = world.source.rows.get(tenant);
            if row.is_none_or(|row| row.state != TenantState::Following) {
                return Some(format!("tenant {tenant} does not follow at the end: {row:?}"));
            }
        }
        let (slot, end) = (world.source.slot, world.source.end);
        (slot != Some(end)).then(|| format!("the slot is held back for nothing: {slot:?}, not {end}"))
    }
}

/// Plays a schedule to its end.
async fn play(seed: u64) -> Coverage {
    let mut simulation = Simulation::new(seed);
    for step in 0..STEPS {
        simulation.step().await;
        simulation.check(step);
    }
    simulation.run_to_quiescence().await;
    simulation.check(STEPS);
    let world = simulation.world.lock();
    world.coverage
}

#[test]
fn nothing_is_lost_or_turned_back_whatever_breaks_in_whatever_order() {
    let replayed = std::env::var("USERS_SYNC_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = replayed.unwrap_or_else(|| fastrand::u64(..1 << 40));
    let schedules = if replayed.is_some() { 1 } else { SCHEDULES };
    println!("seeds from {first}");
    // One thread and no I/O: the seed alone decides what happens.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let mut total = Coverage::default();
    for seed in first..first + schedules {
        let played = std::panic::catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(seed))));
        match played {
            Ok(coverage) => total.add(coverage),
            Err(failure) => {
                println!("USERS_SYNC_SEED={seed}");
                std::panic::resume_unwind(failure);
            }
        }
    }
    println!("{total:?}");
    if replayed.is_none() {
        assert!(total.smallest() > SCHEDULES / 50, "hardly simulated: {total:?}");
    }
}
