//! A SQL connection to a database that belongs to a tenant.
//!
//! The owner of a database may set `search_path` for every role that connects to it, and put operators of his
//! own before those of PostgreSQL: our statements would run them with the rights of our role. A startup option
//! overrides that setting. Where a pooler refuses or ignores the option, every statement runs in a transaction
//! that sets the path first, and with it what else the options set. The messages are sent together, so this costs no round trip.

use super::client::{PgClient, Session, TARGET_OPTIONS, connect_with_options};
use super::guard::{GuardError, Trust};
use super::statements::{Parameters, Statements};
use super::{ConnectError, PgUrl, describe};
use futures_util::future::join3;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio_postgres::{Error, Row, Transaction};

/// What the startup options set elsewhere.
const SET_LOCAL: &str = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL client_min_messages = error; \
    SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";
/// The server keeps one plan for each prepared statement, instead of planning for the values of each batch.
const GENERIC_PLANS: &str = "plan_cache_mode = force_generic_plan";

/// A connection to a target. What the server may send is bounded.
#[derive(Debug)]
pub struct TargetClient {
    pub(super) client: PgClient,
    /// The connection leads to a pooler that does not pass on startup options.
    pub(super) is_pooled: bool,
    /// What each transaction sets then.
    settings: String,
    in_transaction: AtomicBool,
    /// Whether that pooler keeps track of prepared statements, once that is known.
    pub(super) keeps_statements: OnceLock<bool>,
}

/// Connects to a target and logs in, within the URL's `connect_timeout`.
///
/// # Errors
/// As [`connect`](super::connect).
pub async fn connect_target(url: &PgUrl) -> Result<TargetClient, ConnectError> {
    connect(url, TARGET_OPTIONS, SET_LOCAL.to_owned()).await
}

/// As [`connect_target`], to apply changes: a prepared statement has one plan for any values.
///
/// # Errors
/// As [`connect`](super::connect).
pub async fn connect_to_apply(url: &PgUrl) -> Result<TargetClient, ConnectError> {
    let option = GENERIC_PLANS.replace(' ', "");
    connect(url, &format!("{TARGET_OPTIONS} -c {option}"), format!("{SET_LOCAL}; SET LOCAL {GENERIC_PLANS}")).await
}

async fn connect(url: &PgUrl, options: &str, settings: String) -> Result<TargetClient, ConnectError> {
    let Session { client, has_options } = connect_with_options(url, Trust::Tenant, options).await?;
    let is_pooled = !has_options;
    Ok(TargetClient {
        client,
        is_pooled,
        settings,
        in_transaction: AtomicBool::new(false),
        keeps_statements: OnceLock::new(),
    })
}

impl TargetClient {
    /// Begins a transaction. `settings` follow BEGIN: statements such as `SET LOCAL ...`.
    pub(crate) async fn begin(&self, settings: &str) -> Result<(), Error> {
        let begin = if self.is_pooled { format!("BEGIN; {}", self.settings) } else { "BEGIN".to_owned() };
        self.in_transaction.store(true, Ordering::Relaxed);
        self.client.batch_execute(&format!("{begin}; {settings}")).await
    }

    /// Commits the open transaction.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        self.end("COMMIT").await
    }

    /// Rolls back the open transaction.
    pub(crate) async fn rollback(&self) -> Result<(), Error> {
        self.end("ROLLBACK").await
    }

    async fn end(&self, end: &str) -> Result<(), Error> {
        let ended = self.client.batch_execute(end).await;
        self.in_transaction.store(false, Ordering::Relaxed);
        ended
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(Ordering::Relaxed)
    }

    /// Begins a transaction that is rolled back when it is dropped.
    pub(crate) async fn transaction(&mut self) -> Result<Transaction<'_>, Error> {
        let transaction = self.client.transaction().await?;
        if self.is_pooled {
            transaction.batch_execute(&self.settings).await?;
        }
        Ok(transaction)
    }

    /// What the server sent that ended the connection, once it has.
    pub(crate) fn refused(&self) -> Arc<OnceLock<GuardError>> {
        self.client.refused()
    }

    /// Describes the error of a statement, as [`describe`] does.
    pub(crate) fn describe(&self, error: &Error) -> String {
        self.client.refused().get().map_or_else(|| describe(error), GuardError::to_string)
    }

    /// As [`PgClient::is_readable_on_the_way`].
    pub(crate) fn is_readable_on_the_way(&self) -> bool {
        self.client.is_readable_on_the_way()
    }

    /// Whether the connection has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// As `PgClient::close`.
    pub async fn close(self) {
        self.client.close().await;
    }

    /// Runs a statement with our settings.
    pub(super) async fn with_settings<T>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        if !self.is_pooled || self.is_in_transaction() {
            return work.await;
        }
        // The first poll of each sends its messages, in this order.
        let begin = format!("BEGIN; {}", self.settings);
        let begin = self.client.batch_execute(&begin);
        let (begun, done, ended) = join3(begin, work, self.client.batch_execute("COMMIT")).await;
        begun?;
        let done = done?;
        ended?;
        Ok(done)
    }
}

impl Statements for TargetClient {
    async fn query_typed(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, Error> {
        self.with_settings(self.client.query_typed(sql, parameters)).await
    }

    async fn query_typed_one(&self, sql: &str, parameters: Parameters<'_>) -> Result<Row, Error> {
        self.with_settings(self.client.query_typed_one(sql, parameters)).await
    }

    async fn query_typed_opt(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        self.with_settings(self.client.query_typed_opt(sql, parameters)).await
    }

    async fn execute_typed(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, Error> {
        self.with_settings(self.client.execute_typed(sql, parameters)).await
    }

    async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.with_settings(self.client.batch_execute(sql)).await
    }
}
