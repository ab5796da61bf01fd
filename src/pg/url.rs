//! A libpq connection URL, parsed and checked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A text that never shows in a log or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// libpq's `sslmode` (manual: "SSL Mode Descriptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Plain text only.
    Disable,
    /// Plain text, TLS where the server insists.
    Allow,
    /// TLS where the server can, without verification.
    Prefer,
    /// TLS; the certificate is verified only where a root file is given.
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for this host.
    VerifyFull,
}

/// Which authorities are trusted (`sslrootcert`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SslRoots {
    /// Not said.
    Default,
    /// `sslrootcert=webpki`: the Mozilla roots built in.
    Webpki,
    /// `sslrootcert=system`: the platform's.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// Always, or fail.
    Require,
}

/// A database and how to reach it. `Display` shows host, port and database, never user or password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgUrl {
    /// Host name, address, or (when it starts with `/`) the directory of the Unix socket.
    pub host: String,
    /// TCP port, 5432 unless said.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Password, where one is given.
    pub password: Option<Secret>,
    /// Database name; the role's unless said.
    pub database: String,
    /// TLS mode; `prefer` unless said, as libpq.
    pub ssl_mode: SslMode,
    /// Trusted authorities.
    pub ssl_roots: SslRoots,
    /// Channel binding.
    pub channel_binding: ChannelBinding,
    /// How long one attempt to connect may take; 10 s unless said.
    pub connect_timeout: Duration,
    /// `application_name`; `users-sync` unless said.
    pub application_name: String,
    /// `options`: command-line options for the server, such as Neon's `endpoint=...`.
    pub options: Option<String>,
}

impl fmt::Display for PgUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.host, self.port, self.database)
    }
}
