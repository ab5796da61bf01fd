//! What both ends share about PostgreSQL: connection URLs, TLS, SQL identifiers.

mod sql;
mod types;
mod url;

pub use sql::{quote_ident, quote_literal};
pub use types::load_types;
pub use url::{ChannelBinding, PgUrl, Secret, SslMode, SslRoots};
