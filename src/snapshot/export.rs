//! A snapshot at an exact position, kept alive by a session of its own.

use crate::model::Lsn;
use crate::pg::PgClient;
use tokio_postgres::{Client, Error};

/// A snapshot that other sessions can import for as long as this value lives.
pub struct Export {
    /// Every transaction whose commit ends at or before this is in the snapshot, and no other.
    pub position: Lsn,
    name: String,
    _holder: PgClient,
}

/// Imports the snapshot `name` (of a slot's creation) and exports it again, so that the slot's own session is free
/// to go on. `client` is a fresh connection to the source.
pub async fn hold_export(client: PgClient, name: &str, position: Lsn) -> Result<Export, Error> {
    import(&client, name).await?;
    let name = client.query_one("SELECT pg_export_snapshot()", &[]).await?.get(0);
    Ok(Export { position, name, _holder: client })
}

impl Export {
    /// Begins a transaction under the snapshot on a fresh connection.
    pub async fn import(&self, client: &Client) -> Result<(), Error> {
        import(client, &self.name).await
    }
}

async fn import(client: &Client, name: &str) -> Result<(), Error> {
    super::source_session(client).await?;
    let name = crate::pg::quote_literal(name);
    client
        .batch_execute(&format!(
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {name}"
        ))
        .await
}
