//! The part of the state that a session's workers write.

use super::error::StateError;
use super::rows::{Reached, Recorded, RequestId, TenantRow};
use super::store::StateStore;
use crate::model::{CheckpointKey, Epoch, Lsn, TenantId};

/// Access to the state of one slot, as one process. The simulation implements it with a state in memory.
pub(crate) trait StateAccess: Send + Sync {
    /// The epoch of this process.
    fn epoch(&self) -> Epoch;
    /// As [`StateStore::checkpoint_key`].
    fn checkpoint_key(&self) -> &CheckpointKey;
    /// As [`StateStore::put_tenant`].
    fn put_tenant(&self, tenant: &TenantId, row: &TenantRow) -> impl Future<Output = Result<(), StateError>> + Send;
    /// As [`StateStore::note_reason`].
    fn note_reason(&self, tenant: &TenantId, row: &TenantRow) -> impl Future<Output = Result<(), StateError>> + Send;
    /// As [`StateStore::finish_resyncs`].
    fn finish_resyncs(
        &self,
        tenant: &TenantId,
        up_to: RequestId,
    ) -> impl Future<Output = Result<(), StateError>> + Send;
    /// As [`StateStore::finish_requests`].
    fn finish_requests(&self, ids: &[RequestId]) -> impl Future<Output = Result<(), StateError>> + Send;
    /// As [`StateStore::note_paused`].
    fn note_paused(&self, tenant: &TenantId) -> impl Future<Output = Result<(), StateError>> + Send;
    /// As [`StateStore::record`].
    fn record(
        &self,
        reached: &Reached,
        positions: &[(TenantId, Lsn)],
    ) -> impl Future<Output = Result<Recorded, StateError>> + Send;
    /// As [`StateStore::is_newest`].
    fn is_newest(&self) -> impl Future<Output = Result<bool, StateError>> + Send;
    /// As [`StateStore::break_own_history`].
    fn break_own_history(&self, seen: Epoch) -> impl Future<Output = Result<(), StateError>> + Send;
}

impl StateAccess for StateStore {
    fn epoch(&self) -> Epoch {
        self.epoch()
    }

    fn checkpoint_key(&self) -> &CheckpointKey {
        self.checkpoint_key()
    }

    async fn put_tenant(&self, tenant: &TenantId, row: &TenantRow) -> Result<(), StateError> {
        self.put_tenant(tenant, row).await
    }

    async fn note_reason(&self, tenant: &TenantId, row: &TenantRow) -> Result<(), StateError> {
        self.note_reason(tenant, row).await
    }

    async fn finish_resyncs(&self, tenant: &TenantId, up_to: RequestId) -> Result<(), StateError> {
        self.finish_resyncs(tenant, up_to).await
    }

    async fn finish_requests(&self, ids: &[RequestId]) -> Result<(), StateError> {
        self.finish_requests(ids).await
    }

    async fn note_paused(&self, tenant: &TenantId) -> Result<(), StateError> {
        self.note_paused(tenant).await
    }

    async fn record(&self, reached: &Reached, positions: &[(TenantId, Lsn)]) -> Result<Recorded, StateError> {
        self.record(reached, positions).await
    }

    async fn is_newest(&self) -> Result<bool, StateError> {
        self.is_newest().await
    }

    async fn break_own_history(&self, seen: Epoch) -> Result<(), StateError> {
        self.break_own_history(seen).await
    }
}
