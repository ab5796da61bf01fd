//! Streams the source's rows, in the text forms of pgoutput.

use super::copy_text::LineReader;
use crate::model::{Cell, Relation};
use crate::pg::{describe, quote_ident};
use bytes::Bytes;
use futures_util::StreamExt;
use std::pin::Pin;
use tokio_postgres::{Client, CopyOutStream, Error, SimpleQueryMessage};

/// Why reading the source failed.
#[derive(Debug, thiserror::Error)]
pub enum SourceReadError {
    /// The source refused, or the connection was lost.
    #[error("{}", describe(.0))]
    Sql(#[from] Error),
    /// A table was rewritten after the snapshot was taken, so the snapshot may show it as empty (manual: "Caveats" of
    /// concurrency control).
    #[error("table {0} was rewritten after the snapshot was taken")]
    Rewritten(String),
    /// A line of COPY has an unexpected number of values.
    #[error("the source sent a row with an unexpected number of columns")]
    Columns,
}

/// The rows of a running COPY.
pub(crate) struct RowStream<'a> {
    client: &'a Client,
    stream: Pin<Box<CopyOutStream>>,
    decoded: Vec<bool>,
    line: Bytes,
    reader: LineReader,
}

impl<'a> RowStream<'a> {
    /// Starts to read the decoded columns of `relation` from `from` (SQL: the table or a query), restricted
    /// by `condition` (SQL; empty for all rows). Other columns do not leave the database. A row with more than
    /// `max_row` bytes keeps its escapes.
    pub(crate) async fn open(
        client: &'a Client,
        from: &str,
        relation: &Relation,
        decoded: &[bool],
        max_row: usize,
        condition: &str,
    ) -> Result<RowStream<'a>, SourceReadError> {
        let columns: Vec<String> = relation
            .columns
            .iter()
            .zip(decoded)
            .filter(|(_, wanted)| **wanted)
            .map(|(column, _)| quote_ident(&column.name))
            .collect();
        let sql = format!("COPY (SELECT {} FROM {from} {condition}) TO STDOUT", columns.join(", "));
        let stream = client.copy_out(&sql).await?;
        Ok(RowStream {
            client,
            stream: Box::pin(stream),
            decoded: decoded.to_vec(),
            line: Bytes::new(),
            reader: LineReader::new(max_row),
        })
    }

    /// The planner's estimate of the number of rows (EXPLAIN's `Plan Rows`), accurate if the table has been
    /// analyzed.
    pub(crate) async fn expected(client: &Client, from: &str, condition: &str) -> Result<u64, SourceReadError> {
        let plan = client.simple_query(&format!("EXPLAIN (FORMAT JSON) SELECT FROM {from} {condition}")).await?;
        let rows = plan.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten(),
            _ => None,
        });
        let plan: String = rows.collect();
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap_or_default();
        Ok(plan[0]["Plan"]["Plan Rows"].as_u64().unwrap_or(0))
    }

    /// Waits for the next row, whose values [`RowStream::cells`] returns. `false` at the end.
    ///
    /// # Errors
    /// [`SourceReadError::Rewritten`] at the end, if the rows may be missing.
    pub(crate) async fn advance(&mut self) -> Result<bool, SourceReadError> {
        // The next row may be as large: never both.
        self.line = Bytes::new();
        match self.stream.next().await {
            None => require_unrewritten(self.client).await.map(|()| false),
            Some(line) => {
                self.line = line?;
                Ok(true)
            }
        }
    }

    /// The values of the current row.
    pub(crate) fn cells<'row>(&'row mut self, cells: &mut Vec<Cell<'row>>) -> Result<(), SourceReadError> {
        if self.reader.read(&self.line, &self.decoded, cells) { Ok(()) } else { Err(SourceReadError::Columns) }
    }
}

/// An error if a table that this transaction has read was rewritten, truncated or replaced after its snapshot. Called after
/// the read: the locks of the transaction prevent a later rewrite.
async fn require_unrewritten(client: &Client) -> Result<(), SourceReadError> {
    // `relfilenode` is read with the transaction's snapshot, `pg_relation_filenode` is current.
    const REWRITTEN: &str = "\
SELECT coalesce(format('%s.%s', n.nspname, c.relname), l.relation::text)
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation >= 16384
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND (c.oid IS NULL OR c.relkind IN ('r', 'm') AND c.relfilenode <> pg_relation_filenode(c.oid))
LIMIT 1";
    match client.query_typed_opt(REWRITTEN, &[]).await? {
        Some(row) => Err(SourceReadError::Rewritten(row.try_get(0)?)),
        None => Ok(()),
    }
}
