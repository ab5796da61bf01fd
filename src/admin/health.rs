//! Whether the process lives, and whether it is ready; for whoever starts and restarts it.

use super::app::App;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;

/// It lives.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Alive {
    status: &'static str,
}

/// Whether it is ready.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Readiness {
    ready: bool,
    /// `streaming`, `standby` (another process has the slot, this one can take over) or `starting`.
    role: &'static str,
    /// Why it is not ready; only for whoever shows the token, where there is one.
    reason: Option<String>,
}

/// The process lives.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(get, path = "/healthz", tag = "process", security(()), responses((status = 200, description = "It does.", body = Alive)))
)]
pub(super) async fn healthz() -> Json<Alive> {
    Json(Alive { status: "alive" })
}

/// It replicates, or is able to take over from the process that does.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/readyz",
        tag = "process",
        security(()),
        responses(
            (status = 200, description = "It is ready.", body = Readiness),
            (status = 503, description = "It is not, and why.", body = Readiness),
        )
    )
)]
pub(super) async fn readyz(State(app): State<App>, uri: Uri, headers: HeaderMap) -> (StatusCode, Json<Readiness>) {
    let (ready, role, reason) = app.readiness();
    // It names servers and roles.
    let reason = reason.filter(|_| app.access.check(&uri, &headers).is_ok());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, role: role.as_str(), reason }))
}
