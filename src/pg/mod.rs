//! Access to PostgreSQL, shared by source and targets: connection URLs, TLS, connecting, SQL client, errors,
//! quoting.

mod certificate;
mod cleartext;
mod client;
mod error;
mod sql;
mod sqlstate;
mod stream;
mod timestamp;
mod tls;
mod types;
mod url;

pub(crate) use client::PgClient;
pub use client::connect;
pub(crate) use client::create_schema;
pub use error::ConnectError;
pub(crate) use error::ServerError;
pub(crate) use error::describe;
pub(crate) use sql::{quote_ident, quote_literal, quote_table};
pub(crate) use sqlstate::{Disclosure, SqlStateClass};
pub(crate) use stream::{Stream, connect_with};
pub(crate) use timestamp::PgTimestamp;
pub use types::load_types;
pub(crate) use url::{ChannelBinding, SslMode, SslRoots};
pub use url::{PgUrl, Secret};
