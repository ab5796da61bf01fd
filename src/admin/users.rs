//! The users of a tenant as its target has them. This is the only part of the admin API that connects to a target.

use super::answer::{Path, Problem, Query, check_limit};
use super::app::App;
use crate::config::{Tenant, parse_duration};
use crate::pg::{PgTimestamp, Statements, TargetClient};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

/// A search returns what it has found after this time.
const SEARCH_BUDGET: Duration = Duration::from_millis(250);
/// Number of rows that the first statement of a search examines.
const FIRST_SLICE: i64 = 1_000;
/// Maximum number of rows per statement: a few tens of milliseconds.
const MAX_SLICE: i64 = 64_000;
/// A statement faster than this is followed by a larger one.
const FAST_SLICE: Duration = Duration::from_millis(20);
/// Maximum of the `wait` parameter.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Poll interval of a waiting request while another process writes to the target.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The longest profile that is returned, in bytes. Requests are answered at the same time, so this bounds their memory.
const MAX_PROFILE: i32 = 1 << 20;

/// Selects a slice of the table ordered by id, and the matching users in it.
const SEARCH_SLICE: &str = "\
WITH slice AS MATERIALIZED (
  SELECT id::text, left(name::text, 1000) AS name, left(email::text, 1000) AS email, created_at::timestamptz,
    updated_at::timestamptz, deleted_at::timestamptz
  FROM neon_auth.users_sync WHERE $1::text IS NULL OR id > $1 ORDER BY id LIMIT $2)
SELECT w.seen, w.last, s.* FROM (SELECT count(*) AS seen, max(id) AS last FROM slice) w
LEFT JOIN (
  SELECT * FROM slice
  WHERE ($3::boolean IS NULL OR (deleted_at IS NOT NULL) = $3)
    AND ($4::text IS NULL OR strpos(lower(id), lower($4)) > 0 OR strpos(lower(name), lower($4)) > 0
      OR strpos(lower(email), lower($4)) > 0)
  ORDER BY id LIMIT $5) s ON true
ORDER BY s.id";

const USER_BY_ID: &str = "SELECT id::text, name::text, email::text, created_at::timestamptz, updated_at::timestamptz, \
                   deleted_at::timestamptz, CASE WHEN octet_length(raw_json::text) <= $2 THEN raw_json::text END \
                   FROM neon_auth.users_sync WHERE id = $1";

/// A user, as the target has it.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct User {
    id: String,
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
    fn of(row: &Row, from: usize) -> Result<User, tokio_postgres::Error> {
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

/// Filter and page of the list.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct UserListParams {
    /// Only users whose id, name or e-mail contains this text, ignoring case. There are no wildcards.
    #[cfg_attr(feature = "openapi", param(pattern = "^[^\\u0000]*$"))]
    search: Option<String>,
    /// `next` of the previous page.
    #[cfg_attr(feature = "openapi", param(pattern = "^[^\\u0000]*$"))]
    cursor: Option<String>,
    /// Maximum number of users.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 200, default = 50))]
    #[serde(default = "default_limit")]
    limit: usize,
    /// Only deleted users, or only users that are not deleted. Default: both.
    deleted: Option<bool>,
}

fn default_limit() -> usize {
    50
}

/// A page of users, ordered by id.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Users))]
pub(super) struct UserPage {
    users: Vec<User>,
    /// Cursor of the next page; null on the last page.
    next: Option<String>,
    /// False if the search ran out of time before the page was full. Continue with `next`.
    searched_all: bool,
}

/// List of a tenant's users as its target has them, in pages.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/tenants/{tenant}/users",
        tag = "users",
        params(("tenant" = String, Path, description = "Id of the tenant."), UserListParams),
        responses(
            (status = 200, description = "A page of users.", body = UserPage),
            (status = 400, description = "Invalid parameter.", body = Problem),
            (status = 404, description = "Unknown tenant.", body = Problem),
            (status = 503, description = "The target does not answer or has no users yet.", body = Problem),
        )
    )
)]
pub(super) async fn users(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(params): Query<UserListParams>,
) -> Result<Json<UserPage>, Problem> {
    check_limit(params.limit, 200)?;
    [&params.search, &params.cursor].into_iter().flatten().try_for_each(|text| check_text(text))?;
    let tenant = app.tenant(&tenant)?;
    let page = app.targets.query(&tenant, async |client| search(client, &params).await).await?;
    Ok(Json(page))
}

/// PostgreSQL text cannot contain U+0000.
fn check_text(text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::bad("text must not contain the character U+0000"));
    }
    Ok(())
}

/// Reads slice by slice until the page is full or the time budget is used up.
async fn search(client: &TargetClient, params: &UserListParams) -> Result<UserPage, tokio_postgres::Error> {
    let deadline = Instant::now() + SEARCH_BUDGET;
    let search = params.search.as_deref().filter(|search| !search.is_empty());
    let mut cursor = params.cursor.clone();
    let mut users: Vec<User> = Vec::new();
    let whole_page = i64::try_from(params.limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut slice = match (search, params.deleted) {
        (None, None) => whole_page,
        _ => FIRST_SLICE,
    };
    loop {
        let begun = Instant::now();
        let wanted = whole_page - i64::try_from(users.len()).unwrap_or(0);
        let rows = client
            .query_typed(
                SEARCH_SLICE,
                &[
                    (&cursor, Type::TEXT),
                    (&slice, Type::INT8),
                    (&params.deleted, Type::BOOL),
                    (&search, Type::TEXT),
                    (&wanted, Type::INT8),
                ],
            )
            .await?;
        let mut seen = 0;
        for row in &rows {
            seen = row.try_get(0)?;
            cursor = row.try_get(1)?;
            if row.try_get::<_, Option<&str>>(2)?.is_some() {
                users.push(User::of(row, 2)?);
            }
        }
        if users.len() > params.limit {
            users.truncate(params.limit);
            let next = users.last().map(|user| user.id.clone());
            return Ok(UserPage { users, next, searched_all: true });
        }
        if seen < slice {
            return Ok(UserPage { users, next: None, searched_all: true });
        }
        if Instant::now() >= deadline {
            return Ok(UserPage { users, next: cursor, searched_all: false });
        }
        if begun.elapsed() < FAST_SLICE {
            slice = (slice * 4).min(MAX_SLICE);
        }
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
        Some(None) => return Err(Problem::bad("wait must be a duration of at most 30s, such as 5s or 500ms")),
        Some(Some(wait)) => wait_for_user(&app, &tenant, &id, wait).await?,
    };
    found.map(Json).ok_or_else(|| Problem::absent("the target has no such user"))
}

async fn read_user(app: &App, tenant: &Tenant, id: &str) -> Result<Option<Profile>, Problem> {
    let found = app.targets.query(tenant, async |client| {
        let row = client.query_typed_opt(USER_BY_ID, &[(&id, Type::TEXT), (&MAX_PROFILE, Type::INT4)]).await?;
        row.map(|row| Ok((User::of(&row, 0)?, row.try_get::<_, Option<String>>(6)?))).transpose()
    });
    let Some((user, raw_json)) = found.await? else { return Ok(None) };
    let raw_json = raw_json.ok_or_else(|| {
        Problem::unavailable(format!("the profile has more than {MAX_PROFILE} bytes"))
            .remedy("read raw_json in neon_auth.users_sync of the target")
    })?;
    let raw_json =
        RawValue::from_string(raw_json).map_err(|_| Problem::unavailable("the profile is not valid JSON"))?;
    Ok(Some(Profile { user, raw_json }))
}

/// Registers before the first read, so that no change is missed.
async fn wait_for_user(app: &App, tenant: &Tenant, id: &str, wait: Duration) -> Result<Option<Profile>, Problem> {
    let deadline = Instant::now() + wait;
    let Ok(_permit) = app.waiters.try_acquire() else {
        return Err(Problem::unavailable("too many waiting requests").remedy("try again in a moment"));
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
