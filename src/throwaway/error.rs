//! Why a throwaway server failed.

use std::path::PathBuf;
use std::time::Duration;

/// Why a throwaway server failed.
#[derive(Debug, thiserror::Error)]
pub enum ThrowawayError {
    /// No `initdb` and `postgres` anywhere.
    #[error(
        "no PostgreSQL server binaries found (looked in $USERS_SYNC_PG_BIN, PATH and /usr/lib/postgresql/*/bin); \
         install them with `apt-get install postgresql`, or set USERS_SYNC_PG_BIN to the directory that holds \
         initdb and postgres"
    )]
    NoBinaries,
    /// A directory that was named, by USERS_SYNC_PG_BIN, say, has none.
    #[error("{0:?} holds no initdb and postgres (USERS_SYNC_PG_BIN)")]
    NotBinaries(PathBuf),
    /// PostgreSQL refuses to run as root, and there is no one else to run it as.
    #[error("PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`")]
    NoAccount,
    /// An operation of the system failed.
    #[error("cannot {what}")]
    Io {
        /// The operation, as a verb phrase.
        what: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// `initdb` failed.
    #[error("initdb failed:\n{0}")]
    Initdb(String),
    /// The server ended, or never accepted connections.
    #[error("the throwaway server on port {port} {how}; the end of its log:\n{log}")]
    Server {
        /// Its port.
        port: u16,
        /// What it did.
        how: String,
        /// The tail of its log.
        log: String,
    },
    /// The server did not stop in time.
    #[error("the throwaway server on port {port} did not stop within {within:?}")]
    WillNotStop {
        /// Its port.
        port: u16,
        /// The time that it had.
        within: Duration,
    },
    /// A connection or statement failed.
    #[error("cannot {what}")]
    Sql {
        /// The operation, as a verb phrase.
        what: String,
        /// What the server or the driver said.
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
