//! The time limit of every lookup that `check` makes.

use std::time::Duration;

/// A lookup is a few reads of the catalog: a longer one waits for a lock.
pub(super) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(15);

/// `None` after [`LOOKUP_TIMEOUT`].
pub(super) async fn within<T>(lookup: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await.ok()
}
