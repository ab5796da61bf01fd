//! Refuses to stream while the server counts our walsender as a synchronous standby.

use crate::capture::slot::read_synchronous;
use crate::capture::synchronous::CountsAsStandby;
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;
use crate::replicator::source::old_sessions::base_name;

/// An error if commits of the auth store would wait for our walsender.
pub(crate) async fn refuse_synchronous(client: &PgClient) -> Result<(), ServiceError> {
    let mut facts = read_synchronous(client).await?;
    // The walsender has begun before the epoch was known.
    facts.application_name = base_name(&facts.application_name).to_owned();
    match facts.conflict() {
        None => Ok(()),
        Some(CountsAsStandby { what, remedy }) => Err(ServiceError::Unready { what, remedy }),
    }
}
