//! The row of the Kafka output.

use super::error::StateError;
use super::read::read_tee;
use super::rows::{TeeRow, TenantState};
use super::store::StateStore;
use tokio_postgres::Client;

impl StateStore {
    /// Reads the row.
    pub async fn tee(&self) -> Result<Option<TeeRow>, StateError> {
        read_tee(&self.client, &self.slot).await
    }

    /// Writes the row. Write it before anything that depends on it.
    pub async fn put_tee(
        &self,
        tee_slot: &str,
        state: TenantState,
        reason: Option<&str>,
        remedy: Option<&str>,
    ) -> Result<(), StateError> {
        let sql = "INSERT INTO users_sync.tee AS t (slot, tee_slot, state, since, reason, remedy) \
                   SELECT slot, $3, $4, now(), $5, $6 FROM users_sync.source WHERE slot = $1 AND epoch = $2 FOR SHARE \
                   ON CONFLICT (slot) DO UPDATE SET tee_slot = excluded.tee_slot, state = excluded.state, \
                     since = CASE WHEN t.state = excluded.state THEN t.since ELSE now() END, \
                     reason = excluded.reason, remedy = excluded.remedy";
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
            [&self.slot, &self.epoch.0, &tee_slot, &state.as_str(), &reason, &remedy];
        let written = self.client.execute(sql, &parameters).await?;
        self.fenced_unless(written == 1)
    }

    /// Clears the request for a snapshot once every tenant's users are in Kafka.
    pub async fn finish_tee_request(&self) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.tee t SET requested = false FROM users_sync.source s \
                   WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot";
        self.client.execute(sql, &[&self.slot, &self.epoch.0]).await?;
        Ok(())
    }

    /// Deletes the row of a removed Kafka output.
    pub async fn forget_tee(&self) -> Result<(), StateError> {
        let sql = "DELETE FROM users_sync.tee t USING users_sync.source s \
                   WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot";
        self.client.execute(sql, &[&self.slot, &self.epoch.0]).await?;
        Ok(())
    }

    /// Requests a snapshot of every tenant. Returns whether there is a Kafka output.
    pub async fn request_tee(client: &Client, slot: &str) -> Result<bool, StateError> {
        let sql = "UPDATE users_sync.tee SET requested = true WHERE slot = $1";
        Ok(client.execute(sql, &[&slot]).await? == 1)
    }
}
