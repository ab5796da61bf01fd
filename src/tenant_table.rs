//! Reads the table of tenants (`tenants.from`), and listens for its notifications.

use crate::config::{TenantRows, TenantTable};
use crate::pg::{self, ConnectError, PgClient, SqlStateClass, describe, quote_ident};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

/// Time limit for one statement.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the table cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    /// The server refuses a statement, or the connection broke.
    #[error("the {what} failed: {}", describe(error))]
    Statement {
        /// The statement.
        what: &'static str,
        /// The reason.
        error: tokio_postgres::Error,
    },
    /// The server does not answer.
    #[error("the {what} took longer than {} s", READ_TIMEOUT.as_secs())]
    TooSlow {
        /// The statement.
        what: &'static str,
    },
    /// The query returns no rows, or those of several statements.
    #[error("the query must be one SELECT")]
    NoResult,
}

impl TableError {
    /// Whether only another configuration, or another table, can end it.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            TableError::Connect(_) | TableError::TooSlow { .. } => false,
            TableError::NoResult => true,
            TableError::Statement { error, .. } => matches!(
                SqlStateClass::of_error(error),
                Some(
                    SqlStateClass::MissingSchema
                        | SqlStateClass::MissingTable
                        | SqlStateClass::MissingColumn
                        | SqlStateClass::Statement
                        | SqlStateClass::Privilege
                        | SqlStateClass::ReadOnly
                )
            ),
        }
    }
}

/// The connection to the table. It stays open if there is a channel to listen on, and is opened again after an error.
#[derive(Debug, Default)]
pub(crate) struct TenantTableReader {
    listening: Option<Listening>,
}

#[derive(Debug)]
struct Listening {
    client: PgClient,
    table: TenantTable,
}

impl TenantTableReader {
    /// Reads all rows.
    ///
    /// # Errors
    /// The database cannot be reached, or refuses the query. The next read connects again.
    pub(crate) async fn read(&mut self, table: &TenantTable) -> Result<TenantRows, TableError> {
        let Some(channel) = &table.channel else {
            self.listening = None;
            let client = pg::connect(&table.url).await?;
            let rows = read_rows(&client, &table.query).await;
            client.close().await;
            return rows;
        };
        // It is put back only after a read without an error.
        let client = match self.listening.take() {
            Some(Listening { client, table: of }) if of == *table && !client.is_closed() => client,
            _ => {
                let client = pg::connect(&table.url).await?;
                // Before the first read: what changes later is notified.
                let listen = format!("LISTEN {}", quote_ident(channel));
                let listen = timeout(READ_TIMEOUT, client.batch_execute(&listen)).await;
                let listen = listen.map_err(|_| TableError::TooSlow { what: "LISTEN" })?;
                listen.map_err(|error| TableError::Statement { what: "LISTEN", error })?;
                client
            }
        };
        let rows = read_rows(&client, &table.query).await?;
        self.listening = Some(Listening { client, table: table.clone() });
        Ok(rows)
    }

    /// Waits until the database notifies of a change, or the connection that would tell it has ended. Forever without a channel.
    pub(crate) async fn notified(&self) {
        match &self.listening {
            Some(Listening { client, .. }) => client.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// In a transaction that cannot write, so that a query with side effects is refused instead of running again and again.
async fn read_rows(client: &PgClient, query: &str) -> Result<TenantRows, TableError> {
    let failed = |what| move |error| TableError::Statement { what, error };
    let read = async {
        client.batch_execute("BEGIN READ ONLY").await.map_err(failed("transaction"))?;
        let found = client.simple_query(query).await;
        let ended = client.batch_execute("ROLLBACK").await;
        let found = found.map_err(failed("query"))?;
        ended.map_err(failed("transaction"))?;
        Ok::<_, TableError>(found)
    };
    let messages = timeout(READ_TIMEOUT, read).await.map_err(|_| TableError::TooSlow { what: "query" })??;
    let mut rows = None;
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                let columns = columns.iter().map(|column| column.name().to_owned()).collect();
                if rows.replace(TenantRows { columns, rows: Vec::new() }).is_some() {
                    return Err(TableError::NoResult);
                }
            }
            SimpleQueryMessage::Row(row) => {
                let value = |place| row.try_get(place).ok().flatten().map(str::to_owned);
                let values = (0..row.len()).map(value).collect();
                rows.get_or_insert_default().rows.push(values);
            }
            _ => {}
        }
    }
    rows.ok_or(TableError::NoResult)
}
