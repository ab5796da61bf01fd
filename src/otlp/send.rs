//! Sends requests of OTLP over HTTP/1.1, each on a connection of its own: there are a few a minute. Neither the URL nor a
//! header or an answer reaches the log.

use super::settings::Destination;
use crate::sync::lock;
use axum::http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use axum::http::{Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Time between two warnings, so that a receiver that is down for days does not fill the log.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// Why a request was not delivered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("otlp_unreachable: {0}")]
    Unreachable(std::io::ErrorKind),
    #[error("otlp_timeout: no answer in time")]
    Timeout,
    #[error("otlp_no_answer: the connection was closed without an answer")]
    NoAnswer,
    #[error("otlp_refused: HTTP status {0}")]
    Refused(u16),
}

impl From<std::io::Error> for SendError {
    fn from(error: std::io::Error) -> SendError {
        SendError::Unreachable(error.kind())
    }
}

/// The endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndpointError {
    #[error("the OTLP endpoint is not an http or https URL")]
    NoUrl,
    #[error("a name or value in OTEL_EXPORTER_OTLP_HEADERS is no HTTP header")]
    Header,
    #[error("cannot set up TLS for the OTLP endpoint: {0}")]
    Tls(#[from] rustls::Error),
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
    host: String,
    port: u16,
    path: String,
    headers: HeaderMap,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    warnings: Arc<Warnings>,
}

impl Sender {
    /// A user and password in the URL are not sent: OTLP has headers for that.
    pub(super) fn new(to: &Destination, warnings: Arc<Warnings>) -> Result<Sender, EndpointError> {
        let url: Uri = to.url.parse().map_err(|_| EndpointError::NoUrl)?;
        let host = url.host().ok_or(EndpointError::NoUrl)?.trim_matches(['[', ']']).to_owned();
        let (port, tls) = match url.scheme_str() {
            Some("http") => (80, None),
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| EndpointError::NoUrl)?;
                (443, Some((TlsConnector::from(Arc::new(tls_config()?)), name)))
            }
            _ => return Err(EndpointError::NoUrl),
        };
        let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = url.port_u16().unwrap_or(port);
        let named = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, named.parse().map_err(|_| EndpointError::NoUrl)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("users-sync/", env!("CARGO_PKG_VERSION"))));
        for (name, value) in &to.headers {
            let header = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
            let (name, value) = header.ok_or(EndpointError::Header)?;
            headers.insert(name, value);
        }
        Ok(Sender { host, port, path, headers, tls, timeout: to.timeout, warnings })
    }

    /// Returns whether it was delivered. What was not is dropped: the next request has newer metrics and spans.
    pub(super) async fn send(&self, body: Vec<u8>) -> bool {
        let posted = timeout(self.timeout, self.post(body)).await;
        let Err(error) = posted.unwrap_or(Err(SendError::Timeout)) else { return true };
        if self.warnings.is_due(Instant::now()) {
            tracing::warn!(%error, "telemetry cannot be sent; replication goes on");
        }
        false
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), SendError> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        let status = match &self.tls {
            None => self.exchange(stream, body).await?,
            Some((connector, name)) => self.exchange(connector.connect(name.clone(), stream).await?, body).await?,
        };
        if status.is_success() { Ok(()) } else { Err(SendError::Refused(status.as_u16())) }
    }

    /// Returns the status of the answer.
    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: Vec<u8>,
    ) -> Result<StatusCode, SendError> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.parse().unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| SendError::NoAnswer)?;
        // It ends with `requests`.
        tokio::spawn(connection);
        Ok(requests.send_request(request).await.map_err(|_| SendError::NoAnswer)?.status())
    }
}

/// Trusts what the system trusts.
fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new(provider.clone())?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
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

    #[test]
    fn an_endpoint_is_an_http_url_and_its_password_is_not_in_the_request() {
        let sender = |url: &str| {
            let to = Destination { url: url.to_owned(), headers: Vec::new(), timeout: Duration::from_secs(1) };
            Sender::new(&to, Arc::default())
        };
        let plain = sender("http://u:secret@[::1]:4318/v1/traces").unwrap();
        assert_eq!((&*plain.host, plain.port), ("::1", 4318));
        assert_eq!((&*plain.path, plain.headers[HOST].to_str().unwrap()), ("/v1/traces", "[::1]:4318"));
        assert!(!format!("{:?}", plain.headers).contains("secret"));
        assert_eq!(sender("https://collector/x").unwrap().port, 443);
        for no in ["collector:4318", "ftp://h/", "/v1", "http://a b/"] {
            assert!(matches!(sender(no), Err(EndpointError::NoUrl)), "{no}");
        }
    }
}
