//! Ends a scan at once when another session waits for a lock that the scan blocks: an ALTER TABLE waits for its reads, and
//! every login would queue behind that.

use crate::pg::{PgClient, PgUrl, connect};
use crate::replicator::error::ServiceError;
use std::time::Duration;
use tokio::time::sleep;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// Interval between two looks at the locks. A session waits for little longer than this.
const INTERVAL: Duration = Duration::from_millis(200);
/// Whether a session waits for a lock of these. Both functions may be called by every role.
const IS_AWAITED: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks waiting \
    WHERE NOT waiting.granted AND pg_catalog.pg_blocking_pids(waiting.pid) && $1)";
/// Releases the locks. A role may end its own sessions.
const END: &str = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.unnest($1) pid";

/// A connection that looks at the locks of other ones.
pub(crate) struct LockWatch {
    client: PgClient,
    /// The server processes of the scan.
    scanning: Vec<i32>,
}

impl LockWatch {
    /// `scanning`: the sessions that read the source. Call before they read anything.
    pub(crate) async fn begin(source: &PgUrl, scanning: &[&Client]) -> Result<LockWatch, ServiceError> {
        let mut pids = Vec::with_capacity(scanning.len());
        for client in scanning {
            pids.push(client.query_typed_one("SELECT pg_catalog.pg_backend_pid()", &[]).await?.try_get(0)?);
        }
        Ok(LockWatch { client: connect(source).await?, scanning: pids })
    }

    /// Runs a scan to its end.
    ///
    /// # Errors
    /// [`ServiceError::LockAwaited`] if another session waits for it. Its sessions have been ended.
    pub(crate) async fn run<T, E: From<ServiceError>>(&self, scan: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            biased;
            done = scan => return done,
            awaited = self.awaited() => awaited.map_err(ServiceError::from)?,
        }
        // Dropping their connections would end a running statement only after a second.
        self.client.query_typed(END, &self.scanning()).await.map_err(ServiceError::from)?;
        Err(ServiceError::LockAwaited.into())
    }

    /// Waits until another session waits for the scan.
    async fn awaited(&self) -> Result<(), tokio_postgres::Error> {
        while !self.client.query_typed_one(IS_AWAITED, &self.scanning()).await?.try_get(0)? {
            sleep(INTERVAL).await;
        }
        Ok(())
    }

    fn scanning(&self) -> [(&(dyn ToSql + Sync), Type); 1] {
        [(&self.scanning, Type::INT4_ARRAY)]
    }
}
