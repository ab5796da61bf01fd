//! An exported snapshot at an exact position, held by a session of its own.

use crate::model::Lsn;
use crate::pg::PgClient;
use tokio_postgres::{Client, Error};

/// An exported snapshot. Other sessions can import it while this value lives.
pub(crate) struct Export {
    /// The snapshot contains exactly the transactions whose commit ends at or before this position.
    pub(crate) position: Lsn,
    name: String,
    holder: PgClient,
}

/// Imports the snapshot `name` from a slot's creation and exports it again, which frees the slot's session.
/// `client` is a new connection to the source.
pub(crate) async fn hold_export(client: PgClient, name: &str, position: Lsn) -> Result<Export, Error> {
    import(&client, name).await?;
    let name = client.query_one("SELECT pg_export_snapshot()", &[]).await?.try_get(0)?;
    Ok(Export { position, name, holder: client })
}

impl Export {
    /// The session that holds the snapshot.
    pub(crate) fn holder(&self) -> &Client {
        &self.holder
    }

    /// Begins a transaction with this snapshot on a new connection.
    pub(crate) async fn import(&self, client: &Client) -> Result<(), Error> {
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
