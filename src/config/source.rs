//! The sections `source` and `state`. Pure.

use super::key_types::{Choice, CommandWords, Name, SlotName, Url};
use super::section::section;
use crate::pg::{PasswordCommand, PgUrl};
use schemars::JsonSchema;
use serde::Deserialize;

section! {
    /// The auth database and how it is read.
    ///
    /// ```yaml
    /// source:
    ///   url: ${AUTH_DATABASE_URL}
    ///   slot: users_sync
    /// ```
    pub struct Source {
        /// Connection URL of the auth database in libpq's format, usually `${AUTH_DATABASE_URL}`.
        ///
        /// `sslmode`, `sslrootcert` (a file, `system` or `webpki`) and `channel_binding` are supported:
        /// `postgres://user:password@host:5432/database?sslmode=verify-full`.
        ///
        /// For a server that asks for a client certificate, `sslcert` and `sslkey` name its files, and `sslpassword` is the
        /// password of an encrypted key: `...?sslmode=verify-ca&sslrootcert=/tls/ca.pem&sslcert=/tls/client.pem&sslkey=/tls/key.pem`.
        /// They are read for each connection. Files in `~/.postgresql` are not used.
        pub url: PgUrl as Url,
        /// Command that prints the password, as a list of the program and its arguments, for short-lived tokens.
        ///
        /// `{host}`, `{port}`, `{user}` and `{database}` in an argument stand for those of the URL, which has no password. The
        /// command runs without a shell, for at most 30 s. It prints one line, which is used for a minute, or a JSON
        /// object with `password` (or `token`, `accessToken`) and `expires_at` (or `expires_on`) in seconds since 1970. A
        /// password that the server refuses is not used again.
        ///
        /// A password file is named in the URL: `...?passfile=/etc/users-sync/pgpass`, in libpq's format.
        pub password_command: Option<PasswordCommand> as Option<CommandWords>,
        /// Name of the replication slot. It is created if it does not exist.
        pub slot: String as SlotName = "users_sync",
        /// Name of the publication. It is created if it does not exist, before the slot.
        pub publication: String as Name = "users_sync",
        /// Which columns the publication contains.
        pub publish: Publish as Choice<Publish> = "rows",
    }
}

section! {
    /// The database that stores the state of the replication.
    ///
    /// ```yaml
    /// state: {url: "${STATE_DATABASE_URL}"}
    /// ```
    pub(super) struct State {
        /// Connection URL of the state's database, in the format of `source.url`. The state is stored in its schema
        /// `users_sync`.
        pub url: PgUrl as Url,
        /// As `source.password_command`, for the state's database.
        pub password_command: Option<PasswordCommand> as Option<CommandWords>,
    }
}

/// `source.publish`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// Whole rows. Columns that must not leave are dropped in the decoder, and migrations of the auth store need no care.
    Rows,
    /// Only the columns of `users.allow`, so that hashes and tokens never leave the database. PostgreSQL 15 or later is
    /// required. It then refuses to drop a published column or to change its type until the table has left the publication.
    /// `REPLICA IDENTITY FULL` cannot be combined with it.
    Columns,
}
