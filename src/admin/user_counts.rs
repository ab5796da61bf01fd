//! How many users a target has. Above a number of rows they are estimated, as counting millions takes seconds.

use super::answer::Path;
use super::app::App;
use super::problem::Problem;
use crate::pg::{PgTimestamp, Statements, TargetClient};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use tokio_postgres::Error;
use tokio_postgres::types::Type;

/// Number of rows up to which users are counted and sorted: some 100 ms.
const MAX_COUNTED: i64 = 200_000;

/// Reads at most `$1` rows. The estimate is that of the last VACUUM or ANALYZE; -1 before the first.
const COUNT: &str = "\
SELECT count(*), count(deleted_at), max(greatest(created_at, updated_at, deleted_at)::timestamptz), \
  (SELECT reltuples::float8 FROM pg_catalog.pg_class WHERE oid = 'neon_auth.users_sync'::regclass) \
FROM (SELECT created_at, updated_at, deleted_at FROM neon_auth.users_sync LIMIT $1) counted";

/// The number of users of a target.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct UserTotals {
    /// Users that are not deleted; null if there are too many to count.
    users: Option<u64>,
    /// Users that are marked as deleted; null if there are too many to count.
    deleted: Option<u64>,
    /// All rows, deleted or not; null if there are too many to count and the target has no estimate.
    total: Option<u64>,
    /// Whether `total` is the estimate of the target's statistics. Up to 200,000 rows are counted.
    is_estimate: bool,
    /// The newest time in `created_at`, `updated_at` and `deleted_at`; null without one, and if there are too many users.
    last_change: Option<String>,
}

impl UserTotals {
    /// Whether the users were counted.
    pub(super) fn is_exact(&self) -> bool {
        self.users.is_some()
    }

    /// The number of all users, or of those that are deleted or not, and whether it is an estimate.
    pub(super) fn of(&self, deleted: Option<bool>) -> (Option<u64>, bool) {
        match deleted {
            None => (self.total, self.is_estimate),
            Some(true) => (self.deleted, false),
            Some(false) => (self.users, false),
        }
    }
}

/// Counts the users of the target.
pub(super) async fn count(client: &TargetClient) -> Result<UserTotals, Error> {
    let row = client.query_typed_one(COUNT, &[(&(MAX_COUNTED + 1), Type::INT8)]).await?;
    let (all, deleted): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if all > MAX_COUNTED {
        let estimate = row.try_get::<_, Option<f64>>(3)?.filter(|rows| *rows > 0.0);
        let total = estimate.map(|rows| (rows as u64).max(all.unsigned_abs()));
        return Ok(UserTotals { users: None, deleted: None, total, is_estimate: total.is_some(), last_change: None });
    }
    let last_change: Option<PgTimestamp> = row.try_get(2)?;
    Ok(UserTotals {
        users: Some((all - deleted).unsigned_abs()),
        deleted: Some(deleted.unsigned_abs()),
        total: Some(all.unsigned_abs()),
        is_estimate: false,
        last_change: last_change.map(|PgTimestamp(at)| at.to_string()),
    })
}

/// Number of users that the tenant's target has.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/tenants/{tenant}/counts",
        tag = "users",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        responses(
            (status = 200, description = "The numbers.", body = UserTotals),
            (status = 400, description = "Invalid path.", body = Problem),
            (status = 404, description = "Unknown tenant.", body = Problem),
            (status = 503, description = "The target does not answer or has no users yet.", body = Problem),
        )
    )
)]
pub(super) async fn counts(State(app): State<App>, Path(tenant): Path<String>) -> Result<Json<UserTotals>, Problem> {
    let tenant = app.tenant(&tenant)?;
    Ok(Json(app.targets.query(&tenant, async |client| count(client).await).await?))
}
