//! Sends requests over HTTP/1.1, each on a connection of its own: there are a few a minute. Neither the URL nor a header or
//! an answer reaches the log.

use axum::http::header::{HOST, HeaderMap, HeaderValue, USER_AGENT};
use axum::http::{Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    #[error("not an http or https URL")]
    NoUrl,
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("it cannot be reached: {0}")]
    Unreachable(std::io::ErrorKind),
    #[error("timeout: no answer in time")]
    Timeout,
    #[error("no_answer: the connection was closed without an answer")]
    NoAnswer,
    #[error("too_large: the answer is larger than any that is expected")]
    TooLarge,
}

impl From<std::io::Error> for HttpError {
    fn from(error: std::io::Error) -> HttpError {
        HttpError::Unreachable(error.kind())
    }
}

/// A server, and the path below which requests are sent.
#[derive(Clone)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    path: String,
    /// Sent with every request.
    headers: HeaderMap,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    largest: usize,
}

/// The status and the body of an answer.
pub(crate) type Answer = (StatusCode, Bytes);

impl Endpoint {
    /// `timeout`: of a request with its answer. `largest`: the most bytes of an answer; with 0 it is not read. A user and
    /// password in the URL are not sent.
    pub(crate) fn new(url: &str, timeout: Duration, largest: usize) -> Result<Endpoint, EndpointError> {
        let url: Uri = url.parse().map_err(|_| EndpointError::NoUrl)?;
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
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("users-sync/", env!("CARGO_PKG_VERSION"))));
        Ok(Endpoint { host, port, path, headers, tls, timeout, largest })
    }

    /// Adds headers to every request.
    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Endpoint {
        self.headers.extend(headers);
        self
    }

    /// Posts to the endpoint's path with `path` appended.
    pub(crate) async fn post(&self, path: &str, body: Vec<u8>) -> Result<Answer, HttpError> {
        timeout(self.timeout, self.connect_and_post(path, body)).await.unwrap_or(Err(HttpError::Timeout))
    }

    async fn connect_and_post(&self, path: &str, body: Vec<u8>) -> Result<Answer, HttpError> {
        let stream = TcpStream::connect((&*self.host, self.port)).await?;
        match &self.tls {
            None => self.exchange(stream, path, body).await,
            Some((connector, name)) => self.exchange(connector.connect(name.clone(), stream).await?, path, body).await,
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Answer, HttpError> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        let base = if path.is_empty() { &*self.path } else { self.path.trim_end_matches('/') };
        *request.uri_mut() = format!("{base}{path}").parse().unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        let (mut requests, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| HttpError::NoAnswer)?;
        // It ends with `requests`.
        tokio::spawn(connection);
        let answer = requests.send_request(request).await.map_err(|_| HttpError::NoAnswer)?;
        let status = answer.status();
        if self.largest == 0 {
            return Ok((status, Bytes::new()));
        }
        match Limited::new(answer.into_body(), self.largest).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(HttpError::TooLarge),
            Err(_) => Err(HttpError::NoAnswer),
        }
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[test]
    fn an_endpoint_is_an_http_url_and_its_password_is_not_in_the_request() {
        let endpoint = |url: &str| Endpoint::new(url, Duration::from_secs(1), 0);
        let plain = endpoint("http://u:secret@[::1]:4318/v1/traces").unwrap();
        assert_eq!((&*plain.host, plain.port), ("::1", 4318));
        assert_eq!((&*plain.path, plain.headers[HOST].to_str().unwrap()), ("/v1/traces", "[::1]:4318"));
        assert!(!format!("{:?}", plain.headers).contains("secret"));
        assert_eq!(endpoint("https://collector/x").unwrap().port, 443);
        for no in ["collector:4318", "ftp://h/", "/v1", "http://a b/"] {
            assert!(matches!(endpoint(no), Err(EndpointError::NoUrl)), "{no}");
        }
    }

    /// Answers one request with this text. Returns the address.
    async fn server(answer: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            // The client closes the connection once it has seen enough.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
        format!("http://{at}/base")
    }

    #[tokio::test]
    async fn an_answer_is_read_up_to_the_limit() {
        for (bytes, expected) in [(64, Ok(64)), (65, Err(HttpError::TooLarge))] {
            // Without a length, so that the limit is found while reading.
            let at = server(format!("HTTP/1.1 409 Conflict\r\n\r\n{}", "x".repeat(bytes))).await;
            let endpoint = Endpoint::new(&at, Duration::from_secs(30), 64).unwrap();
            let answer = endpoint.post("/more", b"{}".to_vec()).await;
            let found = answer.map(|(status, body)| {
                assert_eq!(status, StatusCode::CONFLICT);
                body.len()
            });
            assert_eq!(found, expected);
        }
    }

    #[tokio::test]
    async fn a_server_that_answers_nothing_is_named() {
        let endpoint = Endpoint::new(&server(String::new()).await, Duration::from_secs(30), 64).unwrap();
        assert_eq!(endpoint.post("", Vec::new()).await.map(drop), Err(HttpError::NoAnswer));
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", silent.local_addr().unwrap());
        let endpoint = Endpoint::new(&at, Duration::from_millis(10), 64).unwrap();
        assert_eq!(endpoint.post("", Vec::new()).await.map(drop), Err(HttpError::Timeout));
    }
}
