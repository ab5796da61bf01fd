//! The timeline of events as the state has it. It works on a standby, too.

use super::answer::{Query, check_limit, check_text, default_limit};
use super::app::App;
use super::problem::Problem;
use super::tenant_api::{state, unwritable};
use crate::state::{Event, StateStore};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

/// Filter and page of the list.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct TimelineParams {
    /// Only events of this tenant.
    #[cfg_attr(feature = "openapi", param(pattern = "^[^\\u0000]*$"))]
    tenant: Option<String>,
    /// `next` of the previous page.
    #[cfg_attr(feature = "openapi", param(pattern = "^[0-9]{1,18}$"))]
    cursor: Option<String>,
    /// Maximum number of events.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 200, default = 50))]
    #[serde(default = "default_limit")]
    limit: usize,
}

/// A page of events, the newest first.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Timeline {
    events: Vec<Event>,
    /// Cursor of the next page; null on the last page.
    next: Option<String>,
    /// Number of events on all pages.
    total: u64,
}

/// Timeline of events: the last thousand of the slot, in pages.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/timeline",
        tag = "process",
        params(TimelineParams),
        responses(
            (status = 200, description = "A page of events.", body = Timeline),
            (status = 400, description = "Invalid parameter.", body = Problem),
            (status = 503, description = "The state cannot be read.", body = Problem),
        )
    )
)]
pub(super) async fn timeline(
    State(app): State<App>,
    Query(params): Query<TimelineParams>,
) -> Result<Json<Timeline>, Problem> {
    check_limit(params.limit, 200)?;
    params.tenant.as_deref().map_or(Ok(()), check_text)?;
    let before = params.cursor.map(|text| text.parse::<i64>());
    let before = before.transpose().map_err(|_| Problem::invalid("cursor is not the `next` of a page"))?;
    let (client, slot) = state(&app).await?;
    let wanted = i64::try_from(params.limit).unwrap_or(i64::MAX).saturating_add(1);
    let read = StateStore::timeline(&client, &slot, params.tenant.as_deref(), before, wanted).await;
    let (mut events, total) = read.map_err(unwritable)?;
    let next = events.get(params.limit).and(events.get(params.limit.saturating_sub(1))).map(|last| last.id.to_string());
    events.truncate(params.limit);
    Ok(Json(Timeline { events, next, total }))
}
