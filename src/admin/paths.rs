//! Which path leads where, and the description of all that (OpenAPI), made from the same list.

use super::answer::problem;
use super::app::App;
use super::{events, exposition, health, jobs, overview, users};
use axum::Router;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Info, OpenApi, OpenApiBuilder, PathItem, SecurityRequirement};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The paths that are described.
pub(super) struct Paths {
    /// For whoever may ask.
    pub(super) guarded: Router<App>,
    /// For everybody: what starts and restarts the process has no token.
    pub(super) open: Router<App>,
    pub(super) description: OpenApi,
}

pub(super) fn paths() -> Paths {
    let info = Info::builder()
        .title("users-sync")
        .version(overview::VERSION)
        .description(Some("How a running users-sync is, its tenants and their users, and what may be asked of it."));
    let token = SecurityRequirement::new("token", Vec::<String>::new());
    let description = OpenApiBuilder::new().info(info.build()).security(Some([token])).build();
    let guarded = OpenApiRouter::with_openapi(description)
        .routes(routes!(exposition::metrics))
        .routes(routes!(overview::status))
        .routes(routes!(overview::tenants))
        .routes(routes!(overview::tenant))
        .routes(routes!(users::users))
        .routes(routes!(users::user))
        .routes(routes!(jobs::resync))
        .routes(routes!(jobs::verify_))
        .routes(routes!(jobs::jobs))
        .routes(routes!(jobs::job))
        .routes(routes!(events::events));
    let (guarded, mut description) = guarded.split_for_parts();
    description.paths.paths.values_mut().for_each(may_be_refused);
    let open = OpenApiRouter::new().routes(routes!(health::healthz)).routes(routes!(health::readyz));
    let (open, of_open) = open.split_for_parts();
    description.merge(of_open);
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    description.components.get_or_insert_default().add_security_scheme("token", scheme);
    Paths { guarded, open, description }
}

/// What the guard in front of it answers.
fn may_be_refused(path: &mut PathItem) {
    for operation in [&mut path.get, &mut path.post].into_iter().flatten() {
        let responses = &mut operation.responses.responses;
        responses.entry("401".to_owned()).or_insert_with(|| problem("The token is missing, or another one."));
        responses.entry("400".to_owned()).or_insert_with(|| problem("The Host header does not name this machine."));
    }
}
