//! The users that the Kafka output leaves out, and those that it publishes again.
//!
//! Both are recorded before the batch is committed to Kafka. A user that is published again stays among those that are left out until the
//! commit has succeeded, so that a publisher that ends before can publish the user once more.

use super::error::StateError;
use super::read::count_left_out;
#[cfg(feature = "kafka")]
use super::rows::LeftOutUser;
use super::rows::TeeRejected;
use super::schema::LEFT_OUT_TABLES;
use super::store::StateStore;
use crate::model::{TenantId, WhyLeftOut};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// How long `users_sync.tee_accepted` keeps a user.
const ACCEPTED_FOR: &str = "interval '1 day'";
/// Upper bound of the time from the record of an accepted user to the commit of the batch.
#[cfg(feature = "kafka")]
const COMMITTED_WITHIN: &str = "interval '5 minutes'";

/// The users that are left out, for whatever reason.
const LEFT_OUT: &str = "\
(SELECT slot, tenant, id_hash, id, bytes, max_bytes, NULL AS reason FROM users_sync.tee_rejected \
UNION ALL SELECT slot, tenant, id_hash, id, 0, 0, reason FROM users_sync.tee_unmappable)";

/// As the tables hold it.
fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Reads `bytes`, `max_bytes` and `reason`, from column `first` on.
fn why(row: &Row, first: usize) -> Result<WhyLeftOut, tokio_postgres::Error> {
    Ok(match row.try_get(first + 2)? {
        Some(reason) => WhyLeftOut::Unmappable(reason),
        None => WhyLeftOut::TooLarge {
            bytes: row.try_get::<_, i64>(first)?.unsigned_abs(),
            limit: row.try_get::<_, i64>(first + 1)?.unsigned_abs(),
        },
    })
}

impl StateStore {
    /// The users that are left out.
    pub async fn tee_rejected(&self) -> Result<Vec<TeeRejected>, StateError> {
        let sql = format!(
            "SELECT tenant, id, bytes, max_bytes, reason, EXISTS (SELECT FROM users_sync.tee_accepted a \
               WHERE (a.slot, a.tenant, a.id_hash) = (r.slot, r.tenant, r.id_hash)) \
             FROM {LEFT_OUT} r WHERE slot = $1 ORDER BY tenant, id"
        );
        let row = |row: &Row| {
            Ok(TeeRejected {
                tenant: TenantId::new(row.try_get(0)?),
                user: row.try_get(1)?,
                why: why(row, 2)?,
                may_be_published: row.try_get(5)?,
            })
        };
        let rows = self.client.query(&sql, &[&self.slot]).await?;
        Ok(rows.iter().map(row).collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// The time of the state's server, as text.
    pub async fn server_time(&self) -> Result<String, StateError> {
        Ok(self.client.query_one("SELECT clock_timestamp()::text", &[]).await?.try_get(0)?)
    }

    /// The users of these tenants that the topic may lack up to an end that was found after `begun` (of [`StateStore::server_time`]).
    #[cfg(feature = "kafka")]
    pub(crate) async fn left_out(&self, tenants: &[&str], begun: &str) -> Result<Vec<LeftOutUser>, StateError> {
        let sql = format!(
            "WITH a AS (SELECT * FROM users_sync.tee_accepted \
               WHERE slot = $1 AND tenant = ANY($2) AND at > $3::text::timestamptz - {COMMITTED_WITHIN}) \
             SELECT tenant, id, true, bytes, max_bytes, reason FROM {LEFT_OUT} r WHERE slot = $1 AND tenant = ANY($2) \
               AND NOT EXISTS (SELECT FROM a WHERE (a.tenant, a.id_hash) = (r.tenant, r.id_hash)) \
             UNION ALL SELECT tenant, id, false, 0, 0, NULL FROM a"
        );
        let row = |row: &Row| {
            let is_left_out: bool = row.try_get(2)?;
            Ok(LeftOutUser {
                tenant: TenantId::new(row.try_get(0)?),
                user: row.try_get(1)?,
                why: is_left_out.then(|| why(row, 3)).transpose()?,
            })
        };
        let rows = self.client.query(&sql, &[&self.tenants_slot, &tenants, &begun]).await?;
        Ok(rows.iter().map(row).collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// Records what a batch will change, before it is committed: users that it leaves out, each of them once, and users that it publishes
    /// again. Returns the number of users that are left out.
    pub async fn put_tee_rejected(
        &self,
        rejected: &[TeeRejected],
        accepted: &[(TenantId, String)],
    ) -> Result<u64, StateError> {
        let (mut large, mut bytes, mut limits) = (Vec::new(), Vec::new(), Vec::new());
        let (mut unmappable, mut reasons) = (Vec::new(), Vec::new());
        for TeeRejected { tenant, user, why, .. } in rejected {
            let user = (tenant.as_str(), user.as_str());
            match why {
                WhyLeftOut::TooLarge { bytes: size, limit } => {
                    large.push(user);
                    bytes.push(number(*size));
                    limits.push(number(*limit));
                }
                WhyLeftOut::Unmappable(reason) => {
                    unmappable.push(user);
                    reasons.push(reason.as_str());
                }
            }
        }
        let [too_large, not_mapped] = LEFT_OUT_TABLES;
        let sizes = [("bytes", "int8"), ("max_bytes", "int8")];
        self.put_left_out([too_large, not_mapped], &sizes, large, &[&bytes, &limits]).await?;
        self.put_left_out([not_mapped, too_large], &[("reason", "text")], unmappable, &[&reasons]).await?;
        if !accepted.is_empty() {
            self.put_accepted(accepted).await?;
        }
        self.count_tee_rejected().await
    }

    /// Writes users (tenant and id) into a table, with their values of these columns (name and type, one array each), and removes them
    /// from the other table and from those that are published again.
    async fn put_left_out(
        &self,
        [table, other]: [&str; 2],
        columns: &[(&str, &str)],
        users: Vec<(&str, &str)>,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(), StateError> {
        if users.is_empty() {
            return Ok(());
        }
        let each = |text: fn(usize, &str, &str) -> String| -> String {
            columns.iter().enumerate().map(|(at, (name, kind))| text(at, name, kind)).collect()
        };
        let names = each(|_, name, _| format!(", {name}"));
        let arrays = each(|at, _, kind| format!(", ${}::{kind}[]", at + 5));
        let changes = each(|_, name, _| format!("{name} = excluded.{name}, "));
        let remove = |from: &str| {
            format!(
                "DELETE FROM users_sync.{from} r USING n WHERE (r.slot, r.tenant, r.id_hash) = (n.slot, n.tenant, n.id_hash)"
            )
        };
        let sql = format!(
            "WITH n AS (SELECT s.slot, n.tenant, sha256(convert_to(n.id, 'UTF8')) AS id_hash, n.id{names} \
               FROM users_sync.source s, unnest($3::text[], $4::text[]{arrays}) AS n(tenant, id{names}) \
               WHERE s.slot = $1 AND s.epoch = $2), \
             other AS ({}), accepted AS ({}) \
             INSERT INTO users_sync.{table} (slot, tenant, id_hash, id{names}) SELECT * FROM n \
             ON CONFLICT (slot, tenant, id_hash) DO UPDATE SET {changes}seen_at = now()",
            remove(other),
            remove("tee_accepted")
        );
        let (tenants, ids): (Vec<&str>, Vec<&str>) = users.into_iter().unzip();
        let first: [&(dyn ToSql + Sync); 4] = [&self.slot, &self.epoch.0, &tenants, &ids];
        self.client.execute(&sql, &[&first[..], values].concat()).await?;
        Ok(())
    }

    async fn put_accepted(&self, accepted: &[(TenantId, String)]) -> Result<(), StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) =
            accepted.iter().map(|(tenant, id)| (tenant.as_str(), id.as_str())).unzip();
        let sql = format!(
            "WITH n AS (SELECT DISTINCT s.slot, n.tenant, sha256(convert_to(n.id, 'UTF8')) AS id_hash, n.id \
               FROM users_sync.source s, unnest($3::text[], $4::text[]) AS n(tenant, id) WHERE s.slot = $1 AND s.epoch = $2), \
             old AS (DELETE FROM users_sync.tee_accepted a USING users_sync.source s \
               WHERE s.slot = $1 AND s.epoch = $2 AND a.slot = s.slot AND a.at < now() - {ACCEPTED_FOR} \
                 AND NOT EXISTS (SELECT FROM n WHERE (n.tenant, n.id_hash) = (a.tenant, a.id_hash))) \
             INSERT INTO users_sync.tee_accepted (slot, tenant, id_hash, id) SELECT slot, tenant, id_hash, id FROM n \
             ON CONFLICT (slot, tenant, id_hash) DO UPDATE SET at = now()"
        );
        self.client.execute(&sql, &[&self.slot, &self.epoch.0, &tenants, &ids]).await?;
        Ok(())
    }

    /// Removes users once the batch that publishes them again is committed. Returns the number of users that are left out.
    pub async fn remove_tee_rejected(&self, users: &[(TenantId, String)]) -> Result<u64, StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) =
            users.iter().map(|(tenant, id)| (tenant.as_str(), id.as_str())).unzip();
        let which = "(r.tenant, r.id_hash) IN (SELECT n.tenant, sha256(convert_to(n.id, 'UTF8')) \
                     FROM unnest($3::text[], $4::text[]) AS n(tenant, id))";
        self.delete_left_out(which, &[&tenants, &ids]).await?;
        self.count_tee_rejected().await
    }

    /// Removes the users of these tenants that a snapshot, which began at `begun`, has not left out: the source does not have them.
    /// Returns the number of users that are left out.
    pub async fn finish_left_out(&self, tenants: &[&str], begun: &str) -> Result<u64, StateError> {
        let which = "r.tenant = ANY($3) AND r.seen_at < $4::text::timestamptz";
        self.delete_left_out(which, &[&tenants, &begun]).await?;
        self.count_tee_rejected().await
    }

    /// Removes the users of tenants that the configuration does not have.
    pub async fn keep_left_out_of(&self, tenants: &[&str]) -> Result<(), StateError> {
        self.delete_left_out("r.tenant <> ALL($3)", &[&tenants]).await
    }

    /// Removes users that fulfil the condition on `r`, whose parameters begin with `$3`.
    async fn delete_left_out(&self, which: &str, values: &[&(dyn ToSql + Sync)]) -> Result<(), StateError> {
        let first: [&(dyn ToSql + Sync); 2] = [&self.slot, &self.epoch.0];
        let parameters = [&first[..], values].concat();
        for table in LEFT_OUT_TABLES {
            let sql = format!(
                "DELETE FROM users_sync.{table} r USING users_sync.source s \
                 WHERE s.slot = $1 AND s.epoch = $2 AND r.slot = s.slot AND {which}"
            );
            self.client.execute(&sql, &parameters).await?;
        }
        Ok(())
    }

    async fn count_tee_rejected(&self) -> Result<u64, StateError> {
        count_left_out(&self.client, &self.slot, &LEFT_OUT_TABLES).await
    }

    /// Deletes the rows of a removed Kafka output.
    pub(super) async fn forget_left_out(&self) -> Result<(), StateError> {
        for table in LEFT_OUT_TABLES.into_iter().chain(["tee_accepted"]) {
            self.client.execute(&format!("DELETE FROM users_sync.{table} WHERE slot = $1"), &[&self.slot]).await?;
        }
        Ok(())
    }
}
