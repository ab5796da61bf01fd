//! Reads which tenants have users at the source.

use crate::map::Rules;
use crate::model::KeyCount;
use crate::pg::describe;
use crate::replicator::source::mapping::MappedRelation;
use crate::replicator::source::user_counts::users_by_key;
use crate::snapshot::source_session;
use tokio_postgres::Client;

/// Keys that are proposed as tenants: a longer list is not written by hand.
const MAX_KEYS: usize = 50;
/// Time for reading a large table.
const TIMEOUT: &str = "SET statement_timeout = '30s'";

/// The tenants that a source has users of.
#[derive(Debug)]
pub(crate) enum Keys {
    /// The mapping has no tenant: all users belong to one.
    One,
    /// At most [`MAX_KEYS`] keys with the most users, and how many others there are.
    Counted { largest: Vec<KeyCount>, others: u64 },
    /// They cannot be read, for this reason.
    Unknown(String),
}

/// Counts the users of each tenant. Row security makes the result `Unknown` instead of incomplete.
pub(crate) async fn read_keys(client: &Client, rules: &Rules, mapped: &MappedRelation) -> Keys {
    if rules.tenant.is_none() {
        return Keys::One;
    }
    let sql = format!(
        "SELECT k, n, count(*) OVER () FROM ({}) c WHERE k IS NOT NULL ORDER BY n DESC, k LIMIT {MAX_KEYS}",
        users_by_key(rules, mapped)
    );
    let counted = async {
        source_session(client).await?;
        client.batch_execute(TIMEOUT).await?;
        let (mut largest, mut others) = (Vec::new(), 0);
        for row in client.query_typed(&sql, &[]).await? {
            largest.push(KeyCount { key: row.try_get(0)?, users: row.try_get::<_, i64>(1)?.unsigned_abs() });
            others = row.try_get::<_, i64>(2)?.unsigned_abs() - largest.len() as u64;
        }
        Ok(Keys::Counted { largest, others })
    };
    counted.await.unwrap_or_else(|error: tokio_postgres::Error| Keys::Unknown(describe(&error)))
}
