//! A connection for ordinary SQL: tokio-postgres over our own transport.
//!
//! `stream` connects, for SQL and for replication alike: TLS with libpq's modes and fallbacks, channel
//! binding and the time limit. `guard` inspects what the server sends. `cancel_token()` has no address to connect
//! to: drop the client instead, which cancels its statement.

use super::address::Address;
use super::guard::{Guard, GuardError, Trust};
use super::password::with_password;
use super::session::{NO_TIMEOUTS, PATH_OPTION, SEARCH_PATH, sets_path};
use super::stream::{Attempt, Stream, connect_with};
use super::{ChannelBinding, ConnectError, PgUrl, ServerError, describe};
use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_postgres::config::{self, SslNegotiation};
use tokio_postgres::tls::TlsConnect;
use tokio_postgres::{AsyncMessage, CancelToken, Config, Connection, SimpleQueryMessage};
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
    refused: Arc<OnceLock<GuardError>>,
    notified: Arc<Notify>,
    is_readable_on_the_way: bool,
}

impl PgClient {
    /// Whether the network can read and change everything.
    pub(crate) fn is_readable_on_the_way(&self) -> bool {
        self.is_readable_on_the_way
    }

    /// Waits for a notification on a channel that the session listens on (manual: LISTEN), or for the end of the connection. Several that
    /// come before the call count as one.
    pub(crate) async fn notified(&self) {
        self.notified.notified().await;
    }

    /// Closes the connection and waits until it is closed, at most two seconds. A statement that is still running is
    /// cancelled in the background: the server may take as long as its login.
    pub async fn close(self) {
        let PgClient { client, _end: end, task, .. } = self;
        drop((client, end));
        // The task fails only if it panicked, which has been reported.
        let _ = tokio::time::timeout(2 * CLOSE_TIMEOUT, task).await;
    }

    /// Set before the statements fail, if the guard ends the connection. Their own error is "connection closed".
    pub(super) fn refused(&self) -> Arc<OnceLock<GuardError>> {
        self.refused.clone()
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

/// Our `search_path` for a session whose server does not take startup options.
const SET_SEARCH_PATH: &str = "SET search_path = pg_catalog, pg_temp";
/// The startup options for a target: also without the notices of its triggers, and without the timeouts of the role or
/// database. `transaction_timeout` is not among them, as a server before 17 refuses it.
pub(super) const TARGET_OPTIONS: &str = "-c search_path=pg_catalog,pg_temp -c client_min_messages=error -c statement_timeout=0 \
    -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0";
/// The state is written before its position is confirmed to the source. If the state's server counts our walsender as a
/// synchronous standby, such a commit would wait for its own confirmation.
const COMMIT_LOCALLY: &str = "SET synchronous_commit = local";
/// SQLSTATE with which PgBouncer refuses startup options (`protocol_violation`).
const OPTIONS_REFUSED: &str = "08P01";

/// Connects to a database of the operator (source or state) and logs in, within the URL's `connect_timeout`.
/// `search_path` is `pg_catalog`, unless the URL's `options` set another one. No timeout of the role applies.
///
/// # Errors
/// [`ConnectError`] tells an unreachable server, TLS, the login, another refusal and a foreign protocol
/// apart.
pub async fn connect(url: &PgUrl) -> Result<PgClient, ConnectError> {
    connect_operator(url, NO_TIMEOUTS.to_owned()).await
}

/// As [`connect`], to the database of the state. Commits do not wait for synchronous standbys.
///
/// # Errors
/// As [`connect`].
pub async fn connect_state(url: &PgUrl) -> Result<PgClient, ConnectError> {
    connect_operator(url, format!("{COMMIT_LOCALLY}; {NO_TIMEOUTS}")).await
}

async fn connect_operator(url: &PgUrl, mut settings: String) -> Result<PgClient, ConnectError> {
    let client = if sets_path(url) {
        with_password(url, |url| {
            Box::pin(async move {
                let start = |stream| start(url, stream, Trust::Operator, url.options.clone());
                connect_with(url, |stream| Box::pin(start(stream))).await
            })
        })
        .await?
    } else {
        let session = connect_with_options(url, Trust::Operator, PATH_OPTION).await?;
        if !session.has_options {
            settings = format!("{SET_SEARCH_PATH}; {settings}");
        }
        session.client
    };
    client.batch_execute(&settings).await.map_err(|error| classify(url, error))?;
    Ok(client)
}

/// A new session.
pub(super) struct Session {
    pub(super) client: PgClient,
    /// Whether it has our startup options. A pooler may have refused or ignored them.
    pub(super) has_options: bool,
}

/// Connects with startup options, or without them where a pooler refuses them.
pub(super) async fn connect_with_options(url: &PgUrl, trust: Trust, ours: &str) -> Result<Session, ConnectError> {
    with_password(url, |url| {
        let ours = ours.to_owned();
        Box::pin(async move { try_with_options(url, trust, &ours).await })
    })
    .await
}

async fn try_with_options(url: &PgUrl, trust: Trust, ours: &str) -> Result<Session, ConnectError> {
    let options = url.options.as_ref().map_or_else(|| ours.to_owned(), |own| format!("{own} {ours}"));
    let attempt = Attempt::new(url);
    let connected = attempt.connect(|stream| {
        let options = options.clone();
        Box::pin(async move {
            let client = start(url, stream, trust, Some(options)).await?;
            let has_options = shows_options(&client, trust).await.map_err(|error| classify(url, error))?;
            Ok(Session { client, has_options })
        })
    });
    match connected.await {
        Err(ConnectError::Server { error, .. }) if error.sqlstate == OPTIONS_REFUSED => {
            let start = |stream| start(url, stream, trust, url.options.clone());
            let client = attempt.connect(|stream| Box::pin(start(stream))).await?;
            Ok(Session { client, has_options: false })
        }
        other => other,
    }
}

/// SHOW is a utility statement: no function or operator of the database's owner can take its place.
///
/// A pooler can pass on settings that the server reports, such as `search_path` from 18 on, and drop others: the session of a target is
/// asked for one that no server reports.
async fn shows_options(client: &PgClient, trust: Trust) -> Result<bool, tokio_postgres::Error> {
    let (sql, expected) = match trust {
        Trust::Operator => ("SHOW search_path", &[SEARCH_PATH][..]),
        Trust::Tenant => ("SHOW search_path; SHOW client_min_messages", &[SEARCH_PATH, "error"][..]),
    };
    let shown = client.simple_query(sql).await?;
    let shown = shown.iter().filter_map(|message| match message {
        // The server repeats the text of the option, with its spaces.
        SimpleQueryMessage::Row(row) => Some(row.try_get(0).ok().flatten().unwrap_or_default().replace(' ', "")),
        _ => None,
    });
    Ok(shown.eq(expected.iter().copied()))
}

async fn start(url: &PgUrl, stream: Stream, trust: Trust, options: Option<String>) -> Result<PgClient, ConnectError> {
    let (address, is_readable_on_the_way) = (stream.address(), stream.is_readable_on_the_way());
    let (client, connection) = config(url, options.as_deref())
        .connect_raw(Guard::new(stream, url, trust), AlreadyConnected)
        .await
        .map_err(|error| classify(url, error))?;
    let (end, ended) = oneshot::channel();
    let (at, url, token) = (url.to_string(), url.clone(), client.cancel_token());
    let refused = Arc::new(OnceLock::new());
    let reported = refused.clone();
    let notified = Arc::new(Notify::new());
    let notifies = notified.clone();
    let run = async move {
        // Dropped last, after the client is closed.
        let _end = NotifyOnDrop(notifies.clone());
        let mut connection = Box::pin(connection);
        let result = tokio::select! {
            result = drive(&mut connection, &notifies) => Ok(result),
            _ = ended => tokio::time::timeout(CLOSE_TIMEOUT, drive(&mut connection, &notifies)).await,
        };
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                if let Some(error) = GuardError::of(&error) {
                    // Nothing else sets it.
                    let _ = reported.set(error);
                }
                tracing::debug!(%at, error = describe(&error), "connection ended");
            }
            Err(_) => {
                tracing::debug!(%at, "connection dropped while a statement was running");
                drop(connection);
                // A backend notices a lost client only when it sends something: until then it keeps its locks.
                let Some(address) = address else { return };
                if let Err(error) = cancel(&url, address, token).await {
                    tracing::debug!(%at, %error, "could not cancel the statement");
                }
                return;
            }
        }
        // Only now do waiting statements learn that the connection has ended.
        drop(connection);
    };
    // The lines of a target's connection name its tenant.
    let task = tokio::spawn(run.in_current_span());
    Ok(PgClient { client, _end: end, task, refused, notified, is_readable_on_the_way })
}

/// Sends and receives until the connection ends.
async fn drive(connection: &mut Connection<Guard, Guard>, notified: &Notify) -> Result<(), tokio_postgres::Error> {
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message?, AsyncMessage::Notification(_)) {
            notified.notify_one();
        }
    }
    Ok(())
}

/// Notifies when it is dropped.
struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Cancels the statement that runs on a connection to `address` (manual: "Canceling Requests in Progress"). The host
/// name may lead elsewhere by now.
async fn cancel(url: &PgUrl, address: Address, token: CancelToken) -> Result<(), ConnectError> {
    let cancelled = |stream| {
        let token = token.clone();
        let request =
            async move { token.cancel_query_raw(Guard::new(stream, url, Trust::Tenant), AlreadyConnected).await };
        Box::pin(async move { request.await.map_err(|error| classify(url, error)) })
    };
    Attempt::at(url, address).connect(cancelled).await
}

fn config(url: &PgUrl, options: Option<&str>) -> Config {
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
    if let Some(options) = options {
        config.options(options);
    }
    config
}

/// Passes on a stream that is already connected and encrypted as the URL asks.
struct AlreadyConnected;

impl TlsConnect<Guard> for AlreadyConnected {
    type Stream = Guard;
    type Error = Infallible;
    type Future = Ready<Result<Guard, Infallible>>;

    fn connect(self, stream: Guard) -> Self::Future {
        ready(Ok(stream))
    }
}

/// Classifies by the cause, then by the text: tokio-postgres does not export the kinds of its errors.
pub(super) fn classify(url: &PgUrl, error: tokio_postgres::Error) -> ConnectError {
    if let Some(refusal) = error.as_db_error() {
        return ConnectError::refused(url, ServerError::from(refusal));
    }
    let text = error.to_string();
    let is_login = text == "authentication error" || text == "invalid configuration";
    let reason = describe(&error);
    let guard = GuardError::of(&error);
    match (guard, error.into_source().map(|cause| cause.downcast::<std::io::Error>())) {
        (Some(GuardError::Cleartext), _) => ConnectError::auth(url, GuardError::Cleartext),
        (Some(refused), _) => ConnectError::protocol(url, refused),
        _ if is_login => ConnectError::auth(url, reason),
        (None, Some(Ok(io))) if is_malformed(&io) => ConnectError::protocol(url, io),
        (None, Some(Ok(io))) if !text.contains("parsing") => ConnectError::unreachable(url, *io),
        (None, None) if text == "connection closed" => {
            ConnectError::unreachable(url, std::io::Error::new(std::io::ErrorKind::UnexpectedEof, text))
        }
        _ => ConnectError::protocol(url, reason),
    }
}

/// Whether this is the parser's error: the network breaks a connection with other kinds, and TLS has errors of its own.
fn is_malformed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput};
    matches!(error.kind(), InvalidData | InvalidInput)
        && error.get_ref().is_some_and(|inner| !inner.is::<rustls::Error>())
}
