//! The users of a tenant as its target has them, in pages: by id, or sorted if there are few enough.

use super::answer::{Path, Query, check_limit, check_text, default_limit};
use super::app::App;
use super::problem::Problem;
use super::user_counts::count;
use super::users::User;
use crate::model::Timestamp;
use crate::pg::{PgTimestamp, Statements, TargetClient};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

/// A search returns what it has found after this time.
const SEARCH_BUDGET: Duration = Duration::from_millis(250);
/// Number of rows that the first statement of a search examines.
const FIRST_SLICE: i64 = 1_000;
/// Maximum number of rows per statement: a few tens of milliseconds.
const MAX_SLICE: i64 = 64_000;
/// A statement faster than this is followed by a larger one.
const FAST_SLICE: Duration = Duration::from_millis(20);

/// Whether a row is wanted: `$3` is the deletion, `$4` the text.
macro_rules! is_wanted {
    () => {
        "($3::boolean IS NULL OR (deleted_at IS NOT NULL) = $3)
    AND ($4::text IS NULL OR strpos(lower(id), lower($4)) > 0 OR strpos(lower(name), lower($4)) > 0
      OR strpos(lower(email), lower($4)) > 0)"
    };
}

/// The columns of a user.
macro_rules! columns {
    () => {
        "id::text, left(name::text, 1000) AS name, left(email::text, 1000) AS email, created_at::timestamptz,
    updated_at::timestamptz, deleted_at::timestamptz"
    };
}

/// Selects a slice of the table ordered by id, and the matching users in it.
const SEARCH_SLICE: &str = concat!(
    "WITH slice AS MATERIALIZED (
  SELECT ",
    columns!(),
    "
  FROM neon_auth.users_sync WHERE $1::text IS NULL OR id > $1 ORDER BY id LIMIT $2)
SELECT w.seen, w.last, s.* FROM (SELECT count(*) AS seen, max(id) AS last FROM slice) w
LEFT JOIN (
  SELECT * FROM slice
  WHERE ",
    is_wanted!(),
    "
  ORDER BY id LIMIT $5) s ON true
ORDER BY s.id"
);

/// What users are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = UserOrder))]
#[serde(rename_all = "snake_case")]
pub(super) enum Sort {
    #[default]
    Id,
    Name,
    Email,
    CreatedAt,
    UpdatedAt,
    DeletedAt,
}

impl Sort {
    /// The expression that is compared. A text is compared by its first 100 characters, so that a cursor is short.
    fn key(self) -> &'static str {
        match self {
            Sort::Id => "NULL::text",
            Sort::Name => "lower(left(name::text, 100)) COLLATE \"C\"",
            Sort::Email => "lower(left(email::text, 100)) COLLATE \"C\"",
            Sort::CreatedAt => "created_at::timestamptz",
            Sort::UpdatedAt => "updated_at::timestamptz",
            Sort::DeletedAt => "deleted_at::timestamptz",
        }
    }

    fn is_time(self) -> bool {
        matches!(self, Sort::CreatedAt | Sort::UpdatedAt | Sort::DeletedAt)
    }

    /// Selects the users after `$1`, the id, and `$2`, the key of the last user before them. Those without a key come last.
    fn statement(self, descending: bool) -> String {
        let (key, direction, beyond) = match descending && self != Sort::Id {
            true => (self.key(), "DESC", "<"),
            false => (self.key(), "ASC", ">"),
        };
        // By id, all keys are null.
        let by_id = if descending && self == Sort::Id { ("DESC", "<") } else { ("ASC", ">") };
        let (id_direction, id_beyond) = by_id;
        format!(
            "SELECT * FROM (SELECT {columns}, {key} AS key FROM neon_auth.users_sync) u
WHERE {is_wanted}
  AND ($1::text IS NULL OR key {beyond} $2 OR ($2 IS NOT NULL AND key IS NULL)
    OR (key IS NOT DISTINCT FROM $2 AND id {id_beyond} $1))
ORDER BY key {direction} NULLS LAST, id {id_direction} LIMIT $5",
            columns = columns!(),
            is_wanted = is_wanted!(),
        )
    }
}

/// Filter, order and page of the list.
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
    /// What to sort by. Users without the value come last, equal ones are sorted by id. Default: `id`.
    sort: Option<Sort>,
    /// Sort in descending order.
    #[serde(default)]
    descending: bool,
}

/// A page of users.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Users))]
pub(super) struct UserPage {
    users: Vec<User>,
    /// Cursor of the next page; null on the last page.
    next: Option<String>,
    /// False if the search ran out of time before the page was full. Continue with `next`.
    searched_all: bool,
    /// What the users are sorted by: `id` in ascending order if the target has more than 200,000.
    sort: Sort,
    /// Number of users on all pages. Null if it is not known: with `search`, unless one page has all of them, and if there are
    /// too many to count.
    total: Option<u64>,
    /// Whether `total` is the estimate of the target's statistics. Up to 200,000 users are counted.
    is_estimate: bool,
}

/// The users of a page, and the cursor of the next one.
struct Found {
    users: Vec<User>,
    next: Option<String>,
    searched_all: bool,
    sort: Sort,
}

/// The last user of a page that was asked for with `sort`: its key and its id, as a JSON array.
#[derive(Deserialize, Serialize)]
struct Cursor(Option<String>, String);

impl Cursor {
    /// Any other text is an id.
    fn parse(text: &str) -> Cursor {
        let parsed = serde_json::from_str(text).ok();
        let parsed =
            parsed.filter(|Cursor(key, id)| !id.contains('\0') && !key.as_ref().is_some_and(|key| key.contains('\0')));
        parsed.unwrap_or_else(|| Cursor(None, text.to_owned()))
    }

    fn to_text(&self) -> String {
        serde_json::json!(self).to_string()
    }
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
    let page = app.targets.query(&tenant, async |client| list(client, &params).await).await?;
    Ok(Json(page))
}

/// Reads a page and counts all users. Sorts them only if they could be counted.
async fn list(client: &TargetClient, params: &UserListParams) -> Result<UserPage, Error> {
    let totals = count(client).await?;
    let found = match params.sort {
        Some(sort) if totals.is_exact() => sorted(client, params, sort).await?,
        Some(_) => {
            let start = params.cursor.as_deref().map(|text| Cursor::parse(text).1);
            let found = search(client, params, start).await?;
            Found { next: found.next.map(|id| Cursor(None, id).to_text()), ..found }
        }
        None => search(client, params, params.cursor.clone()).await?,
    };
    let Found { users, next, searched_all, sort } = found;
    let (total, is_estimate) = match params.searched() {
        None => totals.of(params.deleted),
        Some(_) => {
            let is_whole = params.cursor.is_none() && next.is_none() && searched_all;
            (is_whole.then_some(users.len() as u64), false)
        }
    };
    Ok(UserPage { users, next, searched_all, sort, total, is_estimate })
}

impl UserListParams {
    fn searched(&self) -> Option<&str> {
        self.search.as_deref().filter(|search| !search.is_empty())
    }

    /// One more than the page has: whether there is another page.
    fn wanted(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX).saturating_add(1)
    }
}

/// Sorts all users and reads a page of them.
async fn sorted(client: &TargetClient, params: &UserListParams, sort: Sort) -> Result<Found, Error> {
    let (key, id) = match params.cursor.as_deref().map(Cursor::parse) {
        Some(Cursor(key, id)) => (key, Some(id)),
        None => (None, None),
    };
    let at = key.as_ref().and_then(|key| key.parse().ok()).map(|micros| PgTimestamp(Timestamp(micros)));
    let key: (&(dyn ToSql + Sync), Type) = if sort.is_time() { (&at, Type::TIMESTAMPTZ) } else { (&key, Type::TEXT) };
    let parameters = [
        (&id as _, Type::TEXT),
        key,
        (&params.deleted, Type::BOOL),
        (&params.searched(), Type::TEXT),
        (&params.wanted(), Type::INT8),
    ];
    let rows = client.query_typed(&sort.statement(params.descending), &parameters).await?;
    let users = rows.iter().take(params.limit).map(|row| User::of(row, 0)).collect::<Result<Vec<_>, _>>()?;
    let last = rows.get(params.limit).and(rows.get(params.limit.saturating_sub(1)));
    let next = last.map(|row| cursor_of(row, sort)).transpose()?.map(|cursor| cursor.to_text());
    Ok(Found { users, next, searched_all: true, sort })
}

fn cursor_of(row: &Row, sort: Sort) -> Result<Cursor, Error> {
    let key = match sort.is_time() {
        true => row.try_get::<_, Option<PgTimestamp>>(6)?.map(|PgTimestamp(Timestamp(micros))| micros.to_string()),
        false => row.try_get(6)?,
    };
    Ok(Cursor(key, row.try_get(0)?))
}

/// Reads slice by slice, by id, until the page is full or the time budget is used up.
async fn search(client: &TargetClient, params: &UserListParams, start: Option<String>) -> Result<Found, Error> {
    let deadline = Instant::now() + SEARCH_BUDGET;
    let search = params.searched();
    let mut cursor = start;
    let mut users: Vec<User> = Vec::new();
    let found = |users, next, searched_all| Ok(Found { users, next, searched_all, sort: Sort::Id });
    let mut slice = match (search, params.deleted) {
        (None, None) => params.wanted(),
        _ => FIRST_SLICE,
    };
    loop {
        let begun = Instant::now();
        let wanted = params.wanted() - i64::try_from(users.len()).unwrap_or(0);
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
            return found(users, next, true);
        }
        if seen < slice {
            return found(users, None, true);
        }
        if Instant::now() >= deadline {
            return found(users, cursor, false);
        }
        if begun.elapsed() < FAST_SLICE {
            slice = (slice * 4).min(MAX_SLICE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text_and_any_other_text_is_an_id() {
        for cursor in [Cursor(None, "a\"b".into()), Cursor(Some("1,2".into()), "é".into())] {
            let Cursor(key, id) = Cursor::parse(&cursor.to_text());
            assert_eq!((key, id), (cursor.0, cursor.1));
        }
        for text in ["u1", "[1]", "[null]", "[\"a\", \"\\u0000\"]", "{}", ""] {
            let Cursor(key, id) = Cursor::parse(text);
            assert_eq!((key, &*id), (None, text));
        }
    }
}
