//! What can go wrong on the way to a server, in kinds that a policy can match on.
//!
//! Every text names host, port and database; none holds a password.

use super::PgUrl;
use postgres_protocol::message::backend::ErrorFields;
use std::fmt;
use std::io;
use std::time::Duration;

/// The server wants a login, and this one is not it: `invalid_password`.
pub(crate) const INVALID_PASSWORD: &str = "28P01";
/// No line of pg_hba.conf lets this login in, the role is missing or may not log in.
pub(crate) const INVALID_AUTHORIZATION: &str = "28000";

/// An ErrorResponse (manual: "Error and Notice Message Fields").
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, not translated.
    pub severity: String,
    /// The five characters of "PostgreSQL Error Codes".
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl ServerError {
    /// Takes what is there: a server that cannot even report well is still reporting an error.
    pub(crate) fn parse(mut fields: ErrorFields<'_>) -> ServerError {
        use fallible_iterator::FallibleIterator;
        let mut error = ServerError::default();
        let mut localized = String::new();
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'V' => error.severity = value,
                b'S' => localized = value,
                b'C' => error.sqlstate = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
        if error.severity.is_empty() {
            error.severity = localized;
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {}", self.severity, self.message, self.sqlstate)?;
        // Not the detail: it may repeat a row's values.
        match &self.hint {
            Some(hint) => write!(f, "; hint: {hint})"),
            None => f.write_str(")"),
        }
    }
}

impl std::error::Error for ServerError {}

/// What may be shown of an error: never a detail, and of a data exception, a violated constraint or an
/// application's own RAISE only where it happened, since their words may repeat a row's values.
pub fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let Some(refusal) = error.as_db_error() else {
        return error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    };
    let code = refusal.code().code();
    if !["22", "23", "P0"].contains(&&code[..2]) {
        return format!("{}: {} (SQLSTATE {code})", refusal.severity(), refusal.message());
    }
    let place = [("table", refusal.table()), ("column", refusal.column()), ("constraint", refusal.constraint())];
    let place: String = place.iter().filter_map(|(kind, name)| name.map(|name| format!(", {kind} {name}"))).collect();
    format!("{}: the values are not accepted (SQLSTATE {code}{place})", refusal.severity())
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        ServerError {
            severity: error.severity().to_owned(),
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve, nothing answers, or the connection broke before it was ready.
    #[error("cannot reach {at}: {source}")]
    Unreachable {
        /// Host, port and database.
        at: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The attempt as a whole took longer than `connect_timeout`.
    #[error("cannot reach {at}: no session within {after:?} (connect_timeout)")]
    Timeout {
        /// Host, port and database.
        at: String,
        /// The limit.
        after: Duration,
    },
    /// The server has no TLS, its certificate is not accepted, or the root file cannot be read.
    #[error("no TLS connection to {at}: {reason}")]
    Tls {
        /// Host, port and database.
        at: String,
        /// What is wrong, with the remedy where there is one.
        reason: String,
    },
    /// The login was refused, or cannot be made without giving a secret away.
    #[error("login to {at} failed: {reason}")]
    Auth {
        /// Host, port and database.
        at: String,
        /// The server's code (28P01, 28000), where it was the server that refused.
        sqlstate: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// The server refused the session for another reason: still starting up, too many connections, no such database.
    #[error("{at} refused the session: {error}")]
    Server {
        /// Host, port and database.
        at: String,
        /// Its own words; match on the sqlstate.
        error: Box<ServerError>,
    },
    /// The answer is not PostgreSQL's protocol.
    #[error("{at} does not speak PostgreSQL's protocol: {reason}")]
    Protocol {
        /// Host, port and database.
        at: String,
        /// What came instead.
        reason: String,
    },
}

impl ConnectError {
    pub(crate) fn unreachable(url: &PgUrl, source: io::Error) -> Self {
        ConnectError::Unreachable { at: url.to_string(), source }
    }

    pub(crate) fn tls(url: &PgUrl, reason: impl fmt::Display) -> Self {
        ConnectError::Tls { at: url.to_string(), reason: reason.to_string() }
    }

    pub(crate) fn auth(url: &PgUrl, reason: impl fmt::Display) -> Self {
        ConnectError::Auth { at: url.to_string(), sqlstate: None, reason: reason.to_string() }
    }

    pub(crate) fn protocol(url: &PgUrl, reason: impl fmt::Display) -> Self {
        ConnectError::Protocol { at: url.to_string(), reason: reason.to_string() }
    }

    /// The server's own refusal: a matter of the login, or of anything else.
    pub(crate) fn refused(url: &PgUrl, error: ServerError) -> Self {
        let at = url.to_string();
        match &*error.sqlstate {
            INVALID_PASSWORD | INVALID_AUTHORIZATION => {
                ConnectError::Auth { at, reason: error.to_string(), sqlstate: Some(error.sqlstate) }
            }
            _ => ConnectError::Server { at, error: Box::new(error) },
        }
    }

    /// Whether the server has no place for a connection of this kind (`hostssl`, `hostnossl`): the one case in which
    /// the other kind is worth a try.
    pub(crate) fn is_not_let_in(&self) -> bool {
        matches!(self, ConnectError::Auth { sqlstate: Some(code), .. } if code == INVALID_AUTHORIZATION)
    }
}
