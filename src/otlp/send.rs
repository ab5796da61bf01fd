//! Sends requests of OTLP over HTTP. Neither the URL nor a header or an answer reaches the log.

use super::settings::Destination;
use crate::http_client::{Endpoint, EndpointError, HttpError};
use crate::sync::lock;
use axum::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Time between two warnings, so that a receiver that is down for days does not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// Why a request was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("otlp_{0}")]
    Http(#[from] HttpError),
    #[error("otlp_refused: HTTP status {0}")]
    Refused(u16),
}

/// The destination cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DestinationError {
    #[error("the OTLP endpoint: {0}")]
    Endpoint(#[from] EndpointError),
    #[error("a name or value in OTEL_EXPORTER_OTLP_HEADERS is no HTTP header")]
    Header,
}

/// Decides which failures are logged. Both signals share one.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<Option<Instant>>);

impl Warnings {
    fn is_due(&self, now: Instant) -> bool {
        let mut last = lock(&self.0);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// Sends the requests of one signal.
pub(super) struct Sender {
    endpoint: Endpoint,
    warnings: Arc<Warnings>,
}

impl Sender {
    /// A user and password in the URL are not sent: OTLP has headers for that.
    pub(super) fn new(to: &Destination, warnings: Arc<Warnings>) -> Result<Sender, DestinationError> {
        let endpoint = Endpoint::new(&to.url, to.timeout, 0)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        for (name, value) in &to.headers {
            let header = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
            let (name, value) = header.ok_or(DestinationError::Header)?;
            headers.insert(name, value);
        }
        Ok(Sender { endpoint: endpoint.with_headers(headers), warnings })
    }

    /// Returns whether it was delivered. What was not is dropped: the next request has newer metrics and spans.
    pub(super) async fn send(&self, body: Vec<u8>) -> bool {
        let Err(error) = self.post(body).await else { return true };
        if self.warnings.is_due(Instant::now()) {
            tracing::warn!(%error, "telemetry cannot be sent; replication goes on");
        }
        false
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), SendError> {
        let (status, _) = self.endpoint.post("", body).await?;
        if status.is_success() { Ok(()) } else { Err(SendError::Refused(status.as_u16())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_logged_once_an_hour() {
        let (warnings, begun) = (Warnings::default(), Instant::now());
        assert!(warnings.is_due(begun));
        assert!(!warnings.is_due(begun + WARN_EVERY / 2));
        assert!(warnings.is_due(begun + WARN_EVERY));
    }
}
