//! Why a throwaway server failed.

use std::path::PathBuf;
use std::time::Duration;

/// Why a throwaway server failed.
#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    /// `initdb` and `postgres` were not found.
    #[error(
        "no PostgreSQL server binaries found (searched $USERS_SYNC_PG_BIN, PATH and /usr/lib/postgresql/*/bin); \
         install them with `apt-get install postgresql`, or set USERS_SYNC_PG_BIN to the directory that holds \
         initdb and postgres"
    )]
    NoBinaries,
    /// A directory from the caller or USERS_SYNC_PG_BIN lacks `initdb` or `postgres`.
    #[error("{0:?} does not contain initdb and postgres (USERS_SYNC_PG_BIN)")]
    NotBinaries(PathBuf),
    /// PostgreSQL refuses to run as root, and no other account was found.
    #[error("PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`")]
    NoAccount,
    /// A system call or program failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation, as a verb phrase.
        what: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed:\n{0}")]
    Initdb(String),
    /// The server exited, or did not accept connections.
    #[error("the throwaway server on port {port} {how}; the end of its log:\n{log}")]
    Server {
        /// Its port.
        port: u16,
        /// What happened, as a verb phrase.
        how: String,
        /// The tail of its log.
        log: String,
    },
    /// The server did not stop in time.
    #[error("the throwaway server on port {port} did not stop within {within:?}")]
    WillNotStop {
        /// Its port.
        port: u16,
        /// The time limit.
        within: Duration,
    },
    /// A connection or statement failed.
    #[error("cannot {what}: {}", crate::pg::describe(source))]
    Sql {
        /// The operation, as a verb phrase.
        what: String,
        /// The server's or the driver's error.
        #[source]
        source: tokio_postgres::Error,
    },
}

impl ThrowawayError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ThrowawayError {
        let what = what.into();
        move |source| ThrowawayError::Io { what, source }
    }
}
