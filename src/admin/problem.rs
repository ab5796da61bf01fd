//! Error responses as RFC 9457 describes them: `application/problem+json` with a stable code, without SQL, secrets or row
//! values.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Defines the codes with their status and meaning.
macro_rules! codes {
    ($($code:ident $text:literal $status:ident $meaning:literal,)*) => {
        /// What an error response is about. A code never changes, and is never used again for something else.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum ProblemCode {
            $(#[doc = $meaning] $code,)*
        }

        impl ProblemCode {
            fn as_str(self) -> &'static str {
                match self { $(ProblemCode::$code => $text,)* }
            }

            fn status(self) -> StatusCode {
                match self { $(ProblemCode::$code => StatusCode::$status,)* }
            }

            /// Rows of the table in docs/OPERATIONS.md.
            #[cfg(test)]
            fn table() -> String {
                let rows = [$((ProblemCode::$code, $meaning)),*];
                let row = |(code, meaning): (ProblemCode, &str)| {
                    format!("  | `{}` | {} | {meaning} |\n", code.as_str(), code.status().as_u16())
                };
                rows.into_iter().map(row).collect()
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" BAD_REQUEST "a parameter, the path or the JSON of the body cannot be read",
    WrongHost "wrong_host" BAD_REQUEST "the Host header does not name this machine, and no token is configured",
    Unauthorized "unauthorized" UNAUTHORIZED "the token is missing or invalid",
    OtherSite "other_site" FORBIDDEN "the request comes from a page of another site",
    NoSuchPath "no_such_path" NOT_FOUND "the path does not exist",
    NoSuchTenant "no_such_tenant" NOT_FOUND "the configuration has no such tenant",
    NoSuchUser "no_such_user" NOT_FOUND "the target has no such user",
    NoSuchJob "no_such_job" NOT_FOUND "the job is unknown, has expired or has ended",
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "the path does not take this method",
    BodyTooSlow "body_too_slow" REQUEST_TIMEOUT "the body did not arrive in time",
    JobRunning "job_running" CONFLICT "a job is already running for the tenant",
    TenantPaused "tenant_paused" CONFLICT "the tenant is paused",
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "the body is too large",
    NotJson "not_json" UNSUPPORTED_MEDIA_TYPE "the content type of the body is not application/json",
    InvalidBody "invalid_body" UNPROCESSABLE_ENTITY "the body does not match the schema",
    Starting "starting" SERVICE_UNAVAILABLE "the process has not read its configuration yet",
    TooManyConnections "too_many_connections" SERVICE_UNAVAILABLE "too many connections are open",
    TooManyListeners "too_many_listeners" SERVICE_UNAVAILABLE "too many event streams are open",
    TooManyWaiters "too_many_waiters" SERVICE_UNAVAILABLE "too many requests wait for a user",
    TooManyJobs "too_many_jobs" SERVICE_UNAVAILABLE "too many jobs are running",
    NotRunning "not_running" SERVICE_UNAVAILABLE "no process is replicating, or none has started the tenant",
    StateUnavailable "state_unavailable" SERVICE_UNAVAILABLE "the state cannot be read or written",
    TargetUnreachable "target_unreachable" SERVICE_UNAVAILABLE "the target cannot be reached, or refuses the login",
    TargetNoAnswer "target_no_answer" SERVICE_UNAVAILABLE "the target does not answer in time",
    TargetError "target_error" SERVICE_UNAVAILABLE "the target returned an error",
    NoUsersYet "no_users_yet" SERVICE_UNAVAILABLE "the target has no users_sync yet",
    ProfileTooLarge "profile_too_large" SERVICE_UNAVAILABLE "the profile is too large for an answer",
    InternalError "internal_error" INTERNAL_SERVER_ERROR "a bug; the log has more",
}

/// An error response.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Problem {
    /// Always `about:blank`: `code` says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The text of the HTTP status.
    title: &'static str,
    /// The HTTP status.
    #[cfg_attr(feature = "openapi", schema(minimum = 400, maximum = 599))]
    status: u16,
    /// The stable code of the problem, such as `no_such_tenant`.
    code: &'static str,
    /// What failed.
    detail: String,
    /// How to fix it.
    remedy: Option<String>,
}

impl Problem {
    pub(super) fn new(code: ProblemCode, detail: impl Into<String>) -> Problem {
        let status = code.status();
        Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code: code.as_str(),
            detail: detail.into(),
            remedy: None,
        }
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Problem {
        self.remedy = Some(remedy.into());
        self
    }

    /// A parameter that cannot be used.
    pub(super) fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(ProblemCode::InvalidRequest, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_guide_lists_every_code() {
        let guide = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OPERATIONS.md");
        let guide = std::fs::read_to_string(guide).unwrap();
        let table = format!("  | code | status | meaning |\n  | --- | --- | --- |\n{}", ProblemCode::table());
        assert!(guide.contains(&table), "docs/OPERATIONS.md lacks\n{table}");
    }

    #[test]
    fn a_response_is_a_problem_of_rfc_9457() {
        let response = Problem::new(ProblemCode::Unauthorized, "no token").remedy("send it").into_response();
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        let problem = Problem::new(ProblemCode::NoSuchUser, "none").remedy("wait");
        let expected = serde_json::json!({"type": "about:blank", "title": "Not Found", "status": 404,
            "code": "no_such_user", "detail": "none", "remedy": "wait"});
        assert_eq!(serde_json::to_value(problem).unwrap(), expected);
    }
}
