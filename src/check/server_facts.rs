//! Reads settings of the source's server, and tries a replication connection.

use super::deadline::within;
use crate::capture::slot::{identify_system, read_synchronous};
use crate::capture::synchronous::SynchronousFacts;
use crate::capture::{CaptureError, ReplicationConnection};
use crate::config::Config;
use crate::pg::ConnectError;
use tokio_postgres::Client;

pub(super) struct ServerFacts {
    pub(super) synchronous: SynchronousFacts,
    /// `output_plugin_libraries`; `None` in versions without it.
    pub(super) plugin_libraries: Option<String>,
    pub(super) replication: ReplicationAttempt,
}

/// What became of a replication connection.
pub(super) enum ReplicationAttempt {
    Works,
    TooSlow,
    /// The session knows no replication commands: the startup parameter was dropped on the way.
    OnlySql,
    Failed(ConnectError),
}

pub(super) async fn gather(client: &Client, config: &Config) -> Result<ServerFacts, CaptureError> {
    let setting = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'output_plugin_libraries'";
    let row = client.query_typed_opt(setting, &[]).await?;
    let replication = match within(ReplicationConnection::connect(&config.source.url)).await {
        None => ReplicationAttempt::TooSlow,
        Some(Ok(mut connection)) => match within(identify_system(&mut connection)).await {
            Some(Ok(_)) => ReplicationAttempt::Works,
            Some(Err(_)) => ReplicationAttempt::OnlySql,
            None => ReplicationAttempt::TooSlow,
        },
        Some(Err(CaptureError::Connect(error))) => ReplicationAttempt::Failed(error),
        Some(Err(error)) => return Err(error),
    };
    Ok(ServerFacts {
        synchronous: read_synchronous(client).await?,
        plugin_libraries: row.map(|row| row.try_get(0)).transpose()?,
        replication,
    })
}
