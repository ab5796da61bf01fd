//! The row of the Kafka output.

use super::error::StateError;
use super::read::read_tee;
use super::rows::{TeeFailure, TeePublished, TeeRejected, TeeRow, TenantState};
use super::store::StateStore;
use crate::model::{TenantId, TopicTrouble};
use std::collections::BTreeMap;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

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

    /// The users whose messages were too large for Kafka.
    pub async fn tee_rejected(&self) -> Result<Vec<TeeRejected>, StateError> {
        let sql =
            "SELECT tenant, id, bytes, max_bytes FROM users_sync.tee_rejected WHERE slot = $1 ORDER BY tenant, id";
        let row = |row: &Row| {
            Ok(TeeRejected {
                tenant: TenantId::new(row.try_get(0)?),
                user: row.try_get(1)?,
                bytes: row.try_get::<_, i64>(2)?.unsigned_abs(),
                limit: row.try_get::<_, i64>(3)?.unsigned_abs(),
            })
        };
        let rows = self.client.query(sql, &[&self.slot]).await?;
        Ok(rows.iter().map(row).collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// Adds users whose messages are too large for Kafka, and removes those whose messages are published again. Returns the
    /// number of such users.
    pub async fn put_tee_rejected(
        &self,
        rejected: &[TeeRejected],
        accepted: &[(TenantId, String)],
    ) -> Result<u64, StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) =
            accepted.iter().map(|(tenant, id)| (tenant.as_str(), id.as_str())).unzip();
        let sql = "DELETE FROM users_sync.tee_rejected r USING users_sync.source s, unnest($3::text[], $4::text[]) AS a(tenant, id) \
                   WHERE s.slot = $1 AND s.epoch = $2 AND r.slot = s.slot AND r.tenant = a.tenant \
                     AND r.id_hash = sha256(convert_to(a.id, 'UTF8'))";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants, &ids]).await?;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // One transaction may set a user aside several times.
        let rejected: BTreeMap<(&str, &str), &TeeRejected> =
            rejected.iter().map(|row| ((row.tenant.as_str(), &*row.user), row)).collect();
        let (tenants, ids): (Vec<&str>, Vec<&str>) = rejected.keys().copied().unzip();
        let (bytes, limits): (Vec<i64>, Vec<i64>) =
            rejected.values().map(|row| (number(row.bytes), number(row.limit))).unzip();
        let sql = "INSERT INTO users_sync.tee_rejected AS r (slot, tenant, id_hash, id, bytes, max_bytes) \
                   SELECT s.slot, n.tenant, sha256(convert_to(n.id, 'UTF8')), n.id, n.bytes, n.max_bytes FROM users_sync.source s, \
                     unnest($3::text[], $4::text[], $5::int8[], $6::int8[]) AS n(tenant, id, bytes, max_bytes) \
                   WHERE s.slot = $1 AND s.epoch = $2 \
                   ON CONFLICT (slot, tenant, id_hash) DO UPDATE SET bytes = excluded.bytes, max_bytes = excluded.max_bytes";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants, &ids, &bytes, &limits]).await?;
        self.count_tee_rejected().await
    }

    /// Forgets the users of these tenants, whose snapshot publishes or sets aside each of them. Returns the number of users that are left.
    pub async fn clear_tee_rejected(&self, tenants: &[&str]) -> Result<u64, StateError> {
        let sql = "DELETE FROM users_sync.tee_rejected r USING users_sync.source s \
                   WHERE s.slot = $1 AND s.epoch = $2 AND r.slot = s.slot AND r.tenant = ANY($3)";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants]).await?;
        self.count_tee_rejected().await
    }

    async fn count_tee_rejected(&self) -> Result<u64, StateError> {
        let sql = "SELECT count(*) FROM users_sync.tee_rejected WHERE slot = $1";
        Ok(self.client.query_one(sql, &[&self.slot]).await?.try_get::<_, i64>(0)?.unsigned_abs())
    }

    /// Deletes the rows of a removed Kafka output.
    pub async fn forget_tee(&self) -> Result<(), StateError> {
        self.client.execute("DELETE FROM users_sync.tee_rejected WHERE slot = $1", &[&self.slot]).await?;
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
