//! Error responses: JSON `{error: {what, remedy}}`, without SQL, secrets or row values. Also the extractors of parameters
//! and bodies, which reject in the same form.

use super::limits::Limits;
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::timeout;

/// An error response.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct Problem {
    error: ErrorBody,
    #[serde(skip)]
    status: StatusCode,
}

/// The error and its fix.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct ErrorBody {
    /// What failed.
    pub(super) what: String,
    /// How to fix it.
    pub(super) remedy: Option<String>,
}

/// Refuses a `limit` of a list that is not from 1 to `most`.
pub(super) fn check_limit(limit: usize, most: usize) -> Result<(), Problem> {
    if (1..=most).contains(&limit) {
        return Ok(());
    }
    Err(Problem::bad(format!("limit must be a number from 1 to {most}")))
}

impl Problem {
    pub(super) fn new(status: StatusCode, what: impl Into<String>) -> Problem {
        Problem { status, error: ErrorBody { what: what.into(), remedy: None } }
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Problem {
        self.error.remedy = Some(remedy.into());
        self
    }

    pub(super) fn bad(what: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, what)
    }

    pub(super) fn conflict(what: impl Into<String>) -> Problem {
        Problem::new(StatusCode::CONFLICT, what)
    }

    pub(super) fn absent(what: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, what)
    }

    /// For failures that can pass: the client may retry.
    pub(super) fn unavailable(what: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, what)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Rejections of axum's extractors keep its message and status.
macro_rules! from_rejection {
    ($rejection:ty) => {
        impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Problem {
                Problem::new(rejection.status(), rejection.body_text())
            }
        }
    };
}

from_rejection!(JsonRejection);
from_rejection!(PathRejection);
from_rejection!(QueryRejection);

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
        // A struct would also deserialize from an array.
        let read = timeout(limit, Json::<Map<String, Value>>::from_request(request, state)).await;
        let Json(object) = read.map_err(|_| Problem::new(StatusCode::REQUEST_TIMEOUT, "the body is too slow"))??;
        let body = serde_json::from_value(Value::Object(object));
        body.map(Body).map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
    }
}
