//! The state and the targets of the simulation, as a session's workers reach them.

use crate::apply::{
    Applied, Checkpoint, DecideFencing, Fencing, Identity, Move, ObservedTarget, Obstacle, RecordedUser, RefusedUser,
    Rows, StatementSize, plan_rows,
};
use crate::config::Config;
use crate::model::{Change, CheckpointKey, Epoch, Lsn, Oid, RetryCause, TenantId, TenantIdx};
use crate::pg::PgUrl;
use crate::replicator::simulation::world::{
    InFlight, KEY, Lock, Shared, TENANT_IDS, UserVersion, World, is_admitted, read_version,
};
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::target::{Connector, TargetAccess};
use crate::snapshot::{Loaded, Loading, RowReceiver};
use crate::state::{Reached, Recorded, Request, RequestId, StateAccess, StateError, TenantRow, TenantState};
use std::time::Duration;
use tokio::sync::oneshot;

/// The state, as one process writes it.
pub(crate) struct SimulatedState {
    pub(crate) world: Shared,
    pub(crate) epoch: Epoch,
}

impl SimulatedState {
    /// Writes if no later process has raised the epoch, as one statement.
    async fn write<T>(&self, write: impl FnOnce(&mut World) -> T) -> Result<T, StateError> {
        self.world.pause().await;
        let written = {
            let mut world = self.world.lock();
            if world.source.state.epoch == self.epoch {
                Ok(write(&mut world))
            } else {
                Err(StateError::Fenced { slot: String::new(), epoch: self.epoch })
            }
        };
        self.world.pause().await;
        written
    }
}

impl StateAccess for SimulatedState {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn checkpoint_key(&self) -> &CheckpointKey {
        &KEY
    }

    async fn put_tenant(&self, tenant: &TenantId, row: &TenantRow) -> Result<(), StateError> {
        self.write(|world| {
            world.coverage.parked += u64::from(row.state == TenantState::Parked);
            world.source.rows.insert(tenant.clone(), row.clone());
        })
        .await
    }

    async fn note_reason(&self, tenant: &TenantId, row: &TenantRow) -> Result<(), StateError> {
        self.write(|world| {
            if let Some(known) = world.source.rows.get_mut(tenant) {
                known.reason.clone_from(&row.reason);
                known.reason_code = row.reason_code;
            }
        })
        .await
    }

    async fn finish_resyncs(&self, tenant: &TenantId, up_to: RequestId) -> Result<(), StateError> {
        let is_open = |request: &Request| request.tenant != *tenant || request.id > up_to;
        self.write(|world| world.source.requests.retain(is_open)).await
    }

    async fn finish_requests(&self, ids: &[RequestId]) -> Result<(), StateError> {
        self.write(|world| world.source.requests.retain(|request| !ids.contains(&request.id))).await
    }

    async fn note_paused(&self, _: &TenantId) -> Result<(), StateError> {
        self.write(|world| world.coverage.paused += 1).await
    }

    async fn record(&self, reached: &Reached, positions: &[(TenantId, Lsn)]) -> Result<Recorded, StateError> {
        self.write(|world| {
            let state = &mut world.source.state;
            state.confirmed = state.confirmed.max(reached.confirmed);
            state.received = reached.received;
            state.behind.clone_from(&reached.behind);
            for (tenant, position) in positions {
                if let Some(row) = world.source.rows.get_mut(tenant) {
                    row.position = row.position.max(*position);
                }
            }
            Recorded { requests: world.source.requests.clone(), pauses: world.source.pauses.clone() }
        })
        .await
    }

    async fn is_newest(&self) -> Result<bool, StateError> {
        self.world.pause().await;
        Ok(self.world.lock().source.state.epoch == self.epoch)
    }

    async fn break_own_history(&self, seen: Epoch) -> Result<(), StateError> {
        self.write(|world| {
            world.was_given_up |= world.branch == 0;
            let state = &mut world.source.state;
            state.system_identifier.clear();
            state.epoch = Epoch(state.epoch.0.max(seen.0) + 1);
        })
        .await
    }
}

/// Connects a process to its targets.
pub(crate) struct SimulatedConnector {
    pub(crate) world: Shared,
    /// The branch of the source's history from which the process reads.
    pub(crate) branch: u32,
}

/// A connection to a target. It ends with the target's incarnation, and a transaction ends with it.
pub(crate) struct SimulatedTarget {
    world: Shared,
    branch: u32,
    index: TenantIdx,
    incarnation: u64,
    connection: u64,
    /// The rows of the open transaction.
    chunks: Vec<UserVersion>,
}

impl Connector for SimulatedConnector {
    type Client = SimulatedTarget;
    type Target = SimulatedTarget;

    async fn connect(&self, url: &PgUrl) -> Result<SimulatedTarget, StopReason> {
        self.world.pause().await;
        let (index, _) = TENANT_IDS.iter().find(|(_, id)| id.as_str() == url.database).unwrap();
        let mut world = self.world.lock();
        if !world.is_up[index] {
            return Err(RetryCause::Unreachable.into());
        }
        if world.rng.u8(..) == 0 {
            world.coverage.panics += 1;
            drop(world);
            // Without the hook, which would print a backtrace each time.
            std::panic::resume_unwind(Box::new("a bug in the worker"));
        }
        world.next_connection += 1;
        let (incarnation, connection) = (world.incarnations[index], world.next_connection);
        let (world, branch) = (self.world.clone(), self.branch);
        Ok(SimulatedTarget { world, branch, index, incarnation, connection, chunks: Vec::new() })
    }

    async fn find_obstacle(&self, _: &PgUrl, _: bool) -> Option<Obstacle> {
        None
    }

    async fn open(
        &self,
        target: SimulatedTarget,
        _: &Config,
        _: &CheckpointKey,
    ) -> Result<(SimulatedTarget, ObservedTarget), StopReason> {
        let observed = target
            .execute(|world, index| {
                world.coverage.opened += 1;
                let table = &world.targets[index];
                let (checkpoint, has_rows) = (table.checkpoint.clone(), !table.rows.is_empty());
                ObservedTarget { checkpoint, created: false, has_rows, relation: None }
            })
            .await?;
        Ok((target, observed))
    }
}

impl SimulatedTarget {
    /// A statement whose effect and answer cannot be told apart by a lost connection.
    async fn execute<T>(&self, statement: impl FnOnce(&mut World, TenantIdx) -> T) -> Result<T, StopReason> {
        self.world.pause().await;
        let answer = {
            let mut world = self.world.lock();
            self.is_connected(&world)?;
            statement(&mut world, self.index)
        };
        self.world.pause().await;
        Ok(answer)
    }

    fn is_connected(&self, world: &World) -> Result<(), StopReason> {
        let is_connected = world.is_up[self.index] && world.incarnations[self.index] == self.incarnation;
        if is_connected { Ok(()) } else { Err(RetryCause::TargetError.into()) }
    }

    fn lock(&self) -> Lock {
        Lock { target: self.index, connection: self.connection }
    }

    /// Sends a statement, and waits for its answer.
    async fn send(
        &self,
        rows: Vec<UserVersion>,
        who: Checkpoint,
        before: Option<Checkpoint>,
    ) -> Result<bool, StopReason> {
        self.world.pause().await;
        let (reply, answer) = oneshot::channel();
        {
            let mut world = self.world.lock();
            self.is_connected(&world)?;
            let had_lock = world.locks.contains(&self.lock());
            world.end_transactions(self.index);
            let locks = before.is_none() || had_lock;
            let (target, branch, reply) = (self.index, self.branch, Some(reply));
            world.in_flight.push(InFlight { target, branch, rows, who, before, locks, reply });
        }
        answer.await.map_err(|_| RetryCause::TargetError.into())
    }
}

impl Drop for SimulatedTarget {
    fn drop(&mut self) {
        let lock = self.lock();
        self.world.lock().locks.retain(|other| *other != lock);
    }
}

impl TargetAccess for SimulatedTarget {
    fn relation(&self) -> Option<Oid> {
        None
    }

    fn is_replaced(&self) -> bool {
        false
    }

    fn no_wait_for(&self) -> Option<&str> {
        None
    }

    fn no_mac(&self) -> Option<&str> {
        None
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StopReason> {
        self.execute(|world, index| world.targets[index].checkpoint.clone()).await
    }

    async fn fence(
        &mut self,
        _: &TenantId,
        epoch: Epoch,
        decide: DecideFencing<'_>,
    ) -> Result<Option<Checkpoint>, StopReason> {
        let answer = self.execute(|world, index| {
            world.end_transactions(index);
            let found = world.targets[index].checkpoint.clone();
            let decision = decide(found.as_ref());
            if decision != Fencing::Leave
                && let Some(checkpoint) = &mut world.targets[index].checkpoint
                && checkpoint.epoch <= epoch
            {
                checkpoint.epoch = epoch;
                checkpoint.mac = (decision == Fencing::RaiseAndSign).then(|| checkpoint.sign(&KEY));
            }
            // The connection may break after the commit.
            (world.rng.u8(..8) > 0).then_some(found)
        });
        answer.await?.ok_or_else(|| RetryCause::TargetError.into())
    }

    async fn load(&mut self, loading: &Loading<'_>, rows: &mut RowReceiver) -> Result<Loaded, StopReason> {
        let mut users = Vec::new();
        while let Some(chunk) = rows.next().await.map_err(|_| RetryCause::SnapshotFailed)? {
            users.extend(chunk.iter().map(read_version));
        }
        let who = checkpoint(loading.who, loading.position);
        let read = users.len() as u64;
        if self.send(users, who, None).await? {
            Ok(Loaded { read, ..Loaded::default() })
        } else {
            Err(RetryCause::CheckpointMoved.into())
        }
    }

    async fn apply(&mut self, who: &Identity, moving: Move, rows: &Rows<'_>) -> Result<Applied, StopReason> {
        let is_admitted =
            self.send(versions(rows), checkpoint(who, moving.to), Some(checkpoint(who, moving.from))).await?;
        Ok(if is_admitted { Applied::Yes } else { Applied::Refused })
    }

    async fn begin_chunks(&mut self, who: &Identity, from: Lsn) -> Result<Applied, StopReason> {
        self.chunks.clear();
        let (who, lock) = (checkpoint(who, from), self.lock());
        self.execute(|world, index| {
            world.end_transactions(index);
            let found = world.targets[index].checkpoint.as_ref();
            if !is_admitted(found, &who, Some(&who)) {
                return Applied::Refused;
            }
            world.locks.push(lock);
            Applied::Yes
        })
        .await
    }

    async fn apply_chunk(&mut self, rows: &Rows<'_>) -> Result<Applied, StopReason> {
        let lock = self.lock();
        if !self.execute(|world, _| world.locks.contains(&lock)).await? {
            return Err(RetryCause::TargetError.into());
        }
        self.chunks.extend(versions(rows));
        Ok(Applied::Yes)
    }

    async fn commit_chunks(&mut self, who: &Identity, moving: Move) -> Result<Applied, StopReason> {
        let lock = self.lock();
        if !self.execute(|world, _| world.locks.contains(&lock)).await? {
            return Err(RetryCause::TargetError.into());
        }
        // The last version of a user counts.
        let mut rows: Vec<UserVersion> = Vec::new();
        for written in std::mem::take(&mut self.chunks) {
            rows.retain(|other| other.user != written.user);
            rows.push(written);
        }
        let is_admitted = self.send(rows, checkpoint(who, moving.to), Some(checkpoint(who, moving.from))).await?;
        Ok(if is_admitted { Applied::Yes } else { Applied::Refused })
    }

    async fn isolate(
        &mut self,
        changes: &[&Change],
        _: &StatementSize,
        _: &(dyn Fn() + Sync),
    ) -> Result<Vec<RefusedUser>, StopReason> {
        self.apply_chunk(&plan_rows(changes.iter().copied()).rows).await?;
        Ok(Vec::new())
    }

    async fn try_change(&mut self, _: &Change) -> Result<(), StopReason> {
        unreachable!("no row takes too long here")
    }

    async fn set_savepoint(&mut self) -> Result<(), StopReason> {
        self.execute(|_, _| ()).await
    }

    async fn roll_back_to_savepoint(&mut self) -> Result<(), StopReason> {
        unreachable!("no row is refused here")
    }

    async fn check_constraints_immediately(&mut self) -> Result<(), StopReason> {
        self.execute(|_, _| ()).await
    }

    async fn read_rejected(&mut self) -> Result<Vec<RecordedUser>, StopReason> {
        self.execute(|_, _| Vec::new()).await
    }

    async fn write_rejected(&mut self, _: &[RefusedUser], _: &[&str]) -> Result<(), StopReason> {
        self.execute(|_, _| ()).await
    }

    async fn expired(&mut self, _: Duration, _: usize) -> Result<Vec<String>, StopReason> {
        unreachable!("nothing is purged here")
    }

    async fn next_expiry(&mut self, _: Duration) -> Result<Duration, StopReason> {
        unreachable!("nothing is purged here")
    }

    async fn delete_expired(&mut self, _: &[String], _: Duration) -> Result<(u64, Vec<String>), StopReason> {
        unreachable!("nothing is purged here")
    }

    async fn roll_back(&mut self) -> Result<(), StopReason> {
        unreachable!("nothing is purged here")
    }
}

fn checkpoint(who: &Identity, position: Lsn) -> Checkpoint {
    who.checkpoint(position, Some(&KEY))
}

fn versions(rows: &Rows<'_>) -> Vec<UserVersion> {
    let upserts = rows.upserts.iter().map(|user| read_version(user));
    let deletes = rows.deletes.iter().map(|(id, _)| UserVersion { user: id.parse().unwrap(), version: None });
    upserts.chain(deletes).collect()
}
