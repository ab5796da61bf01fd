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
use std::collections::BTreeMap;
use tokio_postgres::Row;

/// How long `users_sync.tee_accepted` keeps a user.
const ACCEPTED_FOR: &str = "interval '1 day'";
/// Upper bound of the time from the record of an accepted user to the commit of the batch.
#[cfg(feature = "kafka")]
const COMMITTED_WITHIN: &str = "interval '5 minutes'";

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

    /// Records what a batch will change, before it is committed: users that it leaves out, and users that it publishes again. Returns the
    /// number of users that are left out.
    pub async fn put_tee_rejected(
        &self,
        rejected: &[TeeRejected],
        accepted: &[(TenantId, String)],
    ) -> Result<u64, StateError> {
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
        if !large.users.is_empty() {
            self.put_too_large(large).await?;
        }
        if !unmappable.users.is_empty() {
            self.put_unmappable(unmappable).await?;
        }
        if !accepted.is_empty() {
            self.put_accepted(accepted).await?;
        }
        self.count_tee_rejected().await
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
        for table in LEFT_OUT_TABLES {
            let sql = format!(
                "DELETE FROM users_sync.{table} r USING users_sync.source s, unnest($3::text[], $4::text[]) AS n(tenant, id) \
                 WHERE s.slot = $1 AND s.epoch = $2 AND r.slot = s.slot AND r.tenant = n.tenant \
                   AND r.id_hash = sha256(convert_to(n.id, 'UTF8'))"
            );
            self.client.execute(&sql, &[&self.slot, &self.epoch.0, &tenants, &ids]).await?;
        }
        self.count_tee_rejected().await
    }

    /// Removes the users of these tenants that a snapshot, which began at `begun`, has not left out: the source does not have them.
    /// Returns the number of users that are left out.
    pub async fn finish_left_out(&self, tenants: &[&str], begun: &str) -> Result<u64, StateError> {
        for table in LEFT_OUT_TABLES {
            let sql = format!(
                "DELETE FROM users_sync.{table} r USING users_sync.source s \
                 WHERE s.slot = $1 AND s.epoch = $2 AND r.slot = s.slot AND r.tenant = ANY($3) \
                   AND r.seen_at < $4::text::timestamptz"
            );
            self.client.execute(&sql, &[&self.slot, &self.epoch.0, &tenants, &begun]).await?;
        }
        self.count_tee_rejected().await
    }

    /// Removes the users of tenants that the configuration does not have.
    pub async fn keep_left_out_of(&self, tenants: &[&str]) -> Result<(), StateError> {
        for table in LEFT_OUT_TABLES {
            let sql = format!(
                "DELETE FROM users_sync.{table} r USING users_sync.source s \
                 WHERE s.slot = $1 AND s.epoch = $2 AND r.slot = s.slot AND r.tenant <> ALL($3)"
            );
            self.client.execute(&sql, &[&self.slot, &self.epoch.0, &tenants]).await?;
        }
        Ok(())
    }

    async fn put_too_large(&self, TooLarge { users, bytes, limits }: TooLarge<'_>) -> Result<(), StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) = users.into_iter().unzip();
        let sql = "WITH n AS (SELECT s.slot, n.tenant, sha256(convert_to(n.id, 'UTF8')) AS id_hash, n.id, n.bytes, n.max_bytes \
                     FROM users_sync.source s, \
                       unnest($3::text[], $4::text[], $5::int8[], $6::int8[]) AS n(tenant, id, bytes, max_bytes) \
                     WHERE s.slot = $1 AND s.epoch = $2), \
                   other AS (DELETE FROM users_sync.tee_unmappable r USING n \
                     WHERE (r.slot, r.tenant, r.id_hash) = (n.slot, n.tenant, n.id_hash)), \
                   a AS (DELETE FROM users_sync.tee_accepted r USING n \
                     WHERE (r.slot, r.tenant, r.id_hash) = (n.slot, n.tenant, n.id_hash)) \
                   INSERT INTO users_sync.tee_rejected AS r (slot, tenant, id_hash, id, bytes, max_bytes) SELECT * FROM n \
                   ON CONFLICT (slot, tenant, id_hash) DO UPDATE \
                     SET bytes = excluded.bytes, max_bytes = excluded.max_bytes, seen_at = now()";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants, &ids, &bytes, &limits]).await?;
        Ok(())
    }

    async fn put_unmappable(&self, Unmappable { users, reasons }: Unmappable<'_>) -> Result<(), StateError> {
        let (tenants, ids): (Vec<&str>, Vec<&str>) = users.into_iter().unzip();
        let sql = "WITH n AS (SELECT s.slot, n.tenant, sha256(convert_to(n.id, 'UTF8')) AS id_hash, n.id, n.reason \
                     FROM users_sync.source s, unnest($3::text[], $4::text[], $5::text[]) AS n(tenant, id, reason) \
                     WHERE s.slot = $1 AND s.epoch = $2), \
                   other AS (DELETE FROM users_sync.tee_rejected r USING n \
                     WHERE (r.slot, r.tenant, r.id_hash) = (n.slot, n.tenant, n.id_hash)), \
                   a AS (DELETE FROM users_sync.tee_accepted r USING n \
                     WHERE (r.slot, r.tenant, r.id_hash) = (n.slot, n.tenant, n.id_hash)) \
                   INSERT INTO users_sync.tee_unmappable AS r (slot, tenant, id_hash, id, reason) SELECT * FROM n \
                   ON CONFLICT (slot, tenant, id_hash) DO UPDATE SET reason = excluded.reason, seen_at = now()";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants, &ids, &reasons]).await?;
        Ok(())
    }

    async fn count_tee_rejected(&self) -> Result<u64, StateError> {
        count_left_out(&self.client, &self.slot).await
    }

    /// Deletes the rows of a removed Kafka output.
    pub(super) async fn forget_left_out(&self) -> Result<(), StateError> {
        for table in LEFT_OUT_TABLES.into_iter().chain(["tee_accepted"]) {
            self.client.execute(&format!("DELETE FROM users_sync.{table} WHERE slot = $1"), &[&self.slot]).await?;
        }
        Ok(())
    }
}
