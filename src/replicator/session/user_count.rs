//! Counts the users of the source that have no tenant: at the start of a session, after a change of the tenants, and after
//! changes of such users.

use crate::model::{StatusFinding, TenantKey, UserCount, UserCounts};
use crate::pg::connect;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::replicator::source::lock_watch::LockWatch;
use crate::replicator::source::user_counts::count_users;
use crate::snapshot::source_session;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Time limit of the query.
const LIMIT: Duration = Duration::from_secs(60);
/// Shortest and longest pause between two counts.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// A pause is this many times as long as the last count: the source spends 1 % of a session's time on it.
const PAUSE_RATIO: u32 = 100;
/// The same while a tenant has no users: a person may have just corrected that.
const PAUSE_RATIO_IN_TROUBLE: u32 = 10;
/// A count that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(60);

/// Counts until the session ends. A count that fails is recorded as unknown.
///
/// # Errors
/// The state cannot be written, or another process took over.
pub(crate) async fn count_changes(context: &SessionContext) -> Result<(), ServiceError> {
    let SessionContext { users_changed, tenants_changed, .. } = context;
    let mut lacked_users = false;
    loop {
        tokio::select! {
            () = sleep(pause(context.status.last_user_count(), context.status.lacks_users())) => {}
            () = tenants_changed.notified() => {}
            () = context.drain.cancelled() => return Ok(()),
        }
        let began = Instant::now();
        let counted = tokio::select! {
            counted = count(context) => counted.unwrap_or_else(|error| UserCount::Unknown(error.to_string())),
            () = context.drain.cancelled() => return Ok(()),
        };
        context.state.note_user_count(&counted).await?;
        let failed = matches!(counted, UserCount::Unknown(_));
        context.status.set_user_count(counted, began.elapsed());
        let lacks_users = context.status.lacks_users();
        if lacks_users && !lacked_users {
            tracing::info!(
                reason_code = StatusFinding::WithoutUsers.code(),
                "no user of the source has the key of a tenant"
            );
        }
        lacked_users = lacks_users;
        tokio::select! {
            () = users_changed.notified() => {}
            () = tenants_changed.notified() => {
                // Not postponed by the pause.
                tenants_changed.notify_one();
            }
            () = sleep(RETRY), if failed => {}
            () = context.drain.cancelled() => return Ok(()),
        }
    }
}

/// How long to wait, given the seconds since the last count and how long it took.
fn pause(last: Option<(f64, Duration)>, is_in_trouble: bool) -> Duration {
    let Some((since, took)) = last else { return Duration::ZERO };
    let ratio = if is_in_trouble { PAUSE_RATIO_IN_TROUBLE } else { PAUSE_RATIO };
    let pause = (took * ratio).clamp(PAUSE_MIN, PAUSE_MAX);
    pause.saturating_sub(Duration::try_from_secs_f64(since).unwrap_or_default())
}

async fn count(context: &SessionContext) -> Result<UserCount, ServiceError> {
    let tenants = context.tenants.all();
    let current = tenants.values().filter(|handle| !handle.is_retired()).map(|handle| &*handle.tenant);
    let keys: Vec<TenantKey> = current
        .chain(context.config.applied_elsewhere().iter().map(Arc::as_ref))
        .map(|tenant| tenant.key.clone())
        .collect();
    let keys: Vec<&str> = keys.iter().map(TenantKey::as_str).collect();
    // Then all users belong to the Kafka output.
    if keys.is_empty() {
        return Ok(UserCount::Counted(UserCounts::default()));
    }
    let source = &context.config.source.url;
    let client = connect(source).await?;
    source_session(&client).await?;
    let watch = LockWatch::begin(source, &[&client]).await?;
    let counted = watch.run(count_users(&client, &context.config.users, &keys, LIMIT)).await?;
    client.close().await;
    Ok(counted.map_or_else(UserCount::Unknown, UserCount::Counted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_from_the_duration_of_the_last_count_and_is_bounded() {
        let seconds = |last| pause(last, false).as_secs_f64();
        assert_eq!(seconds(None), 0.0);
        assert_eq!(seconds(Some((0.0, Duration::from_millis(1)))), 5.0);
        assert_eq!(seconds(Some((3.0, Duration::from_millis(100)))), 7.0);
        assert_eq!(seconds(Some((50.0, Duration::from_millis(100)))), 0.0);
        assert_eq!(seconds(Some((0.0, LIMIT))), 600.0);
        assert_eq!(pause(Some((0.0, Duration::from_secs(2))), true).as_secs_f64(), 20.0);
    }
}
