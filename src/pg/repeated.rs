//! Statements that run often on one connection: the server keeps their plans.

use super::statements::{Parameters, Statements};
use super::target_client::TargetClient;
use futures_util::future::join;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row, Statement};

/// Read back from `pg_prepared_statements`.
const PROBE: &str = "SELECT 'users-sync: does the pooler keep track of prepared statements?'";
/// Whether the session has the probe under another name than the client gave it.
const IS_RENAMED: &str = "SELECT coalesce(bool_and(name !~ '^s[0-9]+$'), false) \
    FROM pg_catalog.pg_prepared_statements WHERE statement = $1";

/// A statement that runs often. It is prepared when it runs for the second time, so that a connection which needs it only
/// once is spared the message.
#[derive(Debug)]
pub(crate) struct Repeated {
    sql: String,
    preparation: Preparation,
}

#[derive(Debug)]
enum Preparation {
    New,
    Due,
    Done(Statement),
    /// The pooler does not keep track of prepared statements.
    Never,
}

impl Repeated {
    pub(crate) fn new(sql: String) -> Repeated {
        Repeated { sql, preparation: Preparation::New }
    }
}

impl TargetClient {
    /// As `query_typed`, for a statement that runs often. The types must be the same each time.
    pub(crate) async fn query_repeated(
        &self,
        statement: &mut Repeated,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let Repeated { sql, preparation } = statement;
        match preparation {
            Preparation::New => {
                *preparation = Preparation::Due;
                self.query_typed(sql, parameters).await
            }
            Preparation::Due if self.keeps_statements().await? => {
                let types: Vec<Type> = parameters.iter().map(|(_, kind)| kind.clone()).collect();
                // The first poll of each sends its messages, in this order. Within a transaction the statement fails if it
                // cannot be prepared, with an error that does not say why.
                let prepare = self.client.prepare_typed(sql, &types);
                let (prepared, rows) = self
                    .with_settings(async { Ok(join(prepare, self.client.query_typed(sql, parameters)).await) })
                    .await?;
                *preparation =
                    prepared.as_ref().map_or(Preparation::Never, |prepared| Preparation::Done(prepared.clone()));
                match (prepared, rows) {
                    (Err(error), Err(_)) => Err(error),
                    (_, rows) => rows,
                }
            }
            Preparation::Due | Preparation::Never => {
                *preparation = Preparation::Never;
                self.query_typed(sql, parameters).await
            }
            Preparation::Done(prepared) => {
                let values: Vec<&(dyn ToSql + Sync)> = parameters.iter().map(|(value, _)| *value).collect();
                self.with_settings(self.client.query(prepared, &values)).await
            }
        }
    }

    /// Whether a prepared statement is there when it runs. A pooler in transaction mode may give each transaction another
    /// session: only one that keeps track of statements, and gives them names of its own for that, has it in all of them
    /// (PgBouncer from 1.21 on). Asked once, outside a transaction.
    pub(crate) async fn keeps_statements(&self) -> Result<bool, Error> {
        if !self.is_pooled {
            return Ok(true);
        }
        if let Some(keeps) = self.keeps_statements.get() {
            return Ok(*keeps);
        }
        if self.is_in_transaction() {
            return Ok(false);
        }
        self.begin("SELECT 1").await?;
        let renamed = self.is_probe_renamed().await;
        self.rollback().await?;
        Ok(*self.keeps_statements.get_or_init(|| renamed))
    }

    /// Prepares a statement, looks at its name, and closes it within the same transaction.
    async fn is_probe_renamed(&self) -> bool {
        let Ok(probe) = self.client.prepare_typed(PROBE, &[]).await else { return false };
        let renamed = self.client.query_typed(IS_RENAMED, &[(&PROBE, Type::TEXT)]).await;
        drop(probe);
        renamed.ok().and_then(|rows| rows.first()?.try_get(0).ok()).unwrap_or(false)
    }
}
