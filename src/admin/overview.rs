//! Status of the process and its tenants.

use super::activity::MinuteReport;
use super::answer::{Path, Query, check_limit};
use super::app::App;
use super::history::LagSample;
use super::problem::Problem;
use crate::status::report::{TeeReport, TenantReport, UsersWithoutTenant, waiting};
use crate::status::verdict::{Verdict, judge};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

/// Status of the process and the slot.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Status {
    version: &'static str,
    commit: &'static str,
    /// `streaming`, `standby` or `starting`.
    role: &'static str,
    /// Whether the installation replicates, and what needs attention: the first 100 reasons.
    verdict: Verdict,
    slot: String,
    /// Number of the current replication history: a new one starts when positions can no longer be continued.
    generation: i64,
    /// The process that last wrote the state.
    holder: String,
    /// Whether the lease of that process is still valid.
    is_held: bool,
    /// Position up to which every target has all changes.
    confirmed: String,
    /// End of the source's WAL.
    source_position: Option<String>,
    /// Bytes of WAL that the slot retains.
    wal_held_bytes: Option<u64>,
    /// Transactions that the creation of a replication slot waits for, each with its remedy.
    waiting: Vec<String>,
    tenants: TenantCounts,
    /// Users of the source that belong to no tenant; null before they were first counted.
    users_without_tenant: Option<UsersWithoutTenant>,
    tee: Option<TeeReport>,
}

/// Number of tenants by state.
#[derive(Default, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct TenantCounts {
    following: usize,
    joining: usize,
    parked: usize,
    paused: usize,
    unknown: usize,
}

/// Maximum number of a verdict's reasons in one answer.
pub(super) const MAX_REASONS: usize = 100;

/// Version and commit of the build.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(super) const COMMIT: &str = match option_env!("USERS_SYNC_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

impl Status {
    pub(super) fn of(app: &App) -> Status {
        let report = app.report();
        let mut tenants = TenantCounts::default();
        for tenant in &report.tenants {
            *match tenant.state {
                "following" => &mut tenants.following,
                "joining" => &mut tenants.joining,
                "parked" => &mut tenants.parked,
                "paused" => &mut tenants.paused,
                _ => &mut tenants.unknown,
            } += 1;
        }
        Status {
            version: VERSION,
            commit: COMMIT,
            role: app.status.role().role.as_str(),
            verdict: judge(&report).with_first(MAX_REASONS),
            slot: report.slot.clone(),
            generation: report.generation,
            holder: report.holder.clone(),
            is_held: report.is_held,
            confirmed: report.confirmed.clone(),
            source_position: report.source_position.clone(),
            wal_held_bytes: app.status.source_log().held_back.get(&report.slot).copied(),
            waiting: waiting(&app.status.source_log()),
            tenants,
            users_without_tenant: report.users_without_tenant.clone(),
            tee: report.tee.clone(),
        }
    }
}

/// Process status.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(get, path = "/api/status", tag = "process", responses((status = 200, description = "The status.", body = Status)))
)]
pub(super) async fn status(State(app): State<App>) -> Json<Status> {
    Json(Status::of(&app))
}

/// Filter and page of the list.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct TenantListParams {
    /// Maximum number of tenants.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000, default = 100))]
    #[serde(default = "default_limit")]
    limit: usize,
    /// `next` of the previous page.
    cursor: Option<String>,
    /// Only tenants in this state.
    state: Option<StateFilter>,
    /// Only tenants whose id or target contains this text, ignoring case.
    q: Option<String>,
}

fn default_limit() -> usize {
    100
}

/// State of a tenant.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = TenantState))]
#[serde(rename_all = "lowercase")]
pub(super) enum StateFilter {
    Following,
    Joining,
    Parked,
    Paused,
    Unknown,
}

impl StateFilter {
    fn as_str(&self) -> &'static str {
        match self {
            StateFilter::Following => "following",
            StateFilter::Joining => "joining",
            StateFilter::Parked => "parked",
            StateFilter::Paused => "paused",
            StateFilter::Unknown => "unknown",
        }
    }
}

/// A page of tenants, ordered by id.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Tenants))]
pub(super) struct TenantPage {
    tenants: Vec<TenantReport>,
    /// Cursor of the next page; null on the last page.
    next: Option<String>,
    /// Number of tenants on all pages.
    total: usize,
}

/// List of tenants, in pages.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/tenants",
        tag = "tenants",
        params(TenantListParams),
        responses(
            (status = 200, description = "A page of tenants.", body = TenantPage),
            (status = 400, description = "Invalid parameter.", body = Problem),
        )
    )
)]
pub(super) async fn tenants(
    State(app): State<App>,
    Query(params): Query<TenantListParams>,
) -> Result<Json<TenantPage>, Problem> {
    check_limit(params.limit, 1000)?;
    let report = app.report();
    let text = params.q.unwrap_or_default().to_lowercase();
    let holds = |field: &str| field.to_lowercase().contains(&text);
    let state = params.state.as_ref().map(StateFilter::as_str);
    let mut found: Vec<&TenantReport> = report.tenants.iter().collect();
    found.retain(|tenant| {
        state.is_none_or(|state| tenant.state == state) && (holds(&tenant.tenant) || holds(&tenant.target))
    });
    found.sort_unstable_by(|a, b| a.tenant.cmp(&b.tenant));
    let total = found.len();
    found.retain(|tenant| params.cursor.as_ref().is_none_or(|cursor| tenant.tenant > *cursor));
    let next = found.get(params.limit).map(|_| found[params.limit - 1].tenant.clone());
    let tenants = found.into_iter().take(params.limit).cloned().collect();
    Ok(Json(TenantPage { tenants, next, total }))
}

/// A tenant and its recent lag.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = TenantDetail))]
pub(super) struct TenantDetail {
    #[serde(flatten)]
    tenant: TenantReport,
    /// The last 60 samples, one every 5 s.
    history: Vec<LagSample>,
}

/// Status of a tenant and its recent lag.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/tenants/{tenant}",
        tag = "tenants",
        params(("tenant" = String, Path, description = "Id of the tenant.")),
        responses(
            (status = 200, description = "The tenant.", body = TenantDetail),
            (status = 400, description = "Invalid path.", body = Problem),
            (status = 404, description = "Unknown tenant.", body = Problem),
        )
    )
)]
pub(super) async fn tenant(State(app): State<App>, Path(name): Path<String>) -> Result<Json<TenantDetail>, Problem> {
    let tenant = app.tenant(&name)?;
    let report = app.report();
    let found = report.tenants.iter().find(|found| found.tenant == name);
    // The tenant was just added and no report has it yet.
    let found = found.cloned().unwrap_or_else(|| TenantReport::unknown(&tenant));
    Ok(Json(TenantDetail { tenant: found, history: app.history.of(&tenant.id) }))
}

/// Filter of the activity.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams), into_params(parameter_in = Query))]
#[serde(deny_unknown_fields)]
pub(super) struct ActivityParams {
    /// Only this tenant.
    tenant: Option<String>,
}

/// The activity of the last hour.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Activity))]
pub(super) struct ActivityReport {
    /// The last 60 minutes, the oldest first. The last one has not ended.
    minutes: Vec<MinuteReport>,
}

/// Changes and sign-ups per minute of the last hour, as this process has written them. A restart forgets them.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/api/activity",
        tag = "process",
        params(ActivityParams),
        responses(
            (status = 200, description = "The activity.", body = ActivityReport),
            (status = 400, description = "Invalid parameter.", body = Problem),
            (status = 404, description = "Unknown tenant.", body = Problem),
        )
    )
)]
pub(super) async fn activity(
    State(app): State<App>,
    Query(params): Query<ActivityParams>,
) -> Result<Json<ActivityReport>, Problem> {
    let tenant = params.tenant.map(|name| app.tenant(&name)).transpose()?;
    Ok(Json(ActivityReport { minutes: app.activity.of(tenant.as_ref().map(|tenant| &tenant.id)) }))
}
