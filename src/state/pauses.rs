//! The pauses of tenants. They are part of a tenant's row, so that they outlast the process, and a standby respects them.

use super::error::StateError;
use super::read::require_current;
use super::store::StateStore;
use crate::model::TenantId;
use tokio_postgres::{Client, Row};

impl StateStore {
    /// Pauses these tenants. Returns those that were not paused; one without a row is not among them.
    ///
    /// # Errors
    /// `StateError::Outdated` if the tables are from an earlier version.
    pub(crate) async fn pause(
        client: &Client,
        slot: &str,
        tenants: &[&str],
        reason: &str,
        by: &str,
    ) -> Result<Vec<TenantId>, StateError> {
        // The source's row first, as `record` locks them in this order.
        let sql = "WITH s AS MATERIALIZED (SELECT slot FROM users_sync.source WHERE slot = $1 FOR UPDATE) \
                   UPDATE users_sync.tenant t \
                     SET paused = jsonb_build_object('reason', $3::text, 'by', $4::text, 'since', now()) \
                   FROM s WHERE t.slot = s.slot AND t.tenant = ANY($2) AND t.paused IS NULL RETURNING t.tenant";
        require_current(client).await?;
        tenants_of(&client.query(sql, &[&slot, &tenants, &reason, &by]).await?)
    }

    /// Ends the pause of these tenants. Returns those that were paused.
    ///
    /// # Errors
    /// As [`StateStore::pause`].
    pub(crate) async fn end_pause(client: &Client, slot: &str, tenants: &[&str]) -> Result<Vec<TenantId>, StateError> {
        // A pause is for work on the target: the next session looks at it.
        let sql = "WITH s AS MATERIALIZED (SELECT slot FROM users_sync.source WHERE slot = $1 FOR UPDATE) \
                   UPDATE users_sync.tenant t SET paused = NULL, opened_as = NULL \
                   FROM s WHERE t.slot = s.slot AND t.tenant = ANY($2) AND t.paused IS NOT NULL RETURNING t.tenant";
        require_current(client).await?;
        tenants_of(&client.query(sql, &[&slot, &tenants]).await?)
    }

    /// Records that this process writes nothing to the target of a paused tenant any more.
    pub(crate) async fn note_paused(&self, tenant: &TenantId) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.tenant t SET paused = t.paused || jsonb_build_object('stopped_at', now()) \
                   FROM users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = $4 AND t.tenant = $3 \
                     AND NOT t.paused ? 'stopped_at'";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenant.as_str(), &self.tenants_slot]).await?;
        Ok(())
    }
}

fn tenants_of(rows: &[Row]) -> Result<Vec<TenantId>, StateError> {
    Ok(rows.iter().map(|row| row.try_get(0).map(TenantId::new)).collect::<Result<_, _>>()?)
}
