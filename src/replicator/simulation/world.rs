//! What outlives a process in the simulation: the source with its slot and state, the targets, and the statements that are on
//! their way to a target.

use crate::apply::{Checkpoint, NIL_TARGET_ID};
use crate::model::{
    Anchor, ByTenant, Change, CheckpointKey, Epoch, Generation, Lsn, TenantId, TenantIdx, Timestamp, User,
};
use crate::replicator::simulation::coverage::Coverage;
use crate::state::{Pauses, Request, SourceRow, TenantRow};
use crate::sync::lock;
use fastrand::Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use tokio::sync::oneshot;

pub(crate) const TENANTS: usize = 3;

/// A version of a user, unique among all; `None` once the user is deleted.
pub(crate) type Version = Option<u64>;

/// A user of a target, as a statement writes it.
#[derive(Clone, Copy)]
pub(crate) struct UserVersion {
    pub(crate) user: usize,
    pub(crate) version: Version,
}

/// A user's change in a transaction.
#[derive(Clone, Copy)]
pub(crate) struct Write {
    pub(crate) tenant: TenantIdx,
    pub(crate) user: usize,
    pub(crate) version: Version,
}

#[derive(Clone)]
pub(crate) struct Transaction {
    pub(crate) commit: Lsn,
    pub(crate) end: Lsn,
    pub(crate) writes: Vec<Write>,
}

/// A target.
#[derive(Clone, Default)]
pub(crate) struct Table {
    pub(crate) rows: BTreeMap<usize, Version>,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The branch of the source's history from which it was written last.
    branch: u32,
}

/// What is durable at the source: the log with the slot, and the state.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) log: Vec<Transaction>,
    pub(crate) end: Lsn,
    pub(crate) next_version: u64,
    pub(crate) slot: Option<Lsn>,
    /// Another program created or moved the slot, so its position says nothing about this one.
    pub(crate) slot_is_foreign: bool,
    pub(crate) state: SourceRow,
    pub(crate) epochs: BTreeMap<Epoch, Lsn>,
    pub(crate) rows: BTreeMap<TenantId, TenantRow>,
    pub(crate) requests: Vec<Request>,
    pub(crate) next_request: i64,
    pub(crate) pauses: Pauses,
}

/// A statement or transaction on its way to a target.
pub(crate) struct InFlight {
    pub(crate) target: TenantIdx,
    /// The branch of the source's history from which its sender reads.
    pub(crate) branch: u32,
    pub(crate) rows: Vec<UserVersion>,
    pub(crate) who: Checkpoint,
    /// The checkpoint that it expects; `None` for a merge, which replaces all rows.
    pub(crate) before: Option<Checkpoint>,
    /// It locks the checkpoint from its first statement on: a merge, or a chunked transaction.
    pub(crate) locks: bool,
    /// Tells the sender whether the guard admitted it. The sender of a late statement is gone.
    pub(crate) reply: Option<oneshot::Sender<bool>>,
}

/// A chunked transaction that has begun and locks a target's checkpoint.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Lock {
    pub(crate) target: TenantIdx,
    pub(crate) connection: u64,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) source: Source,
    /// An older point to which the source may be restored.
    pub(crate) source_before: Option<Source>,
    pub(crate) clock: i64,
    /// The number of times that the source was restored.
    pub(crate) branch: u32,
    pub(crate) targets: ByTenant<Table>,
    pub(crate) targets_before: ByTenant<Option<Table>>,
    /// The history of a source that never went back was given up. A worker's panic would only park its tenant.
    pub(crate) was_given_up: bool,
    /// Tenants whose owner has changed the checkpoint.
    pub(crate) tampered: ByTenant<bool>,
    pub(crate) is_up: ByTenant<bool>,
    /// Grows when a target goes down or is restored, which ends its connections.
    pub(crate) incarnations: ByTenant<u64>,
    pub(crate) next_connection: u64,
    pub(crate) locks: Vec<Lock>,
    pub(crate) in_flight: Vec<InFlight>,
    pub(crate) coverage: Coverage,
}

/// The world, as the tasks of all processes share it.
#[derive(Clone)]
pub(crate) struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub(crate) fn new(seed: u64) -> Shared {
        Shared(Arc::new(Mutex::new(World::new(seed))))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        lock(&self.0)
    }

    /// Lets other tasks run in between, or not.
    pub(crate) async fn pause(&self) {
        let turns = self.lock().rng.u8(..2);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        let state = SourceRow {
            user_count: None,
            generation: Generation(0),
            system_identifier: String::new(),
            timeline: 1,
            confirmed: Lsn(0),
            received: Lsn(0),
            behind: Vec::new(),
            behind_seconds: BTreeMap::new(),
            trouble: None,
            findings: Vec::new(),
            publication: String::new(),
            shape: None,
            shape_version: 0,
            anchor: Anchor::default(),
            epoch: Epoch(0),
            holder: String::new(),
            lease_seconds: 0.0,
        };
        let source = Source {
            log: Vec::new(),
            end: Lsn(100),
            next_version: 1,
            slot: None,
            slot_is_foreign: false,
            state,
            epochs: BTreeMap::new(),
            rows: BTreeMap::new(),
            requests: Vec::new(),
            next_request: 0,
            pauses: Pauses::new(),
        };
        World {
            rng: Rng::with_seed(seed),
            source,
            source_before: None,
            clock: 0,
            branch: 0,
            targets: each(Table::default()),
            targets_before: each(None),
            was_given_up: false,
            tampered: each(false),
            is_up: each(true),
            incarnations: each(0),
            next_connection: 0,
            locks: Vec::new(),
            in_flight: Vec::new(),
            coverage: Coverage::default(),
        }
    }

    /// A statement reaches its target, late, or never; and its answer gets back, or not.
    pub(crate) fn deliver(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let index = self.rng.usize(..self.in_flight.len());
        let is_late = self.in_flight[index].reply.is_none();
        match self.rng.u8(..20) {
            // The connection is lost; the statement may still be executed.
            0 if !is_late => self.in_flight[index].reply = None,
            1 => drop(self.in_flight.swap_remove(index)),
            outcome => {
                let mut statement = self.in_flight.swap_remove(index);
                statement.reply = statement.reply.take().filter(|_| outcome != 2);
                if !statement.locks {
                    self.end_transactions(statement.target);
                }
                self.execute(statement);
            }
        }
    }

    fn execute(&mut self, mut statement: InFlight) {
        let is_admitted = take(&mut self.targets[statement.target], &statement);
        if is_admitted && statement.branch == self.branch {
            self.check_rows(statement.target);
        }
        let is_answered = statement.reply.take().is_some_and(|reply| reply.send(is_admitted).is_ok());
        let Coverage { merges, batches, chunked, unanswered, refused, outdated, .. } = &mut self.coverage;
        let count = if !is_admitted {
            refused
        } else if statement.before.is_none() {
            merges
        } else if statement.locks {
            chunked
        } else {
            batches
        };
        *count += 1;
        *unanswered += u64::from(is_admitted && !is_answered);
        *outdated += u64::from(statement.branch != self.branch);
    }

    /// A target that was written to holds exactly what the source held at the target's position.
    fn check_rows(&self, target: TenantIdx) {
        let Table { rows, checkpoint, .. } = &self.targets[target];
        let Some(Checkpoint { position, .. }) = checkpoint else { return };
        let mut held = rows.clone();
        held.retain(|_, version| version.is_some());
        assert_eq!(held, self.source.table_at(target, *position), "tenant {target:?} at {position}");
    }

    /// Commits or rolls back the transactions that hold the lock of the target's checkpoint, so that the next one can lock it.
    pub(crate) fn end_transactions(&mut self, target: TenantIdx) {
        self.locks.retain(|lock| lock.target != target);
        let locks = |statement: &InFlight| statement.target == target && statement.locks;
        let (locking, others) = std::mem::take(&mut self.in_flight).into_iter().partition(locks);
        self.in_flight = others;
        for statement in locking {
            if self.rng.bool() {
                self.execute(statement);
            }
        }
    }

    /// The target takes no connections for a while, and those that it has end. Its statements may still be executed.
    pub(crate) fn take_down(&mut self, target: TenantIdx) {
        self.is_up[target] = false;
        self.incarnations[target] += 1;
        self.locks.retain(|lock| lock.target != target);
        for statement in self.in_flight.iter_mut().filter(|statement| statement.target == target) {
            statement.reply = None;
        }
    }

    /// The target goes back to an older point. Its connections end.
    pub(crate) fn restore_target(&mut self, target: TenantIdx) {
        let Some(before) = self.targets_before[target].take() else { return };
        self.targets[target] = before;
        self.incarnations[target] += 1;
        self.locks.retain(|lock| lock.target != target);
        self.in_flight.retain(|statement| statement.target != target);
    }

    /// The owner of a target changes its checkpoint.
    pub(crate) fn tamper(&mut self, target: TenantIdx) {
        let kind = self.rng.u8(..6);
        let handed_over = |checkpoint: &&mut Checkpoint| checkpoint.target_id.as_str() == NIL_TARGET_ID;
        let found = self.targets[target].checkpoint.as_mut();
        let Some(checkpoint) = found.filter(|checkpoint| !handed_over(checkpoint)) else { return };
        match kind {
            0 => checkpoint.epoch.0 += 1,
            1 => checkpoint.position = Lsn(u64::MAX),
            2 => checkpoint.generation.0 += 1,
            3 => checkpoint.mapping.push('x'),
            4 => checkpoint.mac = None,
            _ => checkpoint.mac = Some(vec![0; 32]),
        }
        self.tampered[target] = true;
        self.coverage.tampered += 1;
    }

    pub(crate) fn back_up_source(&mut self) {
        self.source_before = Some(self.source.clone());
    }

    pub(crate) fn commit(&mut self, users: usize) {
        let writes = (0..self.rng.usize(1..4)).map(|_| {
            let version = (self.rng.u8(..5) > 0).then(|| {
                self.source.next_version += 1;
                self.source.next_version
            });
            Write { tenant: pick(&mut self.rng), user: self.rng.usize(..users), version }
        });
        let writes = writes.collect();
        self.append(writes);
    }

    /// Appends a transaction that writes a user of every tenant.
    pub(crate) fn commit_to_all(&mut self) {
        self.source.next_version += 1;
        let version = Some(self.source.next_version);
        self.append(TENANT_IDS.indexes().map(|tenant| Write { tenant, user: 0, version }).collect());
    }

    fn append(&mut self, writes: Vec<Write>) {
        let (commit, end) = (Lsn(self.source.end.0 + 10), Lsn(self.source.end.0 + 20));
        self.source.log.push(Transaction { commit, end, writes });
        self.source.end = end;
    }
}

impl Source {
    /// The rows of a tenant's users, as a snapshot shows them now.
    pub(crate) fn table(&self, tenant: TenantIdx) -> BTreeMap<usize, Version> {
        self.table_at(tenant, self.end)
    }

    /// The rows of a tenant's users after the transactions that end at or before `position`.
    fn table_at(&self, tenant: TenantIdx, position: Lsn) -> BTreeMap<usize, Version> {
        let mut rows = BTreeMap::new();
        let transactions = self.log.iter().take_while(|transaction| transaction.end <= position);
        for write in transactions.flat_map(|transaction| &transaction.writes).filter(|write| write.tenant == tenant) {
            rows.insert(write.user, write.version);
        }
        rows.retain(|_, version| version.is_some());
        rows
    }
}

/// The tenants, each named by its number.
pub(crate) static TENANT_IDS: LazyLock<ByTenant<TenantId>> =
    LazyLock::new(|| (0..TENANTS).map(|number| TenantId::new(&number.to_string())).collect());

/// Signs the checkpoints.
pub(crate) static KEY: LazyLock<CheckpointKey> = LazyLock::new(|| CheckpointKey::new(&[7; 32]).unwrap());

/// This value for each tenant.
pub(crate) fn each<T: Clone>(value: T) -> ByTenant<T> {
    std::iter::repeat_n(value, TENANTS).collect()
}

/// A random tenant.
pub(crate) fn pick(rng: &mut Rng) -> TenantIdx {
    TENANT_IDS.indexes().nth(rng.usize(..TENANTS)).unwrap()
}

pub(crate) fn user(user: usize, version: u64) -> User {
    User {
        id: user.to_string().into(),
        raw_json: String::new(),
        name: None,
        email: None,
        created_at: None,
        updated_at: Some(Timestamp(version as i64)),
        deleted_at: None,
        updated_at_derived: false,
    }
}

pub(crate) fn change(write: &Write) -> Change {
    match write.version {
        None => Change::Delete { id: write.user.to_string().into(), at: Timestamp(0) },
        Some(version) => Change::Upsert(user(write.user, version)),
    }
}

/// The reverse of [`user`].
pub(crate) fn read_version(user: &User) -> UserVersion {
    UserVersion { user: user.id.parse().unwrap(), version: user.updated_at.map(|at| at.0 as u64) }
}

/// The guard of the statements of a target, and what they write. Within one branch of history no user may go back in time.
fn take(target: &mut Table, statement: &InFlight) -> bool {
    let InFlight { branch, rows, who, before: expected, .. } = statement;
    if !is_admitted(target.checkpoint.as_ref(), who, expected.as_ref()) {
        return false;
    }
    let same_branch = std::mem::replace(&mut target.branch, *branch) == *branch;
    if expected.is_none() {
        for (user, version) in &mut target.rows {
            if !rows.iter().any(|written| written.user == *user) {
                *version = None;
            }
        }
    }
    for UserVersion { user, version } in rows {
        let before = target.rows.insert(*user, *version).flatten();
        if same_branch && let (Some(before), Some(after)) = (before, *version) {
            let is_replay = expected.is_some() && before == after;
            assert!(before <= after && !is_replay, "user {user} went from version {before} to {after}");
        }
    }
    target.checkpoint = Some(who.clone());
    true
}

/// The guard of a statement that expects a checkpoint, or of a merge.
pub(crate) fn is_admitted(found: Option<&Checkpoint>, who: &Checkpoint, before: Option<&Checkpoint>) -> bool {
    match (found, before) {
        // A target with signatures compares every field.
        (Some(found), Some(before)) => found == before,
        (None, Some(_)) => false,
        (Some(found), None) => {
            found.tenant == who.tenant
                && found.epoch <= who.epoch
                && (found.generation != who.generation
                    || found.target_id != who.target_id
                    || found.position <= who.position)
        }
        (None, None) => true,
    }
}
