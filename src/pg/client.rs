//! A connection for ordinary SQL: tokio-postgres over our own transport.
//!
//! `stream` connects, for SQL and for replication alike: TLS with libpq's modes and fallbacks, channel
//! binding and the time limit. `cleartext` rejects clear-text logins without TLS. `cancel_token()` does not
//! work, because it has no address to connect to: drop the client instead.

use super::cleartext::{CleartextGuard, CleartextRefused, NotPostgres};
use super::stream::{Stream, connect_with};
use super::{ChannelBinding, ConnectError, PgUrl, ServerError, describe, quote_ident};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::ops::{Deref, DerefMut};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::Config;
use tokio_postgres::config::{self, SslNegotiation};
use tokio_postgres::tls::TlsConnect;
use tracing::Instrument;

/// Time limit for an orderly end of a dropped connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A SQL connection and the task that drives it. Dropping it ends both: immediately if it is idle, within a
/// second if a statement is running.
#[derive(Debug)]
pub struct PgClient {
    // The fields are dropped in this order: the task learns about the end after the client.
    client: tokio_postgres::Client,
    _end: oneshot::Sender<Infallible>,
    task: JoinHandle<()>,
}

impl PgClient {
    /// Closes the connection and waits until it is closed, at most one second.
    pub async fn close(self) {
        let PgClient { client, _end: end, task } = self;
        drop((client, end));
        // This fails only if the task panicked, which has been reported.
        let _ = task.await;
    }
}

impl Deref for PgClient {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl DerefMut for PgClient {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.client
    }
}

/// Creates a schema that does not exist. CREATE SCHEMA IF NOT EXISTS alone needs CREATE on the database in
/// any case.
pub(crate) async fn create_schema(client: &tokio_postgres::Client, name: &str) -> Result<(), tokio_postgres::Error> {
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)";
    if client.query_typed_one(exists, &[(&name, tokio_postgres::types::Type::TEXT)]).await?.get(0) {
        return Ok(());
    }
    client.batch_execute(&format!("CREATE SCHEMA IF NOT EXISTS {}", quote_ident(name))).await
}

/// Connects and logs in, within the URL's `connect_timeout`.
///
/// # Errors
/// [`ConnectError`] tells an unreachable server, TLS, the login, another refusal and a foreign protocol
/// apart.
pub async fn connect(url: &PgUrl) -> Result<PgClient, ConnectError> {
    connect_with(url, |stream| Box::pin(start(url, stream))).await
}

async fn start(url: &PgUrl, stream: Stream) -> Result<PgClient, ConnectError> {
    let (client, connection) = config(url)
        .connect_raw(CleartextGuard::new(stream), AlreadyConnected)
        .await
        .map_err(|error| classify(url, error))?;
    let (end, ended) = oneshot::channel();
    let at = url.to_string();
    let run = async move {
        let mut connection = Box::pin(connection);
        let result = tokio::select! {
            result = &mut connection => Ok(result),
            _ = ended => tokio::time::timeout(CLOSE_TIMEOUT, &mut connection).await,
        };
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%at, error = describe(&error), "connection ended"),
            Err(_) => tracing::debug!(%at, "connection dropped while a statement was running"),
        }
    };
    // The lines of a target's connection name its tenant.
    let task = tokio::spawn(run.in_current_span());
    Ok(PgClient { client, _end: end, task })
}

fn config(url: &PgUrl) -> Config {
    let mut config = Config::new();
    config
        .user(&url.user)
        .dbname(&url.database)
        .application_name(&url.application_name)
        .channel_binding(match url.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        })
        // Together these make tokio-postgres use the stream without a TLS negotiation of its own.
        .ssl_mode(config::SslMode::Require)
        .ssl_negotiation(SslNegotiation::Direct);
    if let Some(password) = &url.password {
        config.password(&password.0);
    }
    if let Some(options) = &url.options {
        config.options(options);
    }
    config
}

/// Passes on a stream that is already connected and encrypted as the URL asks.
struct AlreadyConnected;

impl TlsConnect<CleartextGuard> for AlreadyConnected {
    type Stream = CleartextGuard;
    type Error = Infallible;
    type Future = Ready<Result<CleartextGuard, Infallible>>;

    fn connect(self, stream: CleartextGuard) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Classifies by the cause, then by the text: tokio-postgres does not export the kinds of its errors.
fn classify(url: &PgUrl, error: tokio_postgres::Error) -> ConnectError {
    if let Some(refusal) = error.as_db_error() {
        return ConnectError::refused(url, ServerError::from(refusal));
    }
    let text = error.to_string();
    let is_login = text == "authentication error" || text == "invalid configuration";
    let reason = describe(&error);
    match error.into_source().map(|cause| cause.downcast::<std::io::Error>()) {
        Some(Ok(io)) if io.get_ref().is_some_and(|inner| inner.is::<CleartextRefused>()) => ConnectError::auth(url, io),
        Some(Ok(io)) if io.get_ref().is_some_and(|inner| inner.is::<NotPostgres>()) => ConnectError::protocol(url, io),
        _ if is_login => ConnectError::auth(url, reason),
        Some(Ok(io)) if !text.contains("parsing") => ConnectError::unreachable(url, *io),
        None if text == "connection closed" => {
            ConnectError::unreachable(url, std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text))
        }
        _ => ConnectError::protocol(url, reason),
    }
}
