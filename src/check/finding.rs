//! Findings: subject, severity, message and remedy. Pure.

use crate::model::{CheckFinding, Code, ParkCause, SourceTrouble, TenantId};
use crate::pg::{CERTIFICATE_REMEDY, ConnectError, PREFER_REMEDY, PgUrl, SqlStateClass, SslMode, quote_ident};
use crate::replicator::error::trouble_of_connect;
use crate::replicator::failure_policy::{FailureAction, of_first_connect};
use std::fmt;

/// Ordered from the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// `run` stops, or parks the tenant.
    Error,
    /// `run` works, but may fail later or in some cases.
    Warning,
    /// Information that needs no action.
    Note,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Source,
    State,
    Tenant(TenantId),
    /// `tenants.from`.
    TenantTable,
    /// The directory of the spool, on this machine.
    Spool,
    /// What `run` uses on this machine besides that.
    Machine,
    #[cfg(feature = "kafka")]
    Kafka,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) subject: Subject,
    /// The stable code, which has a page in docs/errors.
    pub(crate) code: Code,
    pub(crate) message: String,
    /// SQL, YAML or an instruction. Empty if no action is needed.
    pub(crate) remedy: String,
    /// It can pass without a fix, like a lock: `run` waits instead of ending.
    pub(crate) can_pass: bool,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Source => f.write_str("source"),
            Subject::State => f.write_str("state"),
            Subject::Tenant(tenant) => write!(f, "tenant {tenant}"),
            Subject::TenantTable => f.write_str("table of tenants"),
            Subject::Spool => f.write_str("spool"),
            Subject::Machine => f.write_str("this machine"),
            #[cfg(feature = "kafka")]
            Subject::Kafka => f.write_str("kafka"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, rest) = self.message.split_once('\n').unwrap_or((&self.message, ""));
        write!(f, "{}: {}: {first} [{}]", self.severity, self.subject, self.code.0)?;
        if !rest.is_empty() {
            write!(f, "\n{rest}")?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n    -> {}", self.remedy)?;
        }
        Ok(())
    }
}

impl Finding {
    pub(super) fn error(
        subject: Subject,
        code: impl Into<Code>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let (code, message, remedy) = (code.into(), message.into(), remedy.into());
        Finding { severity: Severity::Error, subject, code, message, remedy, can_pass: false }
    }

    pub(super) fn warning(
        subject: Subject,
        code: impl Into<Code>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Warning, ..Finding::error(subject, code, message, remedy) }
    }

    pub(super) fn note(subject: Subject, code: impl Into<Code>, message: impl Into<String>) -> Finding {
        Finding { severity: Severity::Note, ..Finding::error(subject, code, message, "") }
    }
}

/// The finding for a failed connection. `followed`: the tenant follows, so that `run` tries a refused login again.
pub(super) fn connect_finding(subject: Subject, url: &PgUrl, error: &ConnectError, followed: bool) -> Finding {
    let role = quote_ident(&url.user);
    let mut remedy = match error {
        error if error.is_unknown_name() => {
            "correct the host name in the URL: this machine's DNS knows no address for it".into()
        }
        ConnectError::Unreachable { .. } | ConnectError::Timeout { .. } => {
            "check the host and port of the URL, that the server is running, and that no firewall blocks this machine"
                .into()
        }
        ConnectError::Tls { .. } => {
            "correct sslmode, sslrootcert, sslcert or sslkey in the URL, or replace the certificate".into()
        }
        ConnectError::Auth { sqlstate: Some(code), .. }
            if SqlStateClass::of(code) == SqlStateClass::InvalidPassword =>
        {
            format!("correct the password in the URL, or change the role's password: ALTER ROLE {role} PASSWORD '...';")
        }
        // It was not attempted, because the password would be readable on the way.
        ConnectError::Auth { sqlstate: None, .. } => {
            "set sslmode=verify-full in the URL, or let pg_hba.conf ask for scram-sha-256".into()
        }
        ConnectError::Auth { reason, .. } if reason.contains("is not permitted to log in") => {
            format!("ALTER ROLE {role} LOGIN;")
        }
        ConnectError::Auth { .. } => {
            format!(
                "check that the role exists and can log in (CREATE ROLE {role} LOGIN PASSWORD '...';), and that pg_hba.conf allows it"
            )
        }
        ConnectError::Password { .. } => {
            "correct passfile in the URL, or password_command in the configuration; run the command as the user of users-sync".into()
        }
        ConnectError::Server { error, .. } => refused_remedy(url, &error.sqlstate),
        ConnectError::Protocol { .. } => "check that the host and port of the URL are those of PostgreSQL".into(),
    };
    if let ConnectError::Auth { asks_for_certificate: true, .. } = error {
        remedy = format!("{remedy}; {CERTIFICATE_REMEDY}");
    }
    let code: Code = match &subject {
        Subject::State => SourceTrouble::State.into(),
        Subject::Tenant(_) => match of_first_connect(error, followed) {
            FailureAction::Retry { cause, .. } => cause.into(),
            FailureAction::Park { cause, .. } => cause.into(),
            FailureAction::Refused(_) => ParkCause::Other.into(),
        },
        _ => trouble_of_connect(error).into(),
    };
    Finding::error(subject, code, error.to_string(), remedy)
}

/// The finding for a connection that the network can read, unless the URL asks for that.
pub(super) fn plain_text(subject: Subject, url: &PgUrl, is_readable_on_the_way: bool) -> Option<Finding> {
    let message = "the connection is not encrypted: sslmode does not insist on TLS, and the server does not offer it or \
        refuses it";
    (is_readable_on_the_way && url.ssl_mode != SslMode::Disable)
        .then(|| Finding::warning(subject, CheckFinding::PlainText, message, PREFER_REMEDY))
}

fn refused_remedy(url: &PgUrl, sqlstate: &str) -> String {
    use SqlStateClass::*;
    match SqlStateClass::of(sqlstate) {
        MissingDatabase => {
            format!("correct the database in the URL, or run: CREATE DATABASE {};", quote_ident(&url.database))
        }
        Privilege => {
            format!("GRANT CONNECT ON DATABASE {} TO {};", quote_ident(&url.database), quote_ident(&url.user))
        }
        TooManyConnections => {
            "raise max_connections of the server or the CONNECTION LIMIT of the role or database named above, or \
             close some connections"
                .into()
        }
        RowRefused
        | Transient
        | LockNotAvailable
        | InsufficientResources
        | ConfigurationLimit
        | ProgramLimit
        | ReadOnly
        | InvalidPassword
        | Login
        | MissingSchema
        | MissingTable
        | MissingColumn
        | Statement
        | RoutineFailure
        | Other
        | ApplicationDefined => "wait until the server accepts connections, then run `check` again".into(),
    }
}
