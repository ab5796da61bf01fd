//! A target as a worker uses it. The simulation implements these traits with a target in memory.

use crate::apply::{
    Applied, Checkpoint, DecideFencing, Identity, Move, ObservedTarget, Obstacle, RecordedTarget, RecordedUser,
    RefusedUser, Rows, StatementSize, Target, TargetError, inspect, obstacles,
};
use crate::config::Config;
use crate::model::{Change, CheckpointKey, Epoch, Lsn, Oid, RetryCause, TenantId};
use crate::pg::{GuardError, PgUrl, TargetClient, connect_target, connect_to_apply};
use crate::replicator::failure_policy;
use crate::replicator::tenant::outcome::StopReason;
use crate::snapshot::{Loaded, Loading, RowReceiver, load};
use crate::state::{TenantRow, TenantState};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::timeout;

/// An open target with the identity under which this process writes to it.
pub(crate) struct Connection<T> {
    pub(crate) target: T,
    pub(crate) who: Identity,
}

/// Connects to targets.
pub(crate) trait Connector: Send + Sync {
    /// A session that has not looked at the target yet.
    type Client: Send;
    type Target: TargetAccess;

    fn connect(&self, url: &PgUrl) -> impl Future<Output = Result<Self::Client, StopReason>> + Send;
    /// Creates what is missing in the target, and reads what is there.
    fn open(
        &self,
        client: Self::Client,
        config: &Config,
        key: &CheckpointKey,
    ) -> impl Future<Output = Result<(Self::Target, ObservedTarget), StopReason>> + Send;
    /// What keeps the role from using the target, if a look at it finds that.
    fn find_obstacle(&self, url: &PgUrl, deletes_rows: bool) -> impl Future<Output = Option<Obstacle>> + Send;
}

/// Time limit for reading the checkpoint and the rejected users, and for fencing, which waits for locks up to five times.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit for a look at a target that is parked: its owner may delay the answer.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// An open target. Errors are classified by the failure policy.
pub(crate) trait TargetAccess: Send + Sync {
    /// As [`Target::relation`].
    fn relation(&self) -> Option<Oid>;
    /// As [`Target::is_replaced`].
    fn is_replaced(&self) -> bool;
    /// As [`Target::no_wait_for`].
    fn no_wait_for(&self) -> Option<&str>;
    /// As [`Target::no_mac`].
    fn no_mac(&self) -> Option<&str>;

    /// As [`Target::checkpoint`].
    fn checkpoint(&self) -> impl Future<Output = Result<Option<Checkpoint>, StopReason>> + Send;
    /// As [`Target::fence`].
    fn fence(
        &mut self,
        tenant: &TenantId,
        epoch: Epoch,
        decide: DecideFencing<'_>,
    ) -> impl Future<Output = Result<Option<Checkpoint>, StopReason>> + Send;
    /// As [`load`].
    fn load(
        &mut self,
        loading: &Loading<'_>,
        rows: &mut RowReceiver,
    ) -> impl Future<Output = Result<Loaded, StopReason>> + Send;
    /// As [`Target::apply`].
    fn apply(
        &mut self,
        who: &Identity,
        moving: Move,
        rows: &Rows<'_>,
    ) -> impl Future<Output = Result<Applied, StopReason>> + Send;

    /// As [`Target::begin_chunks`].
    fn begin_chunks(&mut self, who: &Identity, from: Lsn) -> impl Future<Output = Result<Applied, StopReason>> + Send;
    /// As [`Target::apply_chunk`].
    fn apply_chunk(&mut self, rows: &Rows<'_>) -> impl Future<Output = Result<Applied, StopReason>> + Send;
    /// As [`Target::commit_chunks`].
    fn commit_chunks(
        &mut self,
        who: &Identity,
        moving: Move,
    ) -> impl Future<Output = Result<Applied, StopReason>> + Send;

    /// As [`Target::isolate`].
    fn isolate(
        &mut self,
        changes: &[&Change],
        size: &StatementSize,
        progressed: &(dyn Fn() + Sync),
    ) -> impl Future<Output = Result<Vec<RefusedUser>, StopReason>> + Send;

    /// As [`Target::try_change`].
    fn try_change(&mut self, change: &Change) -> impl Future<Output = Result<(), StopReason>> + Send;

    /// As [`Target::set_savepoint`].
    fn set_savepoint(&mut self) -> impl Future<Output = Result<(), StopReason>> + Send;
    /// As [`Target::roll_back_to_savepoint`].
    fn roll_back_to_savepoint(&mut self) -> impl Future<Output = Result<(), StopReason>> + Send;
    /// As [`Target::check_constraints_immediately`].
    fn check_constraints_immediately(&mut self) -> impl Future<Output = Result<(), StopReason>> + Send;
    /// As [`Target::read_rejected`].
    fn read_rejected(&mut self) -> impl Future<Output = Result<Vec<RecordedUser>, StopReason>> + Send;
    /// As [`Target::write_rejected`].
    fn write_rejected(
        &mut self,
        refused: &[RefusedUser],
        accepted: &[&str],
    ) -> impl Future<Output = Result<(), StopReason>> + Send;

    /// As [`Target::expired`].
    fn expired(
        &mut self,
        after: Duration,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<String>, StopReason>> + Send;
    /// As [`Target::next_expiry`].
    fn next_expiry(&mut self, after: Duration) -> impl Future<Output = Result<Duration, StopReason>> + Send;
    /// As [`Target::delete_expired`].
    fn delete_expired(
        &mut self,
        ids: &[String],
        after: Duration,
    ) -> impl Future<Output = Result<(u64, Vec<String>), StopReason>> + Send;
    /// As [`Target::rollback`].
    fn roll_back(&mut self) -> impl Future<Output = Result<(), StopReason>> + Send;
}

/// Connects to targets in PostgreSQL.
#[derive(Clone, Copy)]
pub(crate) struct Postgres;

impl Connector for Postgres {
    type Client = TargetClient;
    type Target = Target;

    async fn connect(&self, url: &PgUrl) -> Result<TargetClient, StopReason> {
        connect_to_apply(url).await.map_err(|error| failure_policy::of_connect(&error).into())
    }

    async fn open(
        &self,
        client: TargetClient,
        config: &Config,
        key: &CheckpointKey,
    ) -> Result<(Target, ObservedTarget), StopReason> {
        let refused = client.refused();
        let opened = Target::open(client, config.deletes, config.notify, key).await;
        opened.map_err(|error| classify(&refused, error))
    }

    async fn find_obstacle(&self, url: &PgUrl, deletes_rows: bool) -> Option<Obstacle> {
        let facts = timeout(INSPECTION_TIMEOUT, async { inspect(&connect_target(url).await.ok()?).await.ok() }).await;
        obstacles(&facts.ok()??, deletes_rows).into_iter().next()
    }
}

impl TargetAccess for Target {
    fn relation(&self) -> Option<Oid> {
        self.relation()
    }

    fn is_replaced(&self) -> bool {
        self.is_replaced()
    }

    fn no_wait_for(&self) -> Option<&str> {
        self.no_wait_for()
    }

    fn no_mac(&self) -> Option<&str> {
        self.no_mac()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StopReason> {
        let done = timeout(ANSWER_TIMEOUT, self.checkpoint()).await.map_err(|_| RetryCause::NoAnswer)?;
        self.classify(done)
    }

    async fn fence(
        &mut self,
        tenant: &TenantId,
        epoch: Epoch,
        decide: DecideFencing<'_>,
    ) -> Result<Option<Checkpoint>, StopReason> {
        let fenced = timeout(ANSWER_TIMEOUT, self.fence(tenant, epoch, decide)).await;
        let done = fenced.map_err(|_| RetryCause::NoAnswer)?;
        self.classify(done)
    }

    async fn load(&mut self, loading: &Loading<'_>, rows: &mut RowReceiver) -> Result<Loaded, StopReason> {
        let loaded = load(self, loading, rows).await;
        loaded.map_err(|error| match self.refused().get() {
            Some(refused) => failure_policy::of_guard(*refused).into(),
            None => failure_policy::of_load(&error, &loading.who.tenant, loading.adoption.is_some()).into(),
        })
    }

    async fn apply(&mut self, who: &Identity, moving: Move, rows: &Rows<'_>) -> Result<Applied, StopReason> {
        let done = self.apply(who, moving, rows).await;
        self.classify(done)
    }

    async fn begin_chunks(&mut self, who: &Identity, from: Lsn) -> Result<Applied, StopReason> {
        let done = self.begin_chunks(who, from).await;
        self.classify(done)
    }

    async fn apply_chunk(&mut self, rows: &Rows<'_>) -> Result<Applied, StopReason> {
        let done = self.apply_chunk(rows).await;
        self.classify(done)
    }

    async fn commit_chunks(&mut self, who: &Identity, moving: Move) -> Result<Applied, StopReason> {
        let done = self.commit_chunks(who, moving).await;
        self.classify(done)
    }

    async fn isolate(
        &mut self,
        changes: &[&Change],
        size: &StatementSize,
        progressed: &(dyn Fn() + Sync),
    ) -> Result<Vec<RefusedUser>, StopReason> {
        let done = self.isolate(changes, size, progressed).await;
        self.classify(done)
    }

    async fn try_change(&mut self, change: &Change) -> Result<(), StopReason> {
        let done = self.try_change(change).await;
        self.classify(done)
    }

    async fn set_savepoint(&mut self) -> Result<(), StopReason> {
        let done = self.set_savepoint().await;
        self.classify(done)
    }

    async fn roll_back_to_savepoint(&mut self) -> Result<(), StopReason> {
        let done = self.roll_back_to_savepoint().await;
        self.classify(done)
    }

    async fn check_constraints_immediately(&mut self) -> Result<(), StopReason> {
        let done = self.check_constraints_immediately().await;
        self.classify(done)
    }

    async fn read_rejected(&mut self) -> Result<Vec<RecordedUser>, StopReason> {
        let done = timeout(ANSWER_TIMEOUT, self.read_rejected()).await.map_err(|_| RetryCause::NoAnswer)?;
        self.classify(done)
    }

    async fn write_rejected(&mut self, refused: &[RefusedUser], accepted: &[&str]) -> Result<(), StopReason> {
        let done = self.write_rejected(refused, accepted).await;
        self.classify(done)
    }

    async fn expired(&mut self, after: Duration, limit: usize) -> Result<Vec<String>, StopReason> {
        let done = self.expired(after, limit).await;
        self.classify(done)
    }

    async fn next_expiry(&mut self, after: Duration) -> Result<Duration, StopReason> {
        let done = self.next_expiry(after).await;
        self.classify(done)
    }

    async fn delete_expired(&mut self, ids: &[String], after: Duration) -> Result<(u64, Vec<String>), StopReason> {
        let done = self.delete_expired(ids, after).await;
        self.classify(done)
    }

    async fn roll_back(&mut self) -> Result<(), StopReason> {
        let done = self.rollback().await;
        self.classify(done)
    }
}

impl Target {
    fn classify<T>(&self, done: Result<T, TargetError>) -> Result<T, StopReason> {
        done.map_err(|error| classify(&self.refused(), error))
    }
}

/// Classifies an error. What the guard refused explains the lost connection that a statement reports.
fn classify(refused: &OnceLock<GuardError>, error: TargetError) -> StopReason {
    refused.get().map_or_else(|| error.into(), |refused| failure_policy::of_guard(*refused).into())
}

/// The part of a tenant's row that an assessment of its target needs.
pub(crate) fn recorded_target(row: &TenantRow) -> RecordedTarget {
    RecordedTarget {
        following: row.state == TenantState::Following,
        target_id: row.target_id.clone(),
        position: row.position,
        generation: row.generation,
        relation: row.relation,
        signed: row.signed,
    }
}
