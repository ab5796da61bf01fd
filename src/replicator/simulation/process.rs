//! A process of the simulation: a session's context with the workers of its tenants, and what the rest of a session does for
//! them. Each call lets one part of it run for a moment.

use crate::config::{Config, Env, parse};
use crate::model::{Anchor, ByTenant, Epoch, Lsn, ReceivedHistory, RestartSignal, TenantIdx, Timestamp, User, Xid};
use crate::replicator::error::ServiceError;
use crate::replicator::session::apply_turns::ApplyTurns;
use crate::replicator::session::context::{SessionContext, SessionStart};
use crate::replicator::session::positions::record_once;
use crate::replicator::session::tenants::TenantHandle;
use crate::replicator::simulation::access::{SimulatedConnector, SimulatedState};
use crate::replicator::simulation::world::{Shared, TENANT_IDS, TENANTS, Transaction, World, change, each, user};
use crate::replicator::snapshotter::coordinator::{JoinRequest, SnapshotShare};
use crate::replicator::source::history::{History, HistoryFacts, decide_history};
use crate::replicator::source::shape::KnownShape;
use crate::replicator::tenant::phase::Phase;
use crate::replicator::tenant::{Sleeper, Worker};
use crate::route::{Memory, Pushed};
use crate::snapshot::RowReceiver;
use crate::state::TenantState;
use crate::status::process::ProcessStatus;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::sync::{Arc, LazyLock};
use tokio::sync::mpsc;

/// The publication never changes here.
const PUBLICATION: &str = "";
/// The largest future of a tenant's worker, in bytes. One that waits has no other one.
const MAX_WAITING_SIZE: usize = 2048;

type Context = SessionContext<SimulatedState>;
type Task<T> = BoxFuture<'static, Result<T, ServiceError>>;
type WorkerTask = Task<Option<Sleeper>>;

pub(crate) struct Process {
    world: Shared,
    /// The branch of the source's history from which it reads.
    branch: u32,
    context: Arc<Context>,
    workers: ByTenant<Option<WorkerTask>>,
    /// The tenants without a task for which something waits.
    roused: mpsc::UnboundedReceiver<Sleeper>,
    rouse: mpsc::UnboundedSender<Sleeper>,
    requests: mpsc::Sender<JoinRequest>,
    /// A write of the positions to the state that has begun.
    recording: Option<Task<()>>,
    joins: mpsc::Receiver<JoinRequest>,
    /// The snapshot of a slot that this process has created, until it is used.
    created: Option<Snapshot>,
    /// Index of the next transaction in the source's log.
    next: usize,
    /// The number of its writes that were read already.
    read_writes: usize,
    /// The tenants with changes among those.
    affected: ByTenant<bool>,
    pub(crate) is_frozen: bool,
}

/// The tables of all tenants at a position of the source.
struct Snapshot {
    position: Lsn,
    users: ByTenant<Vec<User>>,
}

impl Process {
    /// Starts a process that has acquired the slot: raises the epoch, reads the state, and starts the workers.
    pub(crate) fn start(shared: &Shared) -> Process {
        let mut world = shared.lock();
        let created = world.source.slot.is_none();
        let branch = world.branch;
        let source = &mut world.source;
        let from = *source.slot.get_or_insert(source.end);
        // The clock goes on, whatever goes back.
        world.clock += 1;
        let clock = world.clock;
        let source = &mut world.source;
        let epoch = Epoch(clock.max(source.state.epoch.0 + 1));
        source.state.epoch = epoch;
        source.epochs.insert(epoch, source.end);
        let found = HistoryFacts {
            system_identifier: "1",
            timeline: 1,
            slot_created: created,
            confirmed: from,
            flushed: source.end,
            publication: PUBLICATION,
            remembered: ReceivedHistory::default(),
        };
        if let History::New(generation, _) = decide_history(&source.state, &found) {
            source.state.generation = generation;
            source.state.system_identifier = "1".into();
            source.state.confirmed = from;
        }
        source.slot_is_foreign = false;
        let generation = source.state.generation;
        let start = SessionStart {
            generation,
            confirmed: from,
            source_start: branch.to_string(),
            publication: PUBLICATION.to_owned(),
            epochs: source.epochs.clone(),
            holder: String::new(),
            shape: KnownShape::default(),
            anchor: Anchor::default(),
            written: from,
            topic: None,
            turns: ApplyTurns::new(),
        };
        let pauses = source.pauses.clone();
        let (rows, next) =
            (source.rows.clone(), source.log.iter().position(|t| t.end > from).unwrap_or(source.log.len()));
        let created = created.then(|| Snapshot::take(&world));
        drop(world);

        let (config, memory, status) = (CONFIG.clone(), Arc::new(Memory::new(usize::MAX)), STATUS.clone());
        let handles = config.tenants.iter().map(|tenant| {
            let row = rows.get(&tenant.id).filter(|row| row.generation == generation);
            TenantHandle::new(tenant.clone(), usize::MAX, memory.clone(), Arc::default(), row)
        });
        let handles = handles.collect();
        let state = SimulatedState { world: shared.clone(), epoch };
        let context = SessionContext::new(config, state, start, handles, memory, "", status);
        let context = Arc::new(context);
        let (requests, joins) = mpsc::channel(TENANTS);
        let workers = context.tenants.all();
        let workers = workers.iter().map(|(index, handle)| {
            if created.is_some() {
                context.progress().join(&handle.tenant.id);
            }
            if created.is_some() || handle.state() == TenantState::Following {
                handle.mailbox.open();
            }
            let connector = SimulatedConnector { world: shared.clone(), branch };
            handle.set_pause(pauses.get(&handle.tenant.id));
            let row = rows.get(&handle.tenant.id).cloned();
            let mut worker = Worker::new(context.clone(), connector, index, requests.clone(), row);
            let phase = worker.first_phase(created.is_some());
            Some(task_of(worker, phase))
        });
        let workers = workers.collect();
        let (rouse, roused) = mpsc::unbounded_channel();
        Process {
            world: shared.clone(),
            branch,
            context,
            workers,
            roused,
            rouse,
            requests,
            recording: None,
            joins,
            created,
            next,
            read_writes: 0,
            affected: each(false),
            is_frozen: false,
        }
    }

    /// Reads the next transaction of the log, or a part of it, into the mailboxes.
    pub(crate) fn read(&mut self) {
        let Some(transaction) = self.world.lock().source.log.get(self.next).cloned() else {
            let end = self.world.lock().source.end;
            return self.context.progress().idle(end);
        };
        let Transaction { commit, end, writes } = transaction;
        let rest = &writes[self.read_writes..];
        let is_part = rest.len() > 1 && self.world.lock().rng.u8(..4) == 0;
        let part = if is_part { &rest[..1] } else { rest };
        let mut queued = Vec::new();
        for (index, handle) in self.context.tenants.all().iter() {
            let of_tenant = part.iter().filter(|write| write.tenant == index);
            let mut changes: Vec<_> = of_tenant.map(change).collect();
            self.affected[index] |= !changes.is_empty();
            if changes.is_empty() && (is_part || !self.affected[index]) {
                continue;
            }
            let (xid, end) = (Xid(end.0 as u32), (!is_part).then_some(end));
            if handle.mailbox.push(&mut changes, commit, xid, Timestamp(0), end, false) == Pushed::Queued {
                let is_behind = self.context.progress().behind().any(|tenant| *tenant == handle.tenant.id);
                let gathers = handle.state() == TenantState::Joining;
                assert!(is_behind || !gathers, "tenant {} gathers changes that may be confirmed", handle.tenant.id);
                queued.push(handle.tenant.id.clone());
            }
        }
        if is_part {
            self.read_writes += part.len();
        } else {
            (self.next, self.read_writes, self.affected) = (self.next + 1, 0, each(false));
            self.context.progress().commit(end, &queued);
        }
    }

    /// Lets a worker run for a while.
    ///
    /// # Errors
    /// The session ends.
    pub(crate) fn work(&mut self, index: TenantIdx) -> Result<(), ServiceError> {
        let turns = self.world.lock().rng.u8(..8);
        for _ in 0..turns {
            self.start_roused();
            let Some(worker) = &mut self.workers[index] else { return Ok(()) };
            if let Some(result) = worker.now_or_never() {
                self.workers[index] = None;
                if let Some(sleeper) = result? {
                    let (handle, rouse) = (self.context.tenants.get(index), self.rouse.clone());
                    handle.sleep(sleeper.config_version, move || drop(rouse.send(sleeper)));
                }
            }
        }
        Ok(())
    }

    /// Gives the tenants for which something waits a task again.
    fn start_roused(&mut self) {
        while let Ok(sleeper) = self.roused.try_recv() {
            let index = sleeper.index;
            let connector = SimulatedConnector { world: self.world.clone(), branch: self.branch };
            let (worker, phase) = Worker::roused(self.context.clone(), connector, self.requests.clone(), sleeper);
            assert!(self.workers[index].is_none(), "two workers of one tenant");
            self.world.lock().coverage.roused += 1;
            self.workers[index] = Some(task_of(worker, phase));
        }
    }

    /// Takes a snapshot for the tenants that have requested one, or tells them that it failed.
    pub(crate) fn serve_joins(&mut self) {
        let requests: Vec<JoinRequest> = std::iter::from_fn(|| self.joins.try_recv().ok()).collect();
        // A source that was restored has ended this process's connections.
        if requests.is_empty() || self.branch != self.world.lock().branch {
            return;
        }
        let created = self.created.take();
        let (fails, current) = {
            let mut world = self.world.lock();
            (world.rng.u8(..10) == 0, Snapshot::take(&world))
        };
        for request in requests {
            let snapshot = if request.since_creation { created.as_ref() } else { Some(&current) };
            // Without a snapshot the request is dropped, as it came too late for the one of the slot.
            let Some(snapshot) = snapshot else { continue };
            let users = snapshot.users[request.tenant].clone();
            let rows = if fails { RowReceiver::broken_off() } else { RowReceiver::of(users) };
            let _ = request.reply.send(Ok(SnapshotShare { position: snapshot.position, mapping: None, rows }));
        }
    }

    /// Writes the positions to the state, then lets them be confirmed.
    ///
    /// # Errors
    /// The session ends.
    pub(crate) fn record(&mut self) -> Result<(), ServiceError> {
        let context = self.context.clone();
        let recording = self.recording.get_or_insert_with(|| async move { record_once(&context).await }.boxed());
        let turns = self.world.lock().rng.u8(1..4);
        for _ in 0..turns {
            if let Some(result) = recording.now_or_never() {
                self.recording = None;
                return result;
            }
        }
        Ok(())
    }

    /// Confirms the position to the source. The message may be lost.
    pub(crate) fn report(&mut self) {
        let confirmed = self.context.progress().confirmed();
        let mut world = self.world.lock();
        if world.rng.u8(..4) > 0 {
            world.source.slot = world.source.slot.map(|slot| slot.max(confirmed));
        }
    }

    /// The reading side restarts a tenant.
    pub(crate) fn interrupt(&mut self, index: TenantIdx, signal: RestartSignal) {
        if self.context.tenants.get(index).state() != TenantState::Parked {
            self.context.interrupt(index, signal);
        }
    }

    /// Stops reading. What waits is applied.
    pub(crate) fn drain(&mut self) {
        self.context.drain.cancel();
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.roused.is_empty() && self.workers.values().all(Option::is_none)
    }
}

fn task_of(worker: Box<Worker<SimulatedState, SimulatedConnector>>, phase: Phase) -> WorkerTask {
    let run = worker.run(phase);
    assert!(size_of_val(&run) <= MAX_WAITING_SIZE, "a waiting tenant keeps {} bytes", size_of_val(&run));
    run.boxed()
}

impl Snapshot {
    fn take(world: &World) -> Snapshot {
        let users = |index: TenantIdx| {
            let table = world.source.table(index);
            table.into_iter().filter_map(|(id, version)| Some(user(id, version?))).collect()
        };
        Snapshot { position: world.source.end, users: TENANT_IDS.indexes().map(users).collect() }
    }
}

/// Shared by all processes, as only its counters are written.
static STATUS: LazyLock<Arc<ProcessStatus>> = LazyLock::new(Arc::default);

/// Tenants whose targets have the tenants' names.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let none = Env { variable: &|_| None, file: &|_| Err(std::io::Error::from(std::io::ErrorKind::NotFound)) };
    let mut text =
        "source: {url: 'postgres://u@h/auth'}\nusers: {table: a.b, id: id, tenant: t}\ntenants:\n".to_owned();
    for id in TENANT_IDS.values() {
        text.push_str(&format!("- {{id: '{id}', target: 'postgres://u@h/{id}'}}\n"));
    }
    parse("c.yaml", &text, &none).unwrap()
});
