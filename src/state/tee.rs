//! The row of the Kafka output.

use super::error::StateError;
use super::read::read_tee;
use super::rows::{TeeFailure, TeePublished, TeeRow, TenantState};
use super::store::StateStore;
use crate::model::{TenantId, TopicTrouble};
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

/// Reason, remedy and code as the row has them.
fn columns(failure: Option<TeeFailure<'_>>) -> (Option<&str>, Option<&str>, Option<&'static str>) {
    let code = failure.and_then(|failure| failure.code).map(TopicTrouble::code);
    (failure.map(|failure| failure.reason), failure.and_then(|failure| failure.remedy), code)
}

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
        failure: Option<TeeFailure<'_>>,
    ) -> Result<(), StateError> {
        let (reason, remedy, code) = columns(failure);
        let sql = "INSERT INTO users_sync.tee AS t (slot, tee_slot, state, since, reason, remedy, reason_code) \
                   SELECT slot, $3, $4, now(), $5, $6, $7 FROM users_sync.source WHERE slot = $1 AND epoch = $2 FOR SHARE \
                   ON CONFLICT (slot) DO UPDATE SET tee_slot = excluded.tee_slot, state = excluded.state, \
                     since = CASE WHEN t.state = excluded.state THEN t.since ELSE now() END, \
                     reason = excluded.reason, remedy = excluded.remedy, reason_code = excluded.reason_code";
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&self.slot, &self.epoch.0, &tee_slot, &state.as_str(), &reason, &remedy, &code];
        let written = self.client.execute(sql, &parameters).await?;
        self.fenced_unless(written == 1)
    }

    /// Writes why the Kafka output waits into the row, or that it does not. Its state stays.
    pub async fn note_tee(&self, failure: Option<TeeFailure<'_>>) -> Result<(), StateError> {
        let (reason, remedy, code) = columns(failure);
        let sql = "UPDATE users_sync.tee t SET reason = $3, remedy = $4, reason_code = $5 \
                   FROM users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &reason, &remedy, &code]).await?;
        Ok(())
    }

    /// Records what is published.
    pub async fn put_published(&self, published: &TeePublished) -> Result<(), StateError> {
        let TeePublished { position, system, tenants } = published;
        let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
        let sql = "UPDATE users_sync.tee t SET position = $3, system_identifier = $4, tenants = $5 \
                   FROM users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot";
        let position = PgLsn::from(position.0);
        let written = self.client.execute(sql, &[&self.slot, &self.epoch.0, &position, system, &tenants]).await?;
        self.fenced_unless(written == 1)
    }

    /// Clears the request for a snapshot once every tenant's users are in Kafka.
    pub async fn finish_tee_request(&self) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.tee t SET requested = false FROM users_sync.source s \
                   WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot";
        self.client.execute(sql, &[&self.slot, &self.epoch.0]).await?;
        Ok(())
    }

    /// Deletes the rows of a removed Kafka output.
    pub async fn forget_tee(&self) -> Result<(), StateError> {
        self.forget_left_out().await?;
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
