//! Requests to the process that holds the slot.

use super::error::StateError;
use super::read::request;
use super::rows::{Request, RequestId};
use super::store::StateStore;
use crate::model::TenantId;
use tokio_postgres::Client;

impl StateStore {
    /// Requests a resync of these tenants from the process that holds the slot, and returns the ids of the requests. A request
    /// stays until it is done, also over a restart.
    pub async fn request_resync(
        client: &Client,
        slot: &str,
        tenants: &[&str],
        allow_deletes: bool,
    ) -> Result<Vec<RequestId>, StateError> {
        let sql = "INSERT INTO users_sync.request (slot, tenant, allow_deletes) \
                   SELECT $1, tenant, $3 FROM unnest($2::text[]) AS tenant RETURNING id";
        let rows = client.query(sql, &[&slot, &tenants, &allow_deletes]).await?;
        Ok(rows.iter().map(|row| row.try_get(0).map(RequestId)).collect::<Result<_, _>>()?)
    }

    /// Requests a resync of these tenants from this process.
    pub async fn ask_resync(&self, tenants: &[TenantId]) -> Result<(), StateError> {
        let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
        let tenants = &tenants[..];
        StateStore::request_resync(&self.client, &self.slot, tenants, false).await.map(|_| ())
    }

    /// The given requests that are not done yet.
    pub async fn open_requests(client: &Client, ids: &[RequestId]) -> Result<Vec<Request>, StateError> {
        let sql = "SELECT id, tenant, allow_deletes FROM users_sync.request WHERE id = ANY($1) ORDER BY id";
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
