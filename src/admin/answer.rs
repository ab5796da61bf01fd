//! The extractors of parameters and bodies, which reject with a [`Problem`]. An empty body stands for `{}`.

use super::limits::Limits;
use super::problem::{Problem, ProblemCode};
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::timeout;

/// Refuses a `limit` of a list that is not from 1 to `most`.
pub(super) fn check_limit(limit: usize, most: usize) -> Result<(), Problem> {
    if (1..=most).contains(&limit) {
        return Ok(());
    }
    Err(Problem::invalid(format!("limit must be a number from 1 to {most}")))
}

/// The `limit` of a list that names none.
pub(super) fn default_limit() -> usize {
    50
}

/// PostgreSQL text cannot contain U+0000.
pub(super) fn check_text(text: &str) -> Result<(), Problem> {
    if text.contains('\0') {
        return Err(Problem::invalid("text must not contain the character U+0000"));
    }
    Ok(())
}

/// Rejections of axum's extractors keep its message.
macro_rules! from_rejection {
    ($($rejection:ty),+) => {$(
        impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Problem {
                let code = match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => ProblemCode::BodyTooLarge,
                    StatusCode::UNSUPPORTED_MEDIA_TYPE => ProblemCode::NotJson,
                    StatusCode::UNPROCESSABLE_ENTITY => ProblemCode::InvalidBody,
                    status if status.is_server_error() => ProblemCode::InternalError,
                    _ => ProblemCode::InvalidRequest,
                };
                Problem::new(code, rejection.body_text())
            }
        }
    )+};
}

from_rejection!(BytesRejection, JsonRejection, PathRejection, QueryRejection);

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

/// Path parameters.
pub(super) struct Path<T>(pub(super) T);

/// axum's extractor of the same name, with [`Problem`] as its rejection.
macro_rules! from_request_parts {
    ($extractor:ident) => {
        impl<T, S> FromRequestParts<S> for $extractor<T>
        where
            S: Sync,
            extract::$extractor<T>: FromRequestParts<S, Rejection: Into<Problem>>,
        {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let extracted = extract::$extractor::<T>::from_request_parts(parts, state).await;
                extracted.map(|extract::$extractor(value)| $extractor(value)).map_err(Into::into)
            }
        }
    };
}

from_request_parts!(Query);
from_request_parts!(Path);

/// A JSON object as body. The content type must be JSON, which no HTML form of another site can send.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let limit = request.extensions().get::<Limits>().map_or(Duration::MAX, |limits| limits.body_time);
        let read = timeout(limit, read_object(request, state)).await;
        let object = read.map_err(|_| Problem::new(ProblemCode::BodyTooSlow, "the body is too slow"))??;
        let body = serde_json::from_value(Value::Object(object));
        body.map(Body).map_err(|error| Problem::new(ProblemCode::InvalidBody, error.to_string()))
    }
}

/// Reads an object. A struct would also deserialize from an array.
async fn read_object<S: Send + Sync>(request: Request, state: &S) -> Result<Map<String, Value>, Problem> {
    let (parts, body) = request.into_parts();
    let bytes = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await?;
    if bytes.is_empty() && !may_be_form(&parts.headers) {
        return Ok(Map::new());
    }
    let Json(object) = Json::from_request(Request::from_parts(parts, bytes.into()), state).await?;
    Ok(object)
}

/// Whether a browser may have sent this for a form or a script of another site. Browsers name the site in `Origin`, and let
/// another site choose no content type that has to be allowed first.
fn may_be_form(headers: &HeaderMap) -> bool {
    let is_json =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    headers.contains_key(header::ORIGIN) && !is_json
}

/// A request without options, or an answer without content: `{}`.
#[derive(Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Empty {}
