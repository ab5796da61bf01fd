//! What the state says of the tee. How far it is stands in Kafka, beside what it has published.

use super::{StateError, StateStore, TenantState};
use tokio_postgres::Client;

/// The tee, as the process that runs it has written it down.
#[derive(Clone, Debug, PartialEq)]
pub struct TeeRow {
    /// Its replication slot.
    pub slot: String,
    /// Joining while it takes a snapshot.
    pub state: TenantState,
    /// How long it has been in that state, in seconds.
    pub since_seconds: f64,
    /// Why it waits, or is parked.
    pub reason: Option<String>,
    /// What mends that.
    pub remedy: Option<String>,
    /// A snapshot of every tenant is asked for.
    pub requested: bool,
}

pub(super) async fn read(client: &Client, slot: &str) -> Result<Option<TeeRow>, StateError> {
    let sql = "SELECT tee_slot, state, extract(epoch FROM now() - since)::float8, reason, remedy, requested \
               FROM users_sync.tee WHERE slot = $1";
    Ok(client.query_opt(sql, &[&slot]).await?.map(|row| TeeRow {
        slot: row.get(0),
        state: TenantState::parse(row.get(1)),
        since_seconds: row.get(2),
        reason: row.get(3),
        remedy: row.get(4),
        requested: row.get(5),
    }))
}

impl StateStore {
    /// What the state says of the tee.
    pub async fn tee(&self) -> Result<Option<TeeRow>, StateError> {
        read(&self.client, &self.slot).await
    }

    /// Writes the tee's state down, before anything is done that depends on it.
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

    /// Every tenant's users are in Kafka again: what was asked for is done.
    pub async fn finish_tee_request(&self) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.tee t SET requested = false FROM users_sync.source s \
                   WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot";
        self.client.execute(sql, &[&self.slot, &self.epoch.0]).await?;
        Ok(())
    }

    /// There is no tee any more.
    pub async fn forget_tee(&self) -> Result<(), StateError> {
        let sql = "DELETE FROM users_sync.tee t USING users_sync.source s \
                   WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot";
        self.client.execute(sql, &[&self.slot, &self.epoch.0]).await?;
        Ok(())
    }

    /// Asks the process that runs the tee for a snapshot of every tenant; whether there is one to ask.
    pub async fn request_tee(client: &Client, slot: &str) -> Result<bool, StateError> {
        let sql = "UPDATE users_sync.tee SET requested = true WHERE slot = $1";
        Ok(client.execute(sql, &[&slot]).await? == 1)
    }
}
