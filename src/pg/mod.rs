//! What both ends share about PostgreSQL: connection URLs, TLS, SQL identifiers.

mod sql;
mod url;

pub use sql::{quote_ident, quote_literal};
pub use url::{ChannelBinding, PgUrl, Secret, SslMode, SslRoots, UrlError};
