//! The failure policy of targets: which errors are retried, and which park the tenant until a person acts. Pure.

use crate::apply::{Refusal, TargetError, remedy_of_shape};
use crate::model::{ParkCause, RetryCause, TenantId, shell_word};
use crate::pg::{
    CERTIFICATE_REMEDY, ConnectError, GuardError, SqlStateClass, describe, is_full_notify_queue, is_raised,
    is_time_limit, quote_ident,
};
use crate::snapshot::{Interruption, LoadError};
use std::time::Duration;
use tokio_postgres::error::DbError;
use tokio_postgres::types::{WasNull, WrongType};

/// The reaction to a target's error.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FailureAction {
    /// Retry. The tenant's changes wait meanwhile.
    Retry {
        cause: RetryCause,
        reason: String,
        /// How to fix it, where the error says more than the cause.
        remedy: Option<String>,
    },
    /// Park the tenant. A parked tenant is retried with long pauses.
    Park {
        cause: ParkCause,
        reason: String,
        /// How to fix it.
        remedy: String,
    },
    /// The target refused a row: skip that row.
    Refused(Refusal),
}

impl FailureAction {
    fn retry(cause: RetryCause, reason: impl Into<String>) -> FailureAction {
        FailureAction::Retry { cause, reason: reason.into(), remedy: None }
    }

    fn refused_login(reason: String, remedy: impl Into<String>) -> FailureAction {
        FailureAction::Retry { cause: RetryCause::LoginRefused, reason, remedy: Some(remedy.into()) }
    }

    fn park(cause: ParkCause, reason: impl Into<String>, remedy: impl Into<String>) -> FailureAction {
        FailureAction::Park { cause, reason: reason.into(), remedy: remedy.into() }
    }
}

/// SQLSTATE of a login to a database that does not accept connections (`object_not_in_prerequisite_state`).
const NO_CONNECTIONS: &str = "55000";

/// How to fix a login.
const LOGIN: &str = "correct the role or password in the target's URL, or pg_hba.conf at the target";

/// How to fix TLS.
const TLS: &str = "correct sslmode, sslrootcert, sslcert or sslkey of the target's URL, or replace the certificate";

/// How to fix tables that were changed.
const ALTERED: &str = "the tables were renamed or altered: rename them back, or drop them";

/// How to fix another object in the place of a table, until it is known which.
const NOT_A_TABLE_REMEDY: &str =
    "rename what has this name: users-sync creates its table, and fills it with a snapshot";

/// A name for a table that is moved out of the way.
const AWAY: &str = "users_sync_old";

/// Whether a look at the target can tell more of the cause than the error of a statement.
pub(crate) fn is_found_by_inspection(cause: ParkCause) -> bool {
    match cause {
        ParkCause::Rights | ParkCause::Altered | ParkCause::Other => true,
        ParkCause::Login
        | ParkCause::Refuses
        | ParkCause::Deletes
        | ParkCause::Foreign
        | ParkCause::Memory
        | ParkCause::Log
        | ParkCause::Away
        | ParkCause::TooSlow
        | ParkCause::NotConfigured
        | ParkCause::Internal => false,
    }
}

/// How to fix a full queue of notifications.
const NOTIFY_REMEDY: &str = "a session of that server that listens keeps a transaction open, and the queue of notifications is \
    full: end that session";

/// How to fix what user-defined code reports.
const RAISED_REMEDY: &str = "a trigger or function in the target raised this: correct it, or drop the trigger";

/// How to fix a target that answers nothing.
pub(crate) const NO_PROGRESS: &str = "end what keeps the target from answering: a lock on neon_auth.users_sync or \
    users_sync.checkpoint, or a trigger or view that waits";

/// How long a refused login is tried again before it parks a tenant that followed. A new password, certificate or authority
/// reaches the server before it reaches the file or the secret: Kubernetes takes up to two minutes for a mounted secret.
const LOGIN_PATIENCE: Duration = Duration::from_secs(150);

/// What follows a login that has been refused for this long. A tenant that never followed has no changes to lose.
pub(crate) fn of_refused_login(
    reason: String,
    remedy: Option<String>,
    since: Duration,
    followed: bool,
) -> FailureAction {
    if followed && since < LOGIN_PATIENCE {
        FailureAction::Retry { cause: RetryCause::LoginRefused, reason, remedy }
    } else {
        FailureAction::park(ParkCause::Login, reason, remedy.unwrap_or_else(|| LOGIN.to_owned()))
    }
}

/// What follows the first failed connection of a process.
pub(crate) fn of_first_connect(error: &ConnectError, followed: bool) -> FailureAction {
    match of_connect(error) {
        FailureAction::Retry { cause: RetryCause::LoginRefused, reason, remedy } => {
            of_refused_login(reason, remedy, Duration::ZERO, followed)
        }
        action => action,
    }
}

fn is_login_refused(sqlstate: &str) -> bool {
    matches!(SqlStateClass::of(sqlstate), SqlStateClass::InvalidPassword | SqlStateClass::Login)
}

/// Parks a tenant whose target ends a statement that writes one row, or one that cannot be made smaller. `reason` is that
/// of the last attempt.
pub(crate) fn of_too_slow(reason: &str, role: &str) -> FailureAction {
    let reason = format!("{} ({reason}): {TOO_SLOW_CAUSES}", ParkCause::TooSlow);
    FailureAction::park(
        ParkCause::TooSlow,
        reason,
        format!("ALTER ROLE {} SET statement_timeout = 0;", quote_ident(role)),
    )
}

/// What may end a statement although our sessions set `statement_timeout` to 0.
const TOO_SLOW_CAUSES: &str = "a trigger that waits, a pooler with a query_timeout, a pooler that keeps the role's \
    statement_timeout, or a job that cancels statements";

/// Why a target's error parks its tenant, and what fixes it; `None` where another attempt may succeed.
fn remedy(sqlstate: &str) -> Option<(ParkCause, &'static str)> {
    use SqlStateClass::*;
    Some(match SqlStateClass::of(sqlstate) {
        Transient | LockNotAvailable | InsufficientResources | TooManyConnections | ConfigurationLimit => return None,
        ReadOnly => (
            ParkCause::Rights,
            "the database is read-only (a standby, or configured so): point the target at the primary, or make it writable",
        ),
        Privilege => (
            ParkCause::Rights,
            "grant the role its privileges: GRANT CREATE ON DATABASE ... for the first start, and USAGE on the schemas \
             users_sync and neon_auth with SELECT, INSERT, UPDATE, DELETE on their tables",
        ),
        InvalidPassword | Login => (ParkCause::Login, LOGIN),
        MissingDatabase => (ParkCause::Login, "create the database, or correct the target's URL"),
        MissingSchema | MissingTable | MissingColumn => (ParkCause::Altered, ALTERED),
        RowRefused | ProgramLimit | Statement | RoutineFailure | Other | ApplicationDefined => (
            ParkCause::Other,
            "fix what the target reports, or drop neon_auth.users_sync and users_sync.checkpoint there",
        ),
    })
}

/// Whether the server is out of disk space, memory or connections.
fn lacks_resources(sqlstate: &str) -> bool {
    use SqlStateClass::*;
    match SqlStateClass::of(sqlstate) {
        InsufficientResources | TooManyConnections => true,
        RowRefused | Transient | LockNotAvailable | ConfigurationLimit | ProgramLimit | ReadOnly | Privilege
        | InvalidPassword | Login | MissingDatabase | MissingSchema | MissingTable | MissingColumn | Statement
        | RoutineFailure | Other | ApplicationDefined => false,
    }
}

pub(crate) fn of_connect(error: &ConnectError) -> FailureAction {
    let reason = error.to_string();
    match error {
        ConnectError::Unreachable { .. } | ConnectError::Timeout { .. } => {
            FailureAction::retry(RetryCause::Unreachable, reason)
        }
        ConnectError::Tls { .. } => FailureAction::refused_login(reason, TLS),
        ConnectError::Protocol { .. } => {
            FailureAction::park(ParkCause::Login, reason, "correct host and port of the target's URL")
        }
        // A service for short-lived tokens may be down for a while.
        ConnectError::Password { .. } => FailureAction::retry(RetryCause::NoPassword, reason),
        ConnectError::Auth { asks_for_certificate: true, .. } => {
            FailureAction::refused_login(reason, format!("{LOGIN}; {CERTIFICATE_REMEDY}"))
        }
        ConnectError::Auth { .. } => FailureAction::retry(RetryCause::LoginRefused, reason),
        // A database that takes no connections for now (ALLOW_CONNECTIONS false).
        ConnectError::Server { error, .. } if error.sqlstate == NO_CONNECTIONS => {
            FailureAction::retry(RetryCause::Unreachable, reason)
        }
        ConnectError::Server { error, .. } if is_login_refused(&error.sqlstate) => {
            FailureAction::retry(RetryCause::LoginRefused, reason)
        }
        ConnectError::Server { error, .. } => match remedy(&error.sqlstate) {
            None if lacks_resources(&error.sqlstate) => FailureAction::retry(RetryCause::NoResources, reason),
            None => FailureAction::retry(RetryCause::Unreachable, reason),
            Some((cause, remedy)) => FailureAction::park(cause, reason, remedy),
        },
    }
}

pub(crate) fn of_sql(error: &tokio_postgres::Error) -> FailureAction {
    let reason = describe(error);
    if error.as_db_error().is_some_and(is_concurrent_ddl) {
        return FailureAction::retry(RetryCause::TargetError, reason);
    }
    if let Some(refusal) = Refusal::of(error) {
        return FailureAction::Refused(refusal);
    }
    if std::error::Error::source(error).is_some_and(|source| source.is::<WrongType>() || source.is::<WasNull>()) {
        return FailureAction::park(ParkCause::Altered, reason, ALTERED);
    }
    let server = error.as_db_error();
    let (code, routine) = (server.map(|error| error.code().code()), server.and_then(|error| error.routine()));
    if code.is_some_and(|code| is_full_notify_queue(code, routine)) {
        return FailureAction::park(
            ParkCause::Other,
            "the queue of notifications of its server is full",
            NOTIFY_REMEDY,
        );
    }
    if code.is_some_and(is_time_limit) {
        return FailureAction::retry(RetryCause::TooSlow, reason);
    }
    if code.is_some_and(lacks_resources) && !is_raised(routine) {
        return FailureAction::retry(RetryCause::NoResources, reason);
    }
    match code.map(remedy) {
        // No code: the connection broke.
        None | Some(None) => FailureAction::retry(RetryCause::TargetError, reason),
        Some(Some((cause, _))) if is_raised(routine) => FailureAction::park(cause, reason, RAISED_REMEDY),
        Some(Some((cause, remedy))) => FailureAction::park(cause, reason, remedy),
    }
}

/// Whether another session created the same object at once: IF NOT EXISTS does not wait for it. An error of a trigger has a context.
fn is_concurrent_ddl(error: &DbError) -> bool {
    error.schema() == Some("pg_catalog") && error.where_().is_none()
}

pub(crate) fn of_guard(error: GuardError) -> FailureAction {
    FailureAction::park(
        ParkCause::Other,
        error.to_string(),
        "correct the target's URL; in the database, make neon_auth.users_sync, users_sync.checkpoint and \
         users_sync.rejected plain tables without triggers that raise long errors",
    )
}

pub(crate) fn of_target(error: &TargetError) -> FailureAction {
    match error {
        TargetError::Sql(error) => of_sql(error),
        TargetError::Skipped(_) => FailureAction::Refused(Refusal::skipped()),
        TargetError::Strayed(_) => FailureAction::Refused(Refusal::strayed()),
        TargetError::NotATable(_) => FailureAction::park(ParkCause::Altered, error.to_string(), NOT_A_TABLE_REMEDY),
        TargetError::RowSecurity(role) => FailureAction::park(
            ParkCause::Rights,
            error.to_string(),
            format!("ALTER ROLE {} BYPASSRLS;", quote_ident(role)),
        ),
        TargetError::Shape(error) => {
            FailureAction::park(ParkCause::Altered, error.to_string(), remedy_of_shape(error, AWAY))
        }
        TargetError::TooManyRefused { reason, remedy } => FailureAction::park(ParkCause::Refuses, reason, remedy),
        TargetError::RejectedTable(_) => FailureAction::park(
            ParkCause::Altered,
            error.to_string(),
            "as the owner of what has this name, drop it: DROP VIEW or DROP TABLE users_sync.rejected; it is created again",
        ),
    }
}

fn of_interruption(why: &Interruption) -> RetryCause {
    match why {
        Interruption::LockAwaited => RetryCause::ScanAborted,
        Interruption::SpoolFull => RetryCause::SpoolFull,
        Interruption::BrokenOff | Interruption::Unreadable(_) => RetryCause::SnapshotFailed,
    }
}

/// `adopts`: the load takes over rows that users-sync did not write.
pub(crate) fn of_load(error: &LoadError, tenant: &TenantId, adopts: bool) -> FailureAction {
    let word = shell_word(tenant.as_str());
    match error {
        LoadError::Target(error) => of_target(error),
        LoadError::Interrupted(why) => FailureAction::retry(of_interruption(why), why.to_string()),
        LoadError::Fenced | LoadError::Count { .. } => {
            FailureAction::retry(RetryCause::SnapshotFailed, error.to_string())
        }
        LoadError::NoProgress { .. } => FailureAction::park(ParkCause::Away, error.to_string(), NO_PROGRESS),
        LoadError::TooManyDeletes { .. } if adopts => FailureAction::park(
            ParkCause::Deletes,
            error.to_string(),
            format!(
                "users-sync adopt -c FILE {word} --extra keep; or, if these users are really gone: \
                 users-sync adopt -c FILE {word} --allow-deletes"
            ),
        ),
        LoadError::TooManyDeletes { .. } => FailureAction::park(
            ParkCause::Deletes,
            error.to_string(),
            format!(
                "if these users of tenant {tenant} are really gone: \
                 users-sync resync -c FILE {word} --allow-deletes"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A full disk (53100), and no memory (53200) or connection (53300).
    #[test]
    fn a_server_without_resources_is_tried_again() {
        let url = crate::pg::PgUrl::parse("postgres://u@h/d").unwrap();
        for code in ["53100", "53200", "53300"] {
            let error = crate::pg::ServerError { sqlstate: code.to_owned(), ..Default::default() };
            let action = of_connect(&ConnectError::refused(&url, error));
            assert!(matches!(action, FailureAction::Retry { cause: RetryCause::NoResources, .. }), "{action:?}");
        }
    }

    #[test]
    fn a_refused_login_parks_a_tenant_that_followed_only_after_a_while() {
        let url = crate::pg::PgUrl::parse("postgres://u@h/d").unwrap();
        let refused = |code: &str| {
            let error = crate::pg::ServerError { sqlstate: code.to_owned(), ..Default::default() };
            ConnectError::refused(&url, error)
        };
        // The server asks every client for a certificate, and refuses one of them for its password.
        let asking = |code: &str| match refused(code) {
            ConnectError::Auth { at, sqlstate, reason, .. } => {
                ConnectError::Auth { at, sqlstate, reason, asks_for_certificate: true }
            }
            error => error,
        };
        for (error, remedy) in [
            (refused("28P01"), LOGIN),
            (refused("28000"), LOGIN),
            (asking("28P01"), CERTIFICATE_REMEDY),
            (asking("28000"), CERTIFICATE_REMEDY),
            (ConnectError::tls(&url, "the certificate has expired"), TLS),
        ] {
            for (since, followed, parks) in
                [(Duration::ZERO, true, false), (Duration::ZERO, false, true), (LOGIN_PATIENCE, true, true)]
            {
                let FailureAction::Retry { cause: RetryCause::LoginRefused, reason, remedy: found } =
                    of_connect(&error)
                else {
                    panic!("{error}: {:?}", of_connect(&error));
                };
                match of_refused_login(reason, found, since, followed) {
                    FailureAction::Park { cause: ParkCause::Login, remedy: found, .. } if parks => {
                        assert!(found.contains(remedy), "{error}: {found}");
                    }
                    FailureAction::Retry { cause: RetryCause::LoginRefused, .. } if !parks => {}
                    action => panic!("{error} after {since:?}, {followed}: {action:?}"),
                }
            }
        }
    }

    #[test]
    fn transient_errors_are_retried_and_others_have_a_remedy() {
        for code in ["08006", "57P01", "57P03", "53300", "40001", "40P01", "55P03", "58030", "XX000"] {
            assert_eq!(remedy(code), None, "{code}");
        }
        for (code, word) in [
            ("28P01", "password"),
            ("42501", "GRANT"),
            ("3D000", "database"),
            ("25006", "read-only"),
            ("42P01", "renamed"),
            ("0A000", "fix"),
        ] {
            assert!(remedy(code).is_some_and(|(_, remedy)| remedy.contains(word)), "{code}");
        }
    }
}
