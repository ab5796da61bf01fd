//! The paths and their handlers. The API description (OpenAPI) is built from the same list.

use super::app::App;
use super::{events, exposition, health, job_api, overview};
use super::{tenant_api, timeline, user_counts, user_list, users};
use axum::Router;
use axum::routing::{get, post};

/// Defines a router and the API description of its paths.
macro_rules! paths {
    ($router:ident, $description:ident: $($method:ident $path:literal $module:ident::$handler:ident,)+) => {
        pub(super) fn $router() -> Router<App> {
            Router::new()$(.route($path, $method($module::$handler)))+
        }

        #[cfg(feature = "openapi")]
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($module::$handler),+))]
        pub(super) struct $description;

        #[cfg(all(test, feature = "openapi"))]
        impl $description {
            pub(super) const PATHS: &[&str] = &[$($path),+];
        }
    };
}

paths! { protected, ProtectedApi:
    get "/metrics" exposition::metrics,
    get "/api/status" overview::status,
    get "/api/activity" overview::activity,
    get "/api/timeline" timeline::timeline,
    get "/api/tenants" overview::tenants,
    get "/api/tenants/{tenant}" overview::tenant,
    get "/api/tenants/{tenant}/users" user_list::users,
    get "/api/tenants/{tenant}/counts" user_counts::counts,
    get "/api/tenants/{tenant}/users/{id}" users::user,
    get "/api/tenants/{tenant}/rejected" tenant_api::rejected_users,
    post "/api/tenants/{tenant}/rejected/retry" tenant_api::retry_rejected,
    post "/api/tenants/{tenant}/pause" tenant_api::pause,
    post "/api/tenants/{tenant}/resume" tenant_api::resume,
    post "/api/tenants/{tenant}/resync" job_api::resync,
    post "/api/tenants/{tenant}/verify" job_api::verify_tenant,
    get "/api/jobs" job_api::jobs,
    get "/api/jobs/{job}" job_api::job,
    post "/api/jobs/{job}/cancel" job_api::cancel,
    get "/api/events" events::events,
}

// Health checks have no token.
paths! { public, PublicApi:
    get "/healthz" health::healthz,
    get "/readyz" health::readyz,
}
