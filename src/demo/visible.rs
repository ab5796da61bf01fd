//! How long a change takes until a query of its target returns it.

use super::error::DemoError;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// Shortest pause between two queries: short compared with the latencies that are measured.
const POLL_INTERVAL: Duration = Duration::from_micros(200);
/// The pause is at most this share of the time that has passed, so that a long wait costs the servers little.
const POLL_SHARE: u32 = 50;
/// Time limit for one change, in seconds.
const VISIBLE_WITHIN_SECONDS: u64 = 10;

/// A change of the person `$1`, as a query of the target that returns a row once it has arrived. A later change of the
/// same person, which another task may make, counts as well.
#[derive(Clone, Copy)]
pub(super) enum Change<'a> {
    SignUp,
    /// With `updated_at` at the source.
    Rename(&'a str),
    Delete,
}

/// The time from now, right after the commit, until the change is visible. `None` if it is not within the time limit.
pub(super) async fn visible(target: &Client, id: &str, change: Change<'_>) -> Result<Option<Duration>, DemoError> {
    let committed = Instant::now();
    let id: &(dyn ToSql + Sync) = &id;
    let (sql, parameters): (_, &[&(dyn ToSql + Sync)]) = match &change {
        Change::SignUp => ("SELECT FROM neon_auth.users_sync WHERE id = $1", &[id]),
        Change::Rename(updated_at) => (
            "SELECT FROM neon_auth.users_sync \
             WHERE id = $1 AND (updated_at >= $2::text::timestamptz OR deleted_at IS NOT NULL)",
            &[id, updated_at],
        ),
        Change::Delete => ("SELECT FROM neon_auth.users_sync WHERE id = $1 AND deleted_at IS NOT NULL", &[id]),
    };
    while target.query_opt(sql, parameters).await?.is_none() {
        let waited = committed.elapsed();
        if waited.as_secs() >= VISIBLE_WITHIN_SECONDS {
            return Ok(None);
        }
        sleep(POLL_INTERVAL.max(waited / POLL_SHARE)).await;
    }
    Ok(Some(committed.elapsed()))
}
