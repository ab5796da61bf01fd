//! Reads rows from the source by id that the stream did not carry whole, once their changes are visible
//! there.
//!
//! A transaction can be streamed before readers see it (with a synchronous standby it waits in between), so
//! an early read would return the old row.

use super::rows::{RowStream, SourceReadError};
use crate::map::{KEYS_SETTING, Rules, ids_condition, key_columns, keys_condition, may_be};
use crate::model::{Cell, Lsn, Oid, Relation, Xid};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

/// Interval between checks whether a transaction is visible.
const VISIBILITY_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A transaction on the source that sees all of some earlier transactions.
pub(crate) struct Reading<'a> {
    client: &'a Client,
    seen: SeenXids,
    position: Lsn,
}

/// The transactions that a reading saw (manual: "pg_snapshot", `xmin:xmax:xip,...`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenXids(String);

impl SeenXids {
    /// Whether it saw a committed transaction. The id has no epoch; the one nearest to the snapshot is
    /// assumed.
    pub(crate) fn contains(&self, xid: Xid) -> bool {
        let mut parts = self.0.splitn(3, ':').skip(1);
        let xmax: u64 = parts.next().and_then(|xmax| xmax.parse().ok()).unwrap_or(0);
        // The distance on the circle of 32-bit ids; negative if the transaction is in the snapshot's past.
        let ahead = xid.0.wrapping_sub(xmax as u32) as i32;
        let running = |list: &str| list.split(',').any(|id| id.parse::<u64>().is_ok_and(|id| id as u32 == xid.0));
        ahead < 0 && !parts.next().is_some_and(running)
    }
}

impl<'a> Reading<'a> {
    /// Begins a transaction that sees all of `xids`, waiting for them if necessary.
    pub(crate) async fn begin(client: &'a Client, xids: &[Xid]) -> Result<Reading<'a>, SourceReadError> {
        loop {
            client.batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            let sql = "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()";
            let row = client.query_one(sql, &[]).await?;
            let seen = SeenXids(row.try_get(0)?);
            if xids.iter().all(|xid| seen.contains(*xid)) {
                return Ok(Reading { client, seen, position: Lsn(u64::from(row.try_get::<_, PgLsn>(1)?)) });
            }
            client.batch_execute("ROLLBACK").await?;
            tokio::time::sleep(VISIBILITY_POLL_INTERVAL).await;
        }
    }

    /// Every transaction that it sees committed before this position.
    pub(crate) fn position(&self) -> Lsn {
        self.position
    }

    /// Passes the rows with these keys to `each`. A missing row was deleted or moved, or its key is none of the columns' types.
    pub(crate) async fn read(
        &self,
        rows: &RowQuery<'_>,
        keys: &[Vec<&str>],
        mut each: impl FnMut(&[Cell<'_>]) + Send,
    ) -> Result<(), SourceReadError> {
        let mut types: Vec<Option<Oid>> = Vec::new();
        let condition = match &rows.by {
            FindBy::Columns(names) => {
                let mut columns = Vec::with_capacity(names.len());
                for name in names {
                    let column = rows.relation.columns.iter().find(|column| column.name == *name);
                    let oid = column.map(|column| column.type_oid);
                    // Without a type modifier: with one, char(36) would be cut to char(1).
                    let row = self.client.query_one("SELECT format_type($1, -1)", &[&oid]).await?;
                    columns.push((*name, row.try_get(0)?));
                    types.push(oid);
                }
                keys_condition(&columns)
            }
            FindBy::Condition(condition) => condition.clone(),
        };
        let may_exist = |key: &&Vec<&str>| {
            let mut parts = key.iter().zip(&types);
            parts.all(|(text, oid)| oid.is_none_or(|oid| may_be(oid, text)))
        };
        let keys = keys.iter().filter(may_exist).map(|key| serde_json::Value::from_iter(key.iter().copied()));
        let keys = serde_json::Value::from_iter(keys);
        self.client.query_one("SELECT set_config($1, $2, true)", &[&KEYS_SETTING, &keys.to_string()]).await?;
        let mut stream =
            RowStream::open(self.client, rows.from, rows.relation, rows.decoded, rows.max_row, &condition).await?;
        while stream.advance().await? {
            let mut cells = Vec::new();
            stream.cells(&mut cells)?;
            each(&cells);
        }
        Ok(())
    }

    /// Ends the transaction. Returns what it saw.
    pub(crate) async fn end(self) -> Result<SeenXids, SourceReadError> {
        self.client.batch_execute("ROLLBACK").await?;
        Ok(self.seen)
    }
}

/// The rows to read, and how to find them.
pub(crate) struct RowQuery<'a> {
    /// An item of FROM: the table or a query.
    pub(crate) from: &'a str,
    /// Its columns.
    pub(crate) relation: &'a Relation,
    /// Whether each column is read.
    pub(crate) decoded: &'a [bool],
    /// The most bytes of a row that is mapped.
    pub(crate) max_row: usize,
    /// How rows are found.
    pub(crate) by: FindBy<'a>,
}

/// How rows are found.
pub(crate) enum FindBy<'a> {
    /// By the values of these columns, which an index may cover.
    Columns(Vec<&'a str>),
    /// By an SQL condition over the keys in [`KEYS_SETTING`].
    Condition(String),
}

impl<'a> FindBy<'a> {
    /// By the user's id alone, even if the mapping's key has more columns.
    pub(crate) fn ids(rules: &'a Rules, relation: &Relation) -> FindBy<'a> {
        match FindBy::mapping(rules, relation) {
            FindBy::Columns(columns) if columns.len() > 1 => FindBy::Condition(ids_condition(rules, relation)),
            by => by,
        }
    }

    /// By the mapping's key.
    pub(crate) fn mapping(rules: &'a Rules, relation: &Relation) -> FindBy<'a> {
        key_columns(rules, relation).map_or_else(|| FindBy::Condition(ids_condition(rules, relation)), FindBy::Columns)
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
            assert_eq!(SeenXids(snapshot.to_owned()).contains(Xid(xid)), visible, "{xid} in {snapshot}");
        }
    }
}
