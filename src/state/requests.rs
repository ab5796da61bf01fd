//! Requests to the process that holds the slot.

use super::error::StateError;
use super::read::{exists, request};
use super::rows::{Request, RequestId};
use super::store::StateStore;
use crate::model::{ExtraRows, ParkCause, TargetId, TenantId};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

impl StateStore {
    /// Requests a resync of these tenants from the process that holds the slot, and returns the ids of the requests. A request
    /// stays until it is done, also over a restart. With `adopt`, targets with rows of others are taken over.
    pub async fn request_resync(
        client: &Client,
        slot: &str,
        tenants: &[&str],
        allow_deletes: bool,
        adopt: Option<ExtraRows>,
    ) -> Result<Vec<RequestId>, StateError> {
        let sql = "INSERT INTO users_sync.request (slot, tenant, allow_deletes, adopt) \
                   SELECT $1, tenant, $3, $4 FROM unnest($2::text[]) AS tenant RETURNING id";
        let adopt = adopt.map(ExtraRows::as_str);
        let rows = client.query(sql, &[&slot, &tenants, &allow_deletes, &adopt]).await?;
        Ok(rows.iter().map(|row| row.try_get(0).map(RequestId)).collect::<Result<_, _>>()?)
    }

    /// The other slots of this state whose living processes write to a target, each with its process.
    pub(crate) async fn other_writers(
        client: &Client,
        slot: &str,
        target_id: &TargetId,
    ) -> Result<Vec<(String, String)>, StateError> {
        if !exists(client).await? {
            return Ok(Vec::new());
        }
        let sql = "SELECT s.slot, s.holder FROM users_sync.tenant t JOIN users_sync.source s USING (slot) \
                   WHERE s.slot <> $1 AND s.lease_until > now() AND t.target_id::text = $2 \
                     AND coalesce(t.reason_code, '') <> $3 ORDER BY 1";
        let parameters: [&(dyn ToSql + Sync); 3] = [&slot, &target_id.as_str(), &ParkCause::NotConfigured.code()];
        let rows = client.query(sql, &parameters).await?;
        Ok(rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, Error>>()?)
    }

    /// Requests a resync of these tenants from this process.
    pub async fn ask_resync(&self, tenants: &[TenantId]) -> Result<(), StateError> {
        let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
        let tenants = &tenants[..];
        StateStore::request_resync(&self.client, &self.slot, tenants, false, None).await.map(|_| ())
    }

    /// The given requests that are not done yet.
    pub async fn open_requests(client: &Client, ids: &[RequestId]) -> Result<Vec<Request>, StateError> {
        let sql = "SELECT id, tenant, allow_deletes, adopt FROM users_sync.request WHERE id = ANY($1) ORDER BY id";
        let rows = client.query(sql, &[&numbers(ids)]).await?;
        Ok(rows.iter().filter_map(|row| request(row).transpose()).collect::<Result<_, _>>()?)
    }

    /// Withdraws requests.
    pub async fn withdraw_requests(client: &Client, ids: &[RequestId]) -> Result<(), StateError> {
        client.execute("DELETE FROM users_sync.request WHERE id = ANY($1)", &[&numbers(ids)]).await?;
        Ok(())
    }
}

fn numbers(ids: &[RequestId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}
