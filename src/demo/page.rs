//! The page of `demo --stay`: its files, which are compiled in, and the requests that it sends. The admin server serves them
//! beside the console, behind its checks of `Host` and `Sec-Fetch-Site`.

use super::people::{Committed, People, Unchanged, View};
use crate::admin::CONTENT_SECURITY_POLICY;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The path of the page.
pub(super) const PATH: &str = "/demo";
/// Maximum length of a first or last name in characters.
const MAX_NAME: usize = 100;

const INDEX: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The page and its requests.
pub(super) fn router(people: People) -> Router {
    Router::new()
        .route(PATH, get(async || file("text/html; charset=utf-8", INDEX)))
        .route("/demo/style.css", get(async || file("text/css; charset=utf-8", STYLE)))
        .route("/demo/page.js", get(async || file("text/javascript; charset=utf-8", SCRIPT)))
        .route("/demo/state", get(state))
        .route("/demo/sign-up", post(sign_up))
        .route("/demo/rename", post(rename))
        .route("/demo/delete", post(delete))
        .layer(from_fn(refuse_other_origins))
        .with_state(Arc::new(people))
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

/// Why a request was not answered as it asked.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    fn invalid(detail: impl Into<String>) -> Refusal {
        Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, detail: detail.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Document {
            detail: String,
        }
        (self.status, Json(Document { detail: self.detail })).into_response()
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Refusal {
        Refusal { status: rejection.status(), detail: rejection.body_text() }
    }
}

impl From<Unchanged> for Refusal {
    fn from(why: Unchanged) -> Refusal {
        let status = match why {
            Unchanged::NoPerson => StatusCode::NOT_FOUND,
            Unchanged::NoOrganization => StatusCode::UNPROCESSABLE_ENTITY,
            Unchanged::Full => StatusCode::CONFLICT,
            Unchanged::Demo(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal { status, detail: why.to_string() }
    }
}

/// A JSON body. Browsers send this content type for a page of another site only if the server allows it.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let Json(body) = Json::from_request(request, state).await?;
        Ok(Body(body))
    }
}

/// Browsers name the page that sends a request in `Origin`, unless it only reads from its own site.
async fn refuse_other_origins(request: Request, next: Next) -> Response {
    if is_from_other_origin(request.headers()) {
        let detail = "the request comes from a page of another site".to_owned();
        return Refusal { status: StatusCode::FORBIDDEN, detail }.into_response();
    }
    next.run(request).await
}

fn is_from_other_origin(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let mut origins = headers.get_all(header::ORIGIN).into_iter();
    let is_own = |origin: &str| {
        let authority = origin.strip_prefix("http://").and_then(|rest| rest.parse::<Authority>().ok());
        authority.is_some() && authority == host
    };
    origins.any(|origin| !origin.to_str().is_ok_and(is_own))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignUp {
    organization: String,
    first_name: String,
    last_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    id: String,
    first_name: String,
    last_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    id: String,
}

async fn state(State(people): State<Arc<People>>) -> Result<Json<View>, Refusal> {
    Ok(Json(people.view().await.map_err(Unchanged::Demo)?))
}

async fn sign_up(
    State(people): State<Arc<People>>,
    Body(SignUp { organization, first_name, last_name }): Body<SignUp>,
) -> Result<Json<Committed>, Refusal> {
    check_names(&first_name, &last_name)?;
    Ok(Json(people.sign_up(&organization, &first_name, &last_name).await?))
}

async fn rename(
    State(people): State<Arc<People>>,
    Body(Rename { id, first_name, last_name }): Body<Rename>,
) -> Result<Json<Committed>, Refusal> {
    check_names(&first_name, &last_name)?;
    Ok(Json(people.rename(&id, &first_name, &last_name).await?))
}

async fn delete(
    State(people): State<Arc<People>>,
    Body(Delete { id }): Body<Delete>,
) -> Result<Json<Committed>, Refusal> {
    Ok(Json(people.delete(&id).await?))
}

fn check_names(first: &str, last: &str) -> Result<(), Refusal> {
    check_name("first", first)?;
    check_name("last", last)
}

fn check_name(which: &str, name: &str) -> Result<(), Refusal> {
    let characters = name.chars().count();
    if name.trim().is_empty() || characters > MAX_NAME {
        let detail = format!("the {which} name must have 1 to {MAX_NAME} characters that are not all blank");
        return Err(Refusal::invalid(format!("{detail}; this one has {characters}")));
    }
    // PostgreSQL text cannot contain it.
    if name.contains('\0') {
        return Err(Refusal::invalid(format!("the {which} name must not contain the character U+0000")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_the_origin_of_the_page_itself_is_accepted() {
        let refused = |host: &'static str, origin: &'static str| {
            let headers = [(header::HOST, host), (header::ORIGIN, origin)];
            let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
            is_from_other_origin(&headers.into_iter().collect())
        };
        assert!(!is_from_other_origin(&HeaderMap::new()));
        assert!(!refused("127.0.0.1:9187", "http://127.0.0.1:9187"));
        assert!(!refused("localhost", "http://localhost"));
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:9188",
            "https://127.0.0.1:9187",
            "http://127.0.0.1:9187.evil.example",
            "null",
            "",
        ] {
            assert!(refused("127.0.0.1:9187", origin), "{origin}");
        }
        let mut two = HeaderMap::new();
        two.insert(header::HOST, HeaderValue::from_static("localhost"));
        two.append(header::ORIGIN, HeaderValue::from_static("http://localhost"));
        two.append(header::ORIGIN, HeaderValue::from_static("http://evil.example"));
        assert!(is_from_other_origin(&two));
    }

    #[test]
    fn a_name_has_1_to_100_characters() {
        for name in ["a", "\"'<script>", &"ä".repeat(100)] {
            assert!(check_name("first", name).is_ok(), "{name}");
        }
        for name in ["", " \t", &"a".repeat(101), "a\0"] {
            assert_eq!(check_name("first", name).unwrap_err().status, StatusCode::UNPROCESSABLE_ENTITY, "{name}");
        }
    }

    #[test]
    fn the_page_obeys_its_content_security_policy_and_builds_no_markup_from_data() {
        for text in [INDEX, STYLE, SCRIPT] {
            for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "javascript:"] {
                assert!(!text.contains(word), "{word}");
            }
        }
        for word in ["<style", " style=", "<script>", " onclick=", "http:", "https:", "//"] {
            assert!(!INDEX.contains(word), "{word}");
        }
    }
}
