//! Pauses and resumes a tenant, and lists the users that its target rejects. All of it works on a standby, too.

use super::answer::{Body, Empty, Path, Query, check_limit, default_limit};
use super::app::App;
use super::problem::{Problem, ProblemCode};
#[cfg(feature = "openapi")]
use super::refusals::ActionRefusals;
use crate::model::shell_word;
use crate::operations::pause::{self, PauseOutcome};
use crate::operations::rejected::{Cursor, RejectedUser, rejected};
use crate::operations::request::{RequestEnd, request};
use crate::pg::{PgClient, connect_state};
use crate::state::{RequestKind, StateStore};
use crate::status::report::shown_state;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::timeout;

/// Names this way of pausing in the state.
const BY: &str = "the HTTP API";
/// A retry that takes longer continues without its client.
const RETRY_TIME: Duration = Duration::from_secs(20);

/// A pause.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct PauseRequest {
    /// Why, in a few words.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 1, max_length = 500, pattern = "^[^\\u0000]*[^\\s\\u0000][^\\u0000]*$")
    )]
    reason: String,
}

/// A tenant after it was paused or resumed.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct PauseAnswer {
    tenant: String,
    /// As in the list of tenants.
    state: &'static str,
    /// Whether this request changed it: it was not paused before, or was.
    is_changed: bool,
    /// Whether nothing is written to its target any more. False while its current batch is written.
    is_stopped: bool,
}

/// Pause the tenant: nothing is written to its target until it is resumed. A tenant that is paused already keeps its reason.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/pause",
        tag = "tenants",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        request_body = PauseRequest,
        responses((status = 200, description = "The tenant is paused.", body = PauseAnswer), ActionRefusals)
    )
)]
pub(super) async fn pause(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Body(options): Body<PauseRequest>,
) -> Result<Json<PauseAnswer>, Problem> {
    let tenant = app.tenant(&tenant)?.id.clone();
    if let Some(refusal) = pause::refuse_reason(&options.reason) {
        return Err(Problem::invalid(refusal));
    }
    let (client, slot) = state(&app).await?;
    answer(pause::pause(&client, &slot, &[tenant], &options.reason, BY).await.map_err(unwritable)?)
}

/// Resume the tenant: it continues where it was, or is resynced if it was parked. A parked tenant is tried again at once.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/resume",
        tag = "tenants",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        request_body = Empty,
        responses((status = 200, description = "The tenant is not paused.", body = PauseAnswer), ActionRefusals)
    )
)]
pub(super) async fn resume(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Body(Empty {}): Body<Empty>,
) -> Result<Json<PauseAnswer>, Problem> {
    let tenant = app.tenant(&tenant)?.id.clone();
    let (client, slot) = state(&app).await?;
    answer(pause::resume(&client, &slot, &[tenant]).await.map_err(unwritable)?)
}

fn answer(outcome: PauseOutcome) -> Result<Json<PauseAnswer>, Problem> {
    let is_held = outcome.is_held;
    let started =
        outcome.tenants.into_iter().next().and_then(|done| Some((done.row?, done.tenant, done.pause, done.is_changed)));
    let Some((row, tenant, pause, is_changed)) = started else {
        return Err(Problem::new(ProblemCode::NotRunning, "no process has started this tenant yet")
            .remedy("start `users-sync run`"));
    };
    Ok(Json(PauseAnswer {
        tenant: tenant.to_string(),
        state: shown_state(row.state, pause.is_some()),
        is_changed,
        is_stopped: pause.is_some_and(|pause| pause.is_effective || !is_held),
    }))
}

/// Page of the list.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct RejectedParams {
    /// `next` of the previous page.
    #[cfg_attr(feature = "openapi", param(pattern = "^-?[0-9]{1,18}-([0-9a-f]{2}){0,33}$"))]
    cursor: Option<String>,
    /// Maximum number of users.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 200, default = 50))]
    #[serde(default = "default_limit")]
    limit: usize,
}

/// A page of rejected users, the newest first.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = RejectedUsers))]
pub(super) struct RejectedAnswer {
    users: Vec<RejectedUser>,
    /// Cursor of the next page; null on the last page.
    next: Option<String>,
    /// Number of users on all pages.
    total: u64,
}

/// List of the users that the tenant's target rejects, in pages.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/tenants/{tenant}/rejected",
        tag = "users",
        params(("tenant" = String, Path, description = "Id of the tenant."), RejectedParams),
        responses(
            (status = 200, description = "A page of users.", body = RejectedAnswer),
            (status = 400, description = "Invalid parameter.", body = Problem),
            (status = 404, description = "Unknown tenant.", body = Problem),
            (status = 503, description = "The target does not answer or has no users yet.", body = Problem),
        )
    )
)]
pub(super) async fn rejected_users(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Query(params): Query<RejectedParams>,
) -> Result<Json<RejectedAnswer>, Problem> {
    check_limit(params.limit, 200)?;
    let tenant = app.tenant(&tenant)?;
    let cursor = params
        .cursor
        .map(|text| Cursor::parse(&text).ok_or_else(|| Problem::invalid("cursor is not the `next` of a page")));
    let cursor = cursor.transpose()?;
    let page = app.targets.query(&tenant, async |client| rejected(client, cursor.as_ref(), params.limit).await).await?;
    let next = page.next.map(|cursor| cursor.to_text());
    Ok(Json(RejectedAnswer { users: page.users, next, total: page.total }))
}

/// The outcome of a retry.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct RetryAnswer {
    /// Whether all rejected users were tried. If not, the replicating process goes on with them.
    is_done: bool,
}

/// Try the rejected users of the tenant again now.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        post,
        path = "/api/tenants/{tenant}/rejected/retry",
        tag = "users",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        request_body = Empty,
        responses((status = 200, description = "They were tried, or will be.", body = RetryAnswer), ActionRefusals)
    )
)]
pub(super) async fn retry_rejected(
    State(app): State<App>,
    Path(tenant): Path<String>,
    Body(Empty {}): Body<Empty>,
) -> Result<Json<RetryAnswer>, Problem> {
    let tenant = app.tenant(&tenant)?.id.clone();
    let (client, slot) = state(&app).await?;
    let known = StateStore::read(&client, &slot).await.map_err(unwritable)?;
    if known.pauses.contains_key(&tenant) {
        let remedy = format!("users-sync resume {}", shell_word(tenant.as_str()));
        return Err(Problem::new(ProblemCode::TenantPaused, "the tenant is paused").remedy(remedy));
    }
    let not_running =
        || Problem::new(ProblemCode::NotRunning, "no process is replicating").remedy("start one with `users-sync run`");
    if !known.source.is_some_and(|source| source.is_held()) {
        return Err(not_running());
    }
    match timeout(RETRY_TIME, request(&client, &slot, &[tenant.as_str()], &RequestKind::RetryRejected)).await {
        Ok(Ok(RequestEnd::Served)) => Ok(Json(RetryAnswer { is_done: true })),
        Ok(Ok(RequestEnd::Abandoned)) => Err(not_running()),
        Ok(Err(error)) => Err(unwritable(error)),
        Err(_) => Ok(Json(RetryAnswer { is_done: false })),
    }
}

/// A connection to the state, and the slot.
pub(super) async fn state(app: &App) -> Result<(PgClient, String), Problem> {
    let (url, slot) = {
        let config = app.configs.borrow();
        (config.state_url.clone(), config.source.slot.clone())
    };
    let client = connect_state(&url).await.map_err(unwritable)?;
    Ok((client, slot))
}

pub(super) fn unwritable(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemCode::StateUnavailable, format!("the state: {error}"))
}
