//! A user of a tenant as its target has it, as soon as it is there.

use super::answer::{Path, Query, check_text};
use super::app::App;
use super::problem::{Problem, ProblemCode};
use crate::config::{Tenant, parse_duration};
use crate::pg::{PgTimestamp, Statements};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// Maximum of the `wait` parameter.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Poll interval of a waiting request while another process writes to the target.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The longest profile that is returned, in bytes. Requests are answered at the same time, so this bounds their memory.
const MAX_PROFILE: i32 = 1 << 20;

const USER_BY_ID: &str = "SELECT id::text, name::text, email::text, created_at::timestamptz, updated_at::timestamptz, \
                   deleted_at::timestamptz, CASE WHEN octet_length(raw_json::text) <= $2 THEN raw_json::text END \
                   FROM neon_auth.users_sync WHERE id = $1";

/// A user, as the target has it.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct User {
    pub(super) id: String,
    name: Option<String>,
    email: Option<String>,
    created_at: Option<String>,
    updated_at: Option<String>,
    /// Time of the deletion; null if the user exists.
    deleted_at: Option<String>,
}

/// A user with the full profile.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Profile {
    #[serde(flatten)]
    user: User,
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    raw_json: Box<RawValue>,
}

impl User {
    /// Reads the columns of a row from index `from` on.
    pub(super) fn of(row: &Row, from: usize) -> Result<User, tokio_postgres::Error> {
        let timestamp = |column: usize| {
            let at: Option<PgTimestamp> = row.try_get(from + column)?;
            Ok::<_, tokio_postgres::Error>(at.map(|PgTimestamp(at)| at.to_string()))
        };
        Ok(User {
            id: row.try_get(from)?,
            name: row.try_get(from + 1)?,
            email: row.try_get(from + 2)?,
            created_at: timestamp(3)?,
            updated_at: timestamp(4)?,
            deleted_at: timestamp(5)?,
        })
    }
}

/// Options of the request.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct UserParams {
    /// Wait until the user exists and is not deleted, at most for this time: `5s`, up to `30s`.
    #[cfg_attr(feature = "openapi", param(pattern = "^([0-9]|[12][0-9]|30)s$"))]
    wait: Option<String>,
}

/// A user with the full profile. With `wait`, the response is sent once the user exists and is not deleted.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/tenants/{tenant}/users/{id}",
        tag = "users",
        params(
            ("tenant" = String, Path, description = "Id of the tenant."),
            ("id" = String, Path, description = "Id of the user."),
            UserParams,
        ),
        responses(
            (status = 200, description = "The user.", body = Profile),
            (status = 400, description = "Invalid parameter.", body = Problem),
            (status = 404, description = "Unknown tenant, or no such user within the time.", body = Problem),
            (status = 503, description = "The target does not answer, or too many requests are waiting.", body = Problem),
        )
    )
)]
pub(super) async fn user(
    State(app): State<App>,
    Path((tenant, id)): Path<(String, String)>,
    Query(params): Query<UserParams>,
) -> Result<Json<Profile>, Problem> {
    let wait = params.wait.map(|text| parse_duration(&text).filter(|wait| *wait <= MAX_WAIT));
    check_text(&id)?;
    let tenant = app.tenant(&tenant)?;
    let found = match wait {
        None => read_user(&app, &tenant, &id).await?,
        Some(None) => return Err(Problem::invalid("wait must be a duration of at most 30s, such as 5s or 500ms")),
        Some(Some(wait)) => wait_for_user(&app, &tenant, &id, wait).await?,
    };
    found.map(Json).ok_or_else(|| Problem::new(ProblemCode::NoSuchUser, "the target has no such user"))
}

async fn read_user(app: &App, tenant: &Tenant, id: &str) -> Result<Option<Profile>, Problem> {
    let found = app.targets.query(tenant, async |client| {
        let row = client.query_typed_opt(USER_BY_ID, &[(&id, Type::TEXT), (&MAX_PROFILE, Type::INT4)]).await?;
        row.map(|row| Ok((User::of(&row, 0)?, row.try_get::<_, Option<String>>(6)?))).transpose()
    });
    let Some((user, raw_json)) = found.await? else { return Ok(None) };
    let raw_json = raw_json.ok_or_else(|| {
        Problem::new(ProblemCode::ProfileTooLarge, format!("the profile has more than {MAX_PROFILE} bytes"))
            .remedy("read raw_json in neon_auth.users_sync of the target")
    })?;
    let raw_json = RawValue::from_string(raw_json)
        .map_err(|_| Problem::new(ProblemCode::TargetError, "the profile is not valid JSON"))?;
    Ok(Some(Profile { user, raw_json }))
}

/// Registers before the first read, so that no change is missed.
async fn wait_for_user(app: &App, tenant: &Tenant, id: &str, wait: Duration) -> Result<Option<Profile>, Problem> {
    let deadline = Instant::now() + wait;
    let Ok(_permit) = app.waiters.try_acquire() else {
        return Err(
            Problem::new(ProblemCode::TooManyWaiters, "too many waiting requests").remedy("try again in a moment")
        );
    };
    let mut waiter = app.status.user_watch.wait_for(&tenant.id, id);
    let mut is_over = false;
    loop {
        // A deleted user counts as missing: it may sign up again.
        if let Some(found) = read_user(app, tenant, id).await?.filter(|found| found.user.deleted_at.is_none()) {
            return Ok(Some(found));
        }
        if is_over {
            return Ok(None);
        }
        let woken = async {
            tokio::select! {
                () = waiter.arrived() => {}
                () = poll_if_standby(app) => {}
            }
        };
        // Read once more after the timeout: a process that takes over does not know what its predecessor wrote.
        is_over = timeout_at(deadline, woken).await.is_err();
    }
}

/// Returns after an interval in which this process was not the one that writes. Until then, commits wake the waiter.
async fn poll_if_standby(app: &App) {
    loop {
        sleep(POLL_INTERVAL).await;
        if !app.status.is_streaming() {
            return;
        }
    }
}
