//! Requests to the process that holds the slot.

use super::error::StateError;
use super::read::{exists, require_current};
use super::rows::{RequestId, RequestKind};
use super::store::StateStore;
use crate::model::{ExtraRows, ParkCause, TargetId, TenantId};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error};

impl StateStore {
    /// Makes a request for each of these tenants to the process that holds the slot, and returns their ids. A request stays
    /// until it is done, also over a restart.
    ///
    /// # Errors
    /// `StateError::Outdated` if the tables are from an earlier version.
    pub(crate) async fn request(
        client: &Client,
        slot: &str,
        tenants: &[&str],
        kind: &RequestKind,
    ) -> Result<Vec<RequestId>, StateError> {
        let sql = "INSERT INTO users_sync.request (slot, tenant, allow_deletes, kind, user_id, adopt) \
                   SELECT $1, tenant, $3, $4, $5, $6 FROM unnest($2::text[]) AS tenant RETURNING id";
        let (allow_deletes, adopt) = match kind {
            RequestKind::Resync { allow_deletes, adopt } => (*allow_deletes, adopt.map(ExtraRows::as_str)),
            RequestKind::Resume | RequestKind::RetryRejected | RequestKind::User(_) => (false, None),
        };
        let user = match kind {
            RequestKind::User(id) => Some(&**id),
            RequestKind::Resync { .. } | RequestKind::Resume | RequestKind::RetryRejected => None,
        };
        require_current(client).await?;
        let rows = client.query(sql, &[&slot, &tenants, &allow_deletes, &kind.name(), &user, &adopt]).await?;
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

    /// Another slot of this state that reads the publication with this oid.
    pub(crate) async fn other_slot_of_publication(
        client: &Client,
        slot: &str,
        oid: &str,
    ) -> Result<Option<String>, StateError> {
        if !exists(client).await? {
            return Ok(None);
        }
        let sql = "SELECT slot FROM users_sync.source s WHERE slot <> $1 \
                   AND split_part(coalesce(to_jsonb(s) ->> 'publication', ''), ':', 1) = $2 ORDER BY 1 LIMIT 1";
        Ok(client.query_opt(sql, &[&slot, &oid]).await?.map(|row| row.try_get(0)).transpose()?)
    }

    /// Requests a resync of these tenants from this process.
    pub(crate) async fn ask_resync(&self, tenants: &[TenantId]) -> Result<(), StateError> {
        let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
        let kind = RequestKind::Resync { allow_deletes: false, adopt: None };
        StateStore::request(&self.client, &self.slot, &tenants, &kind).await.map(|_| ())
    }

    /// The number of the given requests that are not done yet.
    pub(crate) async fn open_requests(client: &Client, ids: &[RequestId]) -> Result<usize, StateError> {
        let sql = "SELECT count(*) FROM users_sync.request WHERE id = ANY($1)";
        let open: i64 = client.query_one(sql, &[&numbers(ids)]).await?.try_get(0)?;
        Ok(usize::try_from(open).unwrap_or(usize::MAX))
    }

    /// Withdraws requests.
    pub(crate) async fn withdraw_requests(client: &Client, ids: &[RequestId]) -> Result<(), StateError> {
        client.execute("DELETE FROM users_sync.request WHERE id = ANY($1)", &[&numbers(ids)]).await?;
        Ok(())
    }

    /// Deletes the resync requests of a tenant up to this one: a snapshot serves all of them.
    pub(crate) async fn finish_resyncs(&self, tenant: &TenantId, up_to: RequestId) -> Result<(), StateError> {
        let sql = "DELETE FROM users_sync.request r USING users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 \
                     AND r.slot = $5 AND r.tenant = $3 AND r.id <= $4 AND r.kind = 'resync'";
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&self.slot, &self.epoch.0, &tenant.as_str(), &up_to.0, &self.tenants_slot];
        self.client.execute(sql, &parameters).await?;
        Ok(())
    }

    /// Deletes requests that are done.
    pub(crate) async fn finish_requests(&self, ids: &[RequestId]) -> Result<(), StateError> {
        let sql = "DELETE FROM users_sync.request r USING users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 \
                     AND r.slot = $4 AND r.id = ANY($3)";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &numbers(ids), &self.tenants_slot]).await?;
        Ok(())
    }
}

fn numbers(ids: &[RequestId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}
