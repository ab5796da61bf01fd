//! Reads settings of the source's server.

use crate::capture::CaptureError;
use crate::capture::slot::read_synchronous;
use crate::capture::synchronous::SynchronousFacts;
use tokio_postgres::Client;

#[derive(Clone, Debug)]
pub(super) struct ServerFacts {
    pub(super) synchronous: SynchronousFacts,
}

pub(super) async fn gather(client: &Client) -> Result<ServerFacts, CaptureError> {
    Ok(ServerFacts { synchronous: read_synchronous(client).await? })
}
