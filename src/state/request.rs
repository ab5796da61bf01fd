//! What is asked of a running process: resyncs.

use super::StateError;
use super::store::StateStore;
use crate::model::TenantId;
use tokio_postgres::{Client, Row};

/// A tenant is to be resynced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Grows from request to request.
    pub id: i64,
    /// Which tenant.
    pub tenant: TenantId,
    /// However many users that deletes: `limits.max_deletes` does not apply to it.
    pub allow_deletes: bool,
}

impl Request {
    /// A row of `id, tenant, allow_deletes`; `None` where it is empty.
    pub(super) fn of_row(row: &Row) -> Option<Request> {
        let id = row.get::<_, Option<i64>>(0)?;
        Some(Request { id, tenant: TenantId::new(row.get(1)), allow_deletes: row.get(2) })
    }
}

impl StateStore {
    /// Asks the process that holds the slot to resync these tenants; gives the requests' ids. They are there until it is
    /// done, also over a restart.
    pub async fn request_resync(
        client: &Client,
        slot: &str,
        tenants: &[&str],
        allow_deletes: bool,
    ) -> Result<Vec<i64>, StateError> {
        let sql = "INSERT INTO users_sync.request (slot, tenant, allow_deletes) \
                   SELECT $1, tenant, $3 FROM unnest($2::text[]) AS tenant RETURNING id";
        let rows = client.query(sql, &[&slot, &tenants, &allow_deletes]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Which of these requests are not done yet.
    pub async fn open_requests(client: &Client, ids: &[i64]) -> Result<Vec<Request>, StateError> {
        let sql = "SELECT id, tenant, allow_deletes FROM users_sync.request WHERE id = ANY($1) ORDER BY id";
        Ok(client.query(sql, &[&ids]).await?.iter().filter_map(Request::of_row).collect())
    }

    /// Takes requests back.
    pub async fn withdraw_requests(client: &Client, ids: &[i64]) -> Result<(), StateError> {
        client.execute("DELETE FROM users_sync.request WHERE id = ANY($1)", &[&ids]).await?;
        Ok(())
    }
}
