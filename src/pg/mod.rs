//! Access to PostgreSQL, shared by source and targets: connection URLs, TLS, connecting, SQL client, errors,
//! quoting.

mod address;
mod certificate;
mod client;
mod client_certificate;
mod error;
mod guard;
mod password;
mod password_source;
mod regular_file;
mod repeated;
mod server_certificate;
mod session;
mod sql;
mod sqlstate;
mod statements;
mod stream;
mod target_client;
mod timestamp;
mod tls;
mod types;
mod url;

pub(crate) use client::PgClient;
pub use client::{connect, connect_state};
pub(crate) use error::CERTIFICATE_REMEDY;
pub use error::ConnectError;
pub(crate) use error::ServerError;
pub(crate) use error::describe;
pub(crate) use guard::{CLEARTEXT, GuardError, MAX_LOGIN_MESSAGE};
pub(crate) use password::with_password;
pub use password_source::{PasswordCommand, PasswordSource};
pub(crate) use repeated::Repeated;
pub(crate) use session::{NO_TIMEOUTS, NO_TRANSACTION_TIMEOUT, reading_statements, walsender_options};
pub(crate) use sql::{quote_ident, quote_literal, quote_table};
pub(crate) use sqlstate::{Disclosure, SqlStateClass, is_full_notify_queue, is_raised, is_time_limit, names_place};
pub(crate) use statements::{Statements, create_schema};
pub(crate) use stream::{PREFER_REMEDY, Stream, connect_with};
pub use target_client::{TargetClient, connect_target, connect_to_apply};
pub(crate) use timestamp::PgTimestamp;
pub use types::load_types;
pub(crate) use url::{ChannelBinding, ClientCertificate, SslMode, SslRoots};
pub use url::{PgUrl, Secret};
