//! The users that the Kafka output leaves out, and those that it publishes again.

use super::error::StateError;
#[cfg(feature = "kafka")]
use super::rows::LeftOutUser;
use super::rows::TeeRejected;
use super::store::StateStore;
use crate::model::{TenantId, WhyLeftOut};
use std::collections::BTreeMap;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

/// Length of time for which a user that is published again stays in `users_sync.tee_accepted`: longer than it takes from the end of
/// what a rebuild reads in the topic to the query for the users that are left out.
const ACCEPTED_FOR: &str = "interval '1 day'";

/// The users that are left out, for whatever reason.
const LEFT_OUT: &str = "\
(SELECT slot, tenant, id_hash, id, bytes, max_bytes, NULL AS reason FROM users_sync.tee_rejected \
UNION ALL SELECT slot, tenant, id_hash, id, 0, 0, reason FROM users_sync.tee_unmappable)";

/// Users by tenant and id, whose messages are too large.
#[derive(Default)]
struct TooLarge<'a> {
    users: Vec<(&'a str, &'a str)>,
    bytes: Vec<i64>,
    limits: Vec<i64>,
}

/// Users by tenant and id, whose rows cannot be mapped.
#[derive(Default)]
struct Unmappable<'a> {
    users: Vec<(&'a str, &'a str)>,
    reasons: Vec<&'a str>,
}

/// The number of users that the Kafka output of a slot leaves out. Tables of an earlier version may be missing.
pub(super) async fn count(client: &Client, slot: &str) -> Result<u64, StateError> {
    let mut users = 0;
    for table in ["tee_rejected", "tee_unmappable"] {
        let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&format!("users_sync.{table}")]).await?;
        if there.try_get(0)? {
            let sql = format!("SELECT count(*) FROM users_sync.{table} WHERE slot = $1");
            users += client.query_one(&sql, &[&slot]).await?.try_get::<_, i64>(0)?.unsigned_abs();
        }
    }
    Ok(users)
}

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
            "SELECT tenant, id, bytes, max_bytes, reason FROM {LEFT_OUT} r WHERE slot = $1 ORDER BY tenant, id"
        );
        let row = |row: &Row| {
            Ok(TeeRejected { tenant: TenantId::new(row.try_get(0)?), user: row.try_get(1)?, why: why(row, 2)? })
        };
        let rows = self.client.query(&sql, &[&self.slot]).await?;
        Ok(rows.iter().map(row).collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// The users of these tenants that the topic may lack up to an end that it had within the last day.
    #[cfg(feature = "kafka")]
    pub(crate) async fn left_out(&self, tenants: &[&str]) -> Result<Vec<LeftOutUser>, StateError> {
        let sql = format!(
            "WITH l AS (SELECT * FROM {LEFT_OUT} r WHERE slot = $1 AND tenant = ANY($2)) \
             SELECT tenant, id, true, bytes, max_bytes, reason FROM l \
             UNION ALL SELECT tenant, id, false, 0, 0, NULL FROM users_sync.tee_accepted a \
             WHERE slot = $1 AND tenant = ANY($2) \
               AND NOT EXISTS (SELECT FROM l WHERE (l.tenant, l.id_hash) = (a.tenant, a.id_hash))"
        );
        let row = |row: &Row| {
            let is_left_out: bool = row.try_get(2)?;
            Ok(LeftOutUser {
                tenant: TenantId::new(row.try_get(0)?),
                user: row.try_get(1)?,
                why: is_left_out.then(|| why(row, 3)).transpose()?,
            })
        };
        let rows = self.client.query(&sql, &[&self.tenants_slot, &tenants]).await?;
        Ok(rows.iter().map(row).collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// Adds users that are left out, and removes those that are published again. Returns the number of users that are left out.
    pub async fn put_tee_rejected(
        &self,
        rejected: &[TeeRejected],
        accepted: &[(TenantId, String)],
    ) -> Result<u64, StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) =
            accepted.iter().map(|(tenant, id)| (tenant.as_str(), id.as_str())).unzip();
        let which = "(r.tenant, r.id_hash) IN \
                     (SELECT a.tenant, sha256(convert_to(a.id, 'UTF8')) FROM unnest($3::text[], $4::text[]) AS a(tenant, id))";
        self.accept(which, &[&self.slot, &self.epoch.0, &tenants, &ids]).await?;
        // One transaction may leave a user out several times: the last reason counts.
        let rejected: BTreeMap<(&str, &str), &TeeRejected> =
            rejected.iter().map(|row| ((row.tenant.as_str(), &*row.user), row)).collect();
        let (mut large, mut unmappable) = (TooLarge::default(), Unmappable::default());
        for (user, row) in rejected {
            match &row.why {
                WhyLeftOut::TooLarge { bytes, limit } => {
                    large.users.push(user);
                    large.bytes.push(number(*bytes));
                    large.limits.push(number(*limit));
                }
                WhyLeftOut::Unmappable(reason) => {
                    unmappable.users.push(user);
                    unmappable.reasons.push(reason);
                }
            }
        }
        self.put_too_large(large).await?;
        self.put_unmappable(unmappable).await?;
        self.count_tee_rejected().await
    }

    async fn put_too_large(&self, TooLarge { users, bytes, limits }: TooLarge<'_>) -> Result<(), StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) = users.into_iter().unzip();
        let sql = "WITH n AS (SELECT s.slot, n.tenant, sha256(convert_to(n.id, 'UTF8')) AS id_hash, n.id, n.bytes, n.max_bytes \
                     FROM users_sync.source s, \
                       unnest($3::text[], $4::text[], $5::int8[], $6::int8[]) AS n(tenant, id, bytes, max_bytes) \
                     WHERE s.slot = $1 AND s.epoch = $2), \
                   other AS (DELETE FROM users_sync.tee_unmappable r USING n \
                     WHERE (r.slot, r.tenant, r.id_hash) = (n.slot, n.tenant, n.id_hash)) \
                   INSERT INTO users_sync.tee_rejected AS r (slot, tenant, id_hash, id, bytes, max_bytes) SELECT * FROM n \
                   ON CONFLICT (slot, tenant, id_hash) DO UPDATE SET bytes = excluded.bytes, max_bytes = excluded.max_bytes";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants, &ids, &bytes, &limits]).await?;
        Ok(())
    }

    async fn put_unmappable(&self, Unmappable { users, reasons }: Unmappable<'_>) -> Result<(), StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) = users.into_iter().unzip();
        let sql = "WITH n AS (SELECT s.slot, n.tenant, sha256(convert_to(n.id, 'UTF8')) AS id_hash, n.id, n.reason \
                     FROM users_sync.source s, unnest($3::text[], $4::text[], $5::text[]) AS n(tenant, id, reason) \
                     WHERE s.slot = $1 AND s.epoch = $2), \
                   other AS (DELETE FROM users_sync.tee_rejected r USING n \
                     WHERE (r.slot, r.tenant, r.id_hash) = (n.slot, n.tenant, n.id_hash)) \
                   INSERT INTO users_sync.tee_unmappable AS r (slot, tenant, id_hash, id, reason) SELECT * FROM n \
                   ON CONFLICT (slot, tenant, id_hash) DO UPDATE SET reason = excluded.reason";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants, &ids, &reasons]).await?;
        Ok(())
    }

    /// Removes the users of these tenants, whose snapshot publishes or leaves out each of them. Returns the number of users that are left
    /// out.
    pub async fn clear_tee_rejected(&self, tenants: &[&str]) -> Result<u64, StateError> {
        self.accept("r.tenant = ANY($3)", &[&self.slot, &self.epoch.0, &tenants]).await?;
        self.count_tee_rejected().await
    }

    /// Moves users that fulfil the condition on `r` to those that are published again. The first two parameters are slot and epoch.
    async fn accept(&self, which: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), StateError> {
        let remove = |table: &str| {
            format!(
                "DELETE FROM users_sync.{table} r USING users_sync.source s \
                 WHERE s.slot = $1 AND s.epoch = $2 AND r.slot = s.slot AND {which} RETURNING r.slot, r.tenant, r.id_hash, r.id"
            )
        };
        let sql = format!(
            "WITH large AS ({}), unmappable AS ({}), \
             moved AS (SELECT * FROM large UNION SELECT * FROM unmappable), \
             old AS (DELETE FROM users_sync.tee_accepted a USING users_sync.source s \
               WHERE s.slot = $1 AND s.epoch = $2 AND a.slot = s.slot AND a.at < now() - {ACCEPTED_FOR} \
                 AND NOT EXISTS (SELECT FROM moved m WHERE (m.tenant, m.id_hash) = (a.tenant, a.id_hash))) \
             INSERT INTO users_sync.tee_accepted (slot, tenant, id_hash, id) SELECT slot, tenant, id_hash, id FROM moved \
             ON CONFLICT (slot, tenant, id_hash) DO UPDATE SET at = now()",
            remove("tee_rejected"),
            remove("tee_unmappable")
        );
        self.client.execute(&sql, parameters).await?;
        Ok(())
    }

    async fn count_tee_rejected(&self) -> Result<u64, StateError> {
        count(&self.client, &self.slot).await
    }

    /// Deletes the rows of a removed Kafka output.
    pub(super) async fn forget_left_out(&self) -> Result<(), StateError> {
        for table in ["tee_rejected", "tee_unmappable", "tee_accepted"] {
            self.client.execute(&format!("DELETE FROM users_sync.{table} WHERE slot = $1"), &[&self.slot]).await?;
        }
        Ok(())
    }
}
