//! Statements on any kind of connection, without a lookup of types: the sender gives the types of parameters.

use super::quote_ident;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Row, Transaction};

/// Parameters with their types.
pub(crate) type Parameters<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// What runs statements: a connection, or a transaction on one.
pub(crate) trait Statements: Sync {
    /// Runs a statement and returns its rows. As [`Client::query_typed`].
    fn query_typed(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> impl Future<Output = Result<Vec<Row>, Error>> + Send;
    /// As [`Client::query_typed_one`]: it is an error if there is not exactly one row.
    fn query_typed_one(&self, sql: &str, parameters: Parameters<'_>)
    -> impl Future<Output = Result<Row, Error>> + Send;
    /// As [`Client::query_typed_opt`]: it is an error if there is more than one row.
    fn query_typed_opt(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
    ) -> impl Future<Output = Result<Option<Row>, Error>> + Send;
    /// Runs a statement and returns the number of rows. As [`Client::execute_typed`].
    fn execute_typed(&self, sql: &str, parameters: Parameters<'_>) -> impl Future<Output = Result<u64, Error>> + Send;
    /// Runs statements without parameters. As [`Client::batch_execute`].
    fn batch_execute(&self, sql: &str) -> impl Future<Output = Result<(), Error>> + Send;
}

macro_rules! forward {
    ($($type:ty),+) => {$(
        impl Statements for $type {
            async fn query_typed(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
                <$type>::query_typed(self, sql, parameters).await
            }

            async fn query_typed_one(&self, sql: &str, parameters: Parameters<'_>) -> Result<Row, Error> {
                <$type>::query_typed_one(self, sql, parameters).await
            }

            async fn query_typed_opt(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
                <$type>::query_typed_opt(self, sql, parameters).await
            }

            async fn execute_typed(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
                <$type>::execute_typed(self, sql, parameters).await
            }

            async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
                <$type>::batch_execute(self, sql).await
            }
        }
    )+};
}

forward!(Client, Transaction<'_>);

/// Creates a schema that does not exist. CREATE SCHEMA IF NOT EXISTS alone needs CREATE on the database in
/// any case.
pub(crate) async fn create_schema(client: &impl Statements, name: &str) -> Result<(), Error> {
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    if client.query_typed_one(exists, &[(&name, Type::TEXT)]).await?.try_get(0)? {
        return Ok(());
    }
    client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident(name))).await
}
