//! Refuses to stream while the server counts our walsender as a synchronous standby.

use crate::capture::slot::read_synchronous;
use crate::capture::synchronous::CountsAsStandby;
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;

/// An error if commits of the auth store would wait for our walsender.
pub(crate) async fn refuse_synchronous(client: &PgClient) -> Result<(), ServiceError> {
    match read_synchronous(client).await?.conflict() {
        None => Ok(()),
        Some(CountsAsStandby { what, remedy }) => Err(ServiceError::Unready { what, remedy }),
    }
}
