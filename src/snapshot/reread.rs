//! Rows that the stream did not carry whole, read from the source by id, once what changed them is visible there.
//!
//! A transaction can be streamed before readers see it (with a synchronous standby it waits between the two), so a
//! row that is read too early would be an old one.

use super::rows::{RowStream, SourceReadError};
use crate::map::{KEYS_SETTING, Rules, ids_condition, key_columns, keys_condition};
use crate::model::{Cell, Lsn, Relation, Xid};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

/// How long to wait before looking again whether a transaction is visible.
const VISIBILITY_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A transaction of the source in which every one of some earlier transactions is visible.
pub struct Reading<'a> {
    client: &'a Client,
    seen: Seen,
    position: Lsn,
}

/// Which transactions a reading saw (manual: "pg_snapshot", `xmin:xmax:xip,...`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen(String);

impl Seen {
    /// Whether a transaction that has committed is among them. The id lacks its epoch; it is taken as the nearest
    /// one to the snapshot's.
    pub fn contains(&self, xid: Xid) -> bool {
        let mut parts = self.0.splitn(3, ':').skip(1);
        let xmax: u64 = parts.next().and_then(|xmax| xmax.parse().ok()).unwrap_or(0);
        // The distance on the circle of 32-bit ids: positive when the transaction is not yet in the snapshot's past.
        let ahead = xid.0.wrapping_sub(xmax as u32) as i32;
        let running = |list: &str| list.split(',').any(|id| id.parse::<u64>().is_ok_and(|id| id as u32 == xid.0));
        ahead < 0 && !parts.next().is_some_and(running)
    }
}

impl<'a> Reading<'a> {
    /// Begins once all of `xids` are visible.
    pub async fn begin(client: &'a Client, xids: &[Xid]) -> Result<Reading<'a>, SourceReadError> {
        loop {
            client.batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let sql = "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()";
            let row = client.query_one(sql, &[]).await?;
            let seen = Seen(row.get(0));
            if xids.iter().all(|xid| seen.contains(*xid)) {
                return Ok(Reading { client, seen, position: Lsn(u64::from(row.get::<_, PgLsn>(1))) });
            }
            client.batch_execute("ROLLBACK").await?;
            tokio::time::sleep(VISIBILITY_POLL_INTERVAL).await;
        }
    }

    /// Everything that it sees was committed before this.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// Hands the rows with these keys to `each`. Rows that are not there are gone, or moved.
    pub async fn read(
        &self,
        rows: &Rows<'_>,
        keys: &[Vec<&str>],
        mut each: impl FnMut(&[Cell<'_>]) + Send,
    ) -> Result<(), SourceReadError> {
        let keys =
            serde_json::Value::from_iter(keys.iter().map(|key| serde_json::Value::from_iter(key.iter().copied())));
        self.client.query_one("SELECT set_config($1, $2, true)", &[&KEYS_SETTING, &keys.to_string()]).await?;
        let condition = match &rows.by {
            By::Columns(names) => {
                let mut columns = Vec::with_capacity(names.len());
                for name in names {
                    let column = rows.relation.columns.iter().find(|column| column.name == *name);
                    let oid = column.map(|column| column.type_oid);
                    // Without a length: char(36) would be cut to char(1).
                    let row = self.client.query_one("SELECT format_type($1, -1)", &[&oid]).await?;
                    columns.push((*name, row.get(0)));
                }
                keys_condition(&columns)
            }
            By::Condition(condition) => condition.clone(),
        };
        let mut stream = RowStream::open(self.client, rows.from, rows.relation, rows.decoded, &condition).await?;
        while stream.advance().await? {
            let mut cells = Vec::new();
            stream.cells(&mut cells)?;
            each(&cells);
        }
        Ok(())
    }

    /// Ends it; gives what it saw.
    pub async fn end(self) -> Result<Seen, SourceReadError> {
        self.client.batch_execute("ROLLBACK").await?;
        Ok(self.seen)
    }
}

/// What is to be read, and how its rows are found.
pub struct Rows<'a> {
    /// An item of FROM: the table, or a query.
    pub from: &'a str,
    /// Its columns.
    pub relation: &'a Relation,
    /// Which of them.
    pub decoded: &'a [bool],
    /// By what.
    pub by: By<'a>,
}

/// How rows are found.
pub enum By<'a> {
    /// By the values of these columns, which an index may serve.
    Columns(Vec<&'a str>),
    /// By a condition over the keys in [`KEYS_SETTING`].
    Condition(String),
}

impl<'a> By<'a> {
    /// By the user's id alone, also where the mapping's key is longer.
    pub fn ids(rules: &'a Rules, relation: &Relation) -> By<'a> {
        match By::mapping(rules, relation) {
            By::Columns(columns) if columns.len() > 1 => By::Condition(ids_condition(rules, relation)),
            by => by,
        }
    }

    /// The mapping's own way.
    pub fn mapping(rules: &'a Rules, relation: &Relation) -> By<'a> {
        key_columns(rules, relation).map_or_else(|| By::Condition(ids_condition(rules, relation)), By::Columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_visible_once_it_has_ended() {
        for (xid, snapshot, visible) in [
            (10, "10:10:", false),
            (9, "10:10:", true),
            (9, "9:12:9,11", false),
            (10, "9:12:9,11", true),
            (11, "9:12:9,11", false),
            (12, "9:12:9,11", false),
            (u32::MAX, "4294967296:4294967300:", true),
            (3, "4294967296:4294967300:", true),
            (4, "4294967296:4294967300:", false),
            (3, "4294967296:4294967300:4294967299", false),
        ] {
            assert_eq!(Seen(snapshot.to_owned()).contains(Xid(xid)), visible, "{xid} in {snapshot}");
        }
    }
}
