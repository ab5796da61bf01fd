//! Liveness and readiness, for health checks.

use super::app::{App, Readiness};
use super::overview::MAX_REASONS;
use crate::status::verdict::{Level, Verdict, VerdictReason};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;

/// The process is alive.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Alive {
    status: &'static str,
}

/// Readiness of the process.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = Readiness))]
pub(super) struct ReadinessBody {
    ready: bool,
    /// `streaming`, `standby` (another process uses the slot; this one can take over) or `starting`.
    role: &'static str,
    /// Why it is not ready. Null without the token, if one is configured.
    reason: Option<String>,
    /// The verdict on the installation: `ok`, `degraded` or `failed`. A degraded one is ready.
    level: Level,
    /// What needs attention, as in `/api/status`. Empty without the token, if one is configured.
    reasons: Vec<VerdictReason>,
}

/// Liveness check.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(get, path = "/healthz", tag = "process", security(()), responses((status = 200, description = "The process is alive.", body = Alive)))
)]
pub(super) async fn healthz() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// Readiness check: the process is streaming, or is a standby that can take over.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/readyz",
        tag = "process",
        security(()),
        responses(
            (status = 200, description = "Ready.", body = ReadinessBody),
            (status = 503, description = "Not ready, with the reason.", body = ReadinessBody),
        )
    )
)]
pub(super) async fn readyz(State(app): State<App>, uri: Uri, headers: HeaderMap) -> (StatusCode, Json<ReadinessBody>) {
    let Readiness { is_ready, role, reason } = app.readiness();
    // The reason names servers and roles.
    let may_read = app.access.check(&uri, &headers).is_ok();
    let reason = reason.filter(|_| may_read);
    let verdict = app.verdict().with_first(if may_read { MAX_REASONS } else { 0 });
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let Verdict { level, reasons, .. } = verdict;
    (status, Json(ReadinessBody { ready: is_ready, role: role.as_str(), reason, level, reasons }))
}
