//! Connection errors, in kinds that a policy can match on, and what may be shown of a server's error.
//!
//! Every text names host, port and database; none holds a password.

use super::PgUrl;
use super::sqlstate::{Disclosure, SqlStateClass, names_place};
use super::tls;
use crate::model::clip;
use postgres_protocol::message::backend::ErrorFields;
use std::fmt;
use std::io;
use std::time::Duration;

/// An ErrorResponse (manual: "Error and Notice Message Fields"). Each field is cut to 1000 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, not translated (field `V`).
    pub severity: String,
    /// The SQLSTATE; usually five characters, but any text can arrive.
    pub sqlstate: String,
    /// The primary message. May hold personal data: show the error, not this field.
    pub message: String,
    /// The detail. May repeat a row's values and is never shown.
    pub detail: Option<String>,
    /// The hint: a suggestion of what to do.
    pub hint: Option<String>,
    /// The server's C function that reported the error (field `R`).
    pub routine: Option<String>,
}

impl ServerError {
    /// Missing fields stay empty: an incomplete report is still an error.
    pub(crate) fn parse(mut fields: ErrorFields<'_>) -> ServerError {
        use fallible_iterator::FallibleIterator;
        let mut error = ServerError::default();
        let mut localized = String::new();
        while let Ok(Some(field)) = fields.next() {
            let value = clip(&String::from_utf8_lossy(field.value_bytes())).into_owned();
            match field.type_() {
                b'V' => error.severity = value,
                b'S' => localized = value,
                b'C' => error.sqlstate = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'R' => error.routine = Some(value),
                _ => {}
            }
        }
        if error.severity.is_empty() {
            error.severity = localized;
        }
        error
    }
}

impl ServerError {
    fn disclosure(&self) -> Disclosure {
        Disclosure::of(&self.sqlstate, self.routine.as_deref())
    }

    /// The text of an error at session start: no row is involved yet, so a rejected value comes from the URL.
    fn startup_text(&self) -> String {
        let disclosure = match self.disclosure() {
            Disclosure::Message | Disclosure::Place => Disclosure::Message,
            Disclosure::Code => Disclosure::Code,
        };
        self.text(disclosure, "")
    }

    fn text(&self, disclosure: Disclosure, place: &str) -> String {
        let ServerError { severity, message, sqlstate, hint, .. } = self;
        match disclosure {
            Disclosure::Message => {
                let hint = hint.as_ref().map(|hint| format!("; hint: {hint}")).unwrap_or_default();
                format!("{severity}: {message} (SQLSTATE {sqlstate}{hint})")
            }
            Disclosure::Place => format!("{severity}: the server rejected a value (SQLSTATE {sqlstate}{place})"),
            Disclosure::Code => {
                format!("{severity}: raised by user-defined code, message withheld (SQLSTATE {sqlstate})")
            }
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(self.disclosure(), ""))
    }
}

impl std::error::Error for ServerError {}

/// Describes an error without personal data: never its detail, and no message that may repeat a row's values.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let Some(refusal) = error.as_db_error() else {
        return error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    };
    let names = names_place(refusal.routine());
    let place = [("table", refusal.table()), ("column", refusal.column()), ("constraint", refusal.constraint())];
    let place =
        place.iter().filter(|_| names).filter_map(|(kind, name)| name.map(|name| format!(", {kind} {}", clip(name))));
    let place: String = place.collect();
    let error = ServerError { hint: None, ..refusal.into() };
    let disclosure = match error.disclosure() {
        // A function of the database's owner ran the statement, perhaps with a row's values in it.
        Disclosure::Message if refusal.where_().is_some() => Disclosure::Code,
        disclosure => disclosure,
    };
    error.text(disclosure, &place)
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        let kept = |text: &str| clip(text).into_owned();
        ServerError {
            severity: kept(error.severity()),
            sqlstate: kept(error.code().code()),
            message: kept(error.message()),
            detail: error.detail().map(kept),
            hint: error.hint().map(kept),
            routine: error.routine().map(kept),
        }
    }
}

/// Completes the remedy of a login that failed at a server that asks for client certificates.
pub(crate) const CERTIFICATE_REMEDY: &str = "the server asks for client certificates: if its pg_hba.conf requires one \
    (cert or clientcert), set sslcert and sslkey in the URL to one whose common name is the role's";

/// Why connecting failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve, nothing answers, or the connection broke during the login.
    #[error("cannot reach {at}: {source}")]
    Unreachable {
        /// Host, port and database.
        at: String,
        /// The system's error.
        source: io::Error,
    },
    /// The whole attempt took longer than `connect_timeout`.
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
        /// The reason, with the remedy if there is one.
        reason: String,
    },
    /// The login was refused, or would send a secret in clear text.
    #[error("login to {at} failed: {reason}")]
    Auth {
        /// Host, port and database.
        at: String,
        /// The server's code (28P01 or 28000); `None` if the login was not attempted.
        sqlstate: Option<String>,
        /// The reason.
        reason: String,
        /// Whether the server asked for a client certificate.
        asks_for_certificate: bool,
    },
    /// The password could not be read from its file, or its command failed.
    #[error("no password for {at}: {reason}")]
    Password {
        /// Host, port and database.
        at: String,
        /// The reason.
        reason: String,
    },
    /// The server refused the session for another reason: it is starting up, has too many connections, or
    /// lacks the database.
    #[error("{at} refused the session: {}", error.startup_text())]
    Server {
        /// Host, port and database.
        at: String,
        /// The server's error; match on its SQLSTATE.
        error: Box<ServerError>,
    },
    /// The peer does not speak PostgreSQL's protocol.
    #[error("{at} does not speak PostgreSQL's protocol: {reason}")]
    Protocol {
        /// Host, port and database.
        at: String,
        /// What was received instead.
        reason: String,
    },
}

impl ConnectError {
    /// The connection broke. A server that refuses our certificate says so only after the handshake (TLS 1.3).
    pub(crate) fn unreachable(url: &PgUrl, source: io::Error) -> Self {
        match tls_error(&source) {
            Some(alert @ rustls::Error::AlertReceived(_)) => ConnectError::tls(url, tls::explain(url, alert)),
            _ => ConnectError::Unreachable { at: url.to_string(), source },
        }
    }

    /// Whether no address is known for the host's name (getaddrinfo).
    pub(crate) fn is_unknown_name(&self) -> bool {
        let ConnectError::Unreachable { source, .. } = self else { return false };
        source.to_string().starts_with("failed to lookup address information")
    }

    /// The handshake failed.
    pub(crate) fn handshake(url: &PgUrl, error: io::Error) -> Self {
        match tls_error(&error) {
            Some(reason) => ConnectError::tls(url, tls::explain(url, reason)),
            None => ConnectError::unreachable(url, error),
        }
    }

    pub(crate) fn tls(url: &PgUrl, reason: impl fmt::Display) -> Self {
        ConnectError::Tls { at: url.to_string(), reason: clip(&reason.to_string()).into_owned() }
    }

    pub(crate) fn auth(url: &PgUrl, reason: impl fmt::Display) -> Self {
        ConnectError::Auth {
            at: url.to_string(),
            sqlstate: None,
            reason: clip(&reason.to_string()).into_owned(),
            asks_for_certificate: false,
        }
    }

    pub(crate) fn protocol(url: &PgUrl, reason: impl fmt::Display) -> Self {
        ConnectError::Protocol { at: url.to_string(), reason: clip(&reason.to_string()).into_owned() }
    }

    /// Sorts a refusal at session start into login errors and others.
    pub(crate) fn refused(url: &PgUrl, error: ServerError) -> Self {
        use SqlStateClass::{InvalidPassword, Login};
        let at = url.to_string();
        if matches!(SqlStateClass::of(&error.sqlstate), InvalidPassword | Login) {
            ConnectError::Auth {
                at,
                reason: error.startup_text(),
                sqlstate: Some(error.sqlstate),
                asks_for_certificate: false,
            }
        } else {
            ConnectError::Server { at, error: Box::new(error) }
        }
    }

    /// Records that the server asked for a client certificate: its refusal may be about that.
    pub(super) fn after_certificate_request(mut self) -> Self {
        if let ConnectError::Auth { sqlstate: Some(_), asks_for_certificate, .. } = &mut self {
            *asks_for_certificate = true;
        }
        self
    }

    /// Whether pg_hba.conf has no line for this kind of connection (`hostssl`, `hostnossl`). Only then is the
    /// other kind worth an attempt.
    pub(crate) fn is_not_let_in(&self) -> bool {
        let ConnectError::Auth { sqlstate: Some(code), .. } = self else { return false };
        SqlStateClass::of(code) == SqlStateClass::Login
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(sqlstate: &str, routine: Option<&str>) -> ServerError {
        ServerError {
            severity: "ERROR".to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: "about Bob".to_owned(),
            detail: Some("Bob's detail".to_owned()),
            hint: Some("Bob's hint".to_owned()),
            routine: routine.map(str::to_owned),
        }
    }

    #[test]
    fn what_a_row_or_user_code_may_have_said_is_withheld() {
        assert_eq!(error("42501", None).to_string(), "ERROR: about Bob (SQLSTATE 42501; hint: Bob's hint)");
        assert_eq!(error("23505", None).to_string(), "ERROR: the server rejected a value (SQLSTATE 23505)");
        for (code, routine) in [("45000", None), ("P0001", None), ("23XYZ", None), ("42501", Some("exec_stmt_raise"))] {
            let text = format!("ERROR: raised by user-defined code, message withheld (SQLSTATE {code})");
            assert_eq!(error(code, routine).to_string(), text);
        }
    }

    #[test]
    fn a_session_that_is_refused_over_an_option_says_which() {
        let url = PgUrl::parse("postgres://u@h/db").unwrap();
        let text = |code: &str| ConnectError::refused(&url, error(code, None)).to_string();
        assert!(text("22023").contains("about Bob"), "{}", text("22023"));
        for code in ["P0001", "45000"] {
            assert!(!text(code).contains("Bob"), "{}", text(code));
        }
    }

    proptest! {
        #[test]
        fn an_application_defined_error_shows_its_code_only(code in "\\PC*") {
            if SqlStateClass::of(&code) == SqlStateClass::ApplicationDefined {
                let error = error(&code, None);
                prop_assert!(!error.to_string().contains("Bob") || code.contains("Bob"));
                prop_assert!(!error.startup_text().contains("Bob") || code.contains("Bob"));
            }
        }
    }
}
