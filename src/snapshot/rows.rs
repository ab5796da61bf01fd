//! The source's rows as a stream, in the text forms that pgoutput would send.

use super::copy_text::LineReader;
use crate::model::{Cell, Relation};
use crate::pg::{describe, quote_ident};
use bytes::Bytes;
use futures_util::StreamExt;
use std::pin::Pin;
use tokio_postgres::{Client, CopyOutStream, Error, SimpleQueryMessage};

/// What went wrong while the source was read.
#[derive(Debug, thiserror::Error)]
pub enum SourceReadError {
    /// The source refused, or the connection was lost.
    #[error("{}", describe(.0))]
    Sql(#[from] Error),
    /// A line of COPY has another number of values than columns were asked for.
    #[error("the source sent a row with another number of columns than was asked for")]
    Columns,
}

/// The rows of a COPY.
pub struct RowStream {
    stream: Pin<Box<CopyOutStream>>,
    decoded: Vec<bool>,
    line: Bytes,
    reader: LineReader,
}

impl RowStream {
    /// Begins to read the columns of `relation` that `decoded` names, out of `from` (SQL: the table, or a query), of the
    /// rows that `condition` admits (SQL, or empty for all). The columns that are not decoded do not leave the database.
    pub async fn open(
        client: &Client,
        from: &str,
        relation: &Relation,
        decoded: &[bool],
        condition: &str,
    ) -> Result<RowStream, SourceReadError> {
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
            stream: Box::pin(stream),
            decoded: decoded.to_vec(),
            line: Bytes::new(),
            reader: LineReader::default(),
        })
    }

    /// How many rows the planner expects of the same reading (EXPLAIN's `Plan Rows`): near the truth where the table has been
    /// analyzed.
    pub async fn expected(client: &Client, from: &str, condition: &str) -> Result<u64, SourceReadError> {
        let plan = client.simple_query(&format!("EXPLAIN (FORMAT JSON) SELECT FROM {from} {condition}")).await?;
        let rows = plan.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: String = rows.collect();
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap_or_default();
        Ok(plan[0]["Plan"]["Plan Rows"].as_u64().unwrap_or(0))
    }

    /// Waits for the next row; `false` at the end. Its values are given by [`RowStream::cells`].
    pub async fn advance(&mut self) -> Result<bool, SourceReadError> {
        match self.stream.next().await {
            None => Ok(false),
            Some(line) => {
                self.line = line?;
                Ok(true)
            }
        }
    }

    /// The values of the row that [`RowStream::advance`] has reached.
    pub fn cells<'a>(&'a mut self, cells: &mut Vec<Cell<'a>>) -> Result<(), SourceReadError> {
        match self.reader.read(&self.line, &self.decoded, cells) {
            true => Ok(()),
            false => Err(SourceReadError::Columns),
        }
    }
}
