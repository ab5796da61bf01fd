//! Connects to a server: TCP or Unix socket, TLS with libpq's modes and fallbacks, one time limit for
//! everything.
//!
//! The SQL and the replication client both start here. CVE-2021-23222 (plain text injected before TLS) does
//! not apply: the answer to SSLRequest is read as a single byte from the bare socket, so injected bytes make
//! the handshake fail.

use super::address::{Address, dial, is_localhost};
use super::tls::{self, Tls};
use super::{ConnectError, PgUrl, SslMode, certificate};
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// For `sslmode=prefer`, which continues in plain text as libpq does.
pub(crate) const PREFER_REMEDY: &str =
    "set sslmode=verify-full, or sslmode=disable if the network between is trusted to read and change everything";

/// A connection on which nothing has been sent yet.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>, Tls),
}

impl Stream {
    /// Whether a password may be sent in clear text: it stays on this machine, or the other end of the TLS
    /// connection is verified. An unverified certificate may be that of a man in the middle.
    pub(crate) fn is_private(&self, url: &PgUrl) -> bool {
        match self {
            Stream::Unix(_) => true,
            Stream::Tcp(socket) => is_localhost(socket),
            Stream::Tls(stream, _) => url.verifies_server() || is_localhost(stream.get_ref().0),
        }
    }

    /// Whether the network can read and change everything.
    pub(crate) fn is_readable_on_the_way(&self) -> bool {
        matches!(self, Stream::Tcp(socket) if !is_localhost(socket))
    }

    fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(..))
    }

    /// The address that the connection leads to; `None` once it has ended.
    pub(super) fn address(&self) -> Option<Address> {
        match self {
            Stream::Unix(socket) => socket.peer_addr().ok()?.as_pathname().map(|path| Address::Unix(path.to_owned())),
            Stream::Tcp(socket) => socket.peer_addr().ok().map(|peer| Address::Tcp(vec![peer])),
            Stream::Tls(stream, _) => stream.get_ref().0.peer_addr().ok().map(|peer| Address::Tcp(vec![peer])),
        }
    }

    /// `tls-server-end-point` of the server's certificate; `None` without TLS.
    pub(crate) fn channel_binding(&self) -> Option<Vec<u8>> {
        let Stream::Tls(stream, tls) = self else { return None };
        if tls.is_unproven() {
            return None;
        }
        let (_, session) = stream.get_ref();
        session.peer_certificates()?.first().and_then(|leaf| certificate::tls_server_end_point(leaf))
    }
}

/// Connects and lets `start` log in, in one [`Attempt`].
pub(crate) async fn connect_with<T, F, Fut>(url: &PgUrl, start: F) -> Result<T, ConnectError>
where
    F: Fn(Stream) -> Fut,
    Fut: Future<Output = Result<T, ConnectError>>,
{
    Attempt::new(url).connect(start).await
}

/// An attempt to get a session: one time limit, one look at the host name and at the files of certificates, for all
/// connections that it takes.
pub(super) struct Attempt<'a> {
    url: &'a PgUrl,
    /// `None` without a limit.
    deadline: Option<Instant>,
    address: OnceCell<Address>,
    tls: OnceCell<Option<Tls>>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(url: &'a PgUrl) -> Self {
        let deadline = Instant::now().checked_add(url.connect_timeout);
        Attempt { url, deadline, address: OnceCell::new(), tls: OnceCell::new() }
    }

    /// At an address that is already known.
    pub(super) fn at(url: &'a PgUrl, address: Address) -> Self {
        Attempt { address: OnceCell::new_with(Some(address)), ..Attempt::new(url) }
    }

    /// Connects, lets `start` log in, and makes a second connection as `allow` and `prefer` say: after a failed
    /// handshake (`prefer`), or if pg_hba.conf has no line for the connection. Unlike libpq it sends a wrong
    /// password only once; the URL's time limit covers both.
    pub(super) async fn connect<T, F, Fut>(&self, start: F) -> Result<T, ConnectError>
    where
        F: Fn(Stream) -> Fut,
        Fut: Future<Output = Result<T, ConnectError>>,
    {
        let left = self.deadline.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()));
        timeout(left, self.connect_unlimited(start)).await.unwrap_or_else(|_| {
            Err(ConnectError::Timeout { at: self.url.to_string(), after: self.url.connect_timeout })
        })
    }

    async fn connect_unlimited<T, F, Fut>(&self, start: F) -> Result<T, ConnectError>
    where
        F: Fn(Stream) -> Fut,
        Fut: Future<Output = Result<T, ConnectError>>,
    {
        let (first, second) = attempts(self.url);
        let tls = if first == Encryption::Never && second.is_none() {
            None
        } else {
            self.tls.get_or_try_init(|| load_tls(self.url)).await?.as_ref()
        };
        let stream = match self.open(first, tls).await {
            Ok(stream) => stream,
            Err(error @ ConnectError::Tls { .. }) if second == Some(Encryption::Never) => {
                tracing::warn!(%error, remedy = PREFER_REMEDY, "connecting without TLS after a failed handshake");
                return start(self.open(Encryption::Never, None).await?).await;
            }
            Err(error) => return Err(error),
        };
        let was_tls = stream.is_tls();
        let started = start(stream).await.map_err(|error| match tls {
            Some(tls) if tls.asks_for_certificate() => error.after_certificate_request(),
            _ => error,
        });
        let refused = match started {
            Err(error) if error.is_not_let_in() => error,
            done => return done,
        };
        match second {
            Some(encryption) if was_tls == (encryption == Encryption::Never) => {
                let Ok(stream) = self.open(encryption, tls).await else { return Err(refused) };
                let is_open = stream.is_readable_on_the_way();
                match start(stream).await {
                    // If neither kind is let in, the first refusal is the better explanation.
                    Err(error) if error.is_not_let_in() => Err(refused),
                    Ok(session) if is_open => {
                        tracing::warn!(error = %refused, remedy = PREFER_REMEDY, "connected without TLS: the server refused the encrypted session");
                        Ok(session)
                    }
                    other => other,
                }
            }
            _ => Err(refused),
        }
    }

    async fn open(&self, encryption: Encryption, tls: Option<&Tls>) -> Result<Stream, ConnectError> {
        let url = self.url;
        let unreachable = |error| ConnectError::unreachable(url, error);
        let addresses = match self.address.get_or_try_init(|| Address::resolve(url)).await.map_err(unreachable)? {
            Address::Unix(path) => return UnixStream::connect(path).await.map(Stream::Unix).map_err(unreachable),
            Address::Tcp(addresses) => addresses,
        };
        let mut socket = dial(addresses, self.deadline).await.map_err(unreachable)?;
        let Some(tls) = tls.filter(|_| encryption != Encryption::Never) else {
            return Ok(Stream::Tcp(socket));
        };
        if !ask_for_tls(url, &mut socket).await? {
            return match encryption {
                Encryption::IfOffered => {
                    let stream = Stream::Tcp(socket);
                    if stream.is_readable_on_the_way() {
                        let at = url.to_string();
                        tracing::warn!(
                            at,
                            remedy = PREFER_REMEDY,
                            "connecting without TLS: the server does not offer it"
                        );
                    }
                    Ok(stream)
                }
                _ => {
                    Err(ConnectError::tls(url, "the server does not support it (enable ssl there, or change sslmode)"))
                }
            };
        }
        // The zone of an IPv6 address is no part of what a certificate names.
        let host = url.host.split('%').next().unwrap_or_default().to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| ConnectError::tls(url, "the host is neither a DNS name nor an address"))?;
        let stream = TlsConnector::from(tls.config.clone())
            .connect(name, socket)
            .await
            .map_err(|error| ConnectError::handshake(url, error))?;
        Ok(Stream::Tls(Box::new(stream), tls.clone()))
    }
}

/// Reads the files on another thread: decrypting a key takes time.
async fn load_tls(url: &PgUrl) -> Result<Option<Tls>, ConnectError> {
    let of = url.clone();
    match tokio::task::spawn_blocking(move || tls::client_config(&of)).await {
        Ok(loaded) => loaded.map_err(|error| ConnectError::tls(url, error)),
        Err(stopped) => Err(ConnectError::tls(url, format_args!("its files were not read: {stopped}"))),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

/// The first attempt, and the second one if there is one. A Unix socket never uses TLS (as in libpq).
fn attempts(url: &PgUrl) -> (Encryption, Option<Encryption>) {
    match url.ssl_mode {
        _ if url.host.starts_with('/') => (Encryption::Never, None),
        SslMode::Disable => (Encryption::Never, None),
        SslMode::Allow => (Encryption::Never, Some(Encryption::Always)),
        SslMode::Prefer => (Encryption::IfOffered, Some(Encryption::Never)),
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Encryption::Always, None),
    }
}

/// Sends SSLRequest (manual: "SSL Session Encryption"). Returns whether the server is ready for the
/// handshake.
async fn ask_for_tls(url: &PgUrl, socket: &mut TcpStream) -> Result<bool, ConnectError> {
    let unreachable = |error| ConnectError::unreachable(url, error);
    let mut request = bytes::BytesMut::new();
    postgres_protocol::message::frontend::ssl_request(&mut request);
    socket.write_all(&request).await.map_err(unreachable)?;
    match socket.read_u8().await.map_err(unreachable)? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // The text is not shown: a third party may have written it (CVE-2024-10977).
        b'E' => Err(unreachable(io::Error::other("the server answered the request for TLS with an error"))),
        _ => Err(ConnectError::protocol(url, "unexpected answer to the request for TLS")),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

/// The error of a failed write, or the alert with which the server ended the connection before: it explains more. A server
/// that refuses our certificate sends it after the handshake (TLS 1.3).
fn said_before(stream: &mut TlsStream<TcpStream>, cx: &mut Context<'_>, error: io::Error) -> io::Error {
    /// More data than this in front of an alert is not read.
    const READS: usize = 16;
    for _ in 0..READS {
        let mut dropped = [0; 4096];
        let mut dropped = ReadBuf::new(&mut dropped);
        match Pin::new(&mut *stream).poll_read(cx, &mut dropped) {
            Poll::Ready(Ok(())) if !dropped.filled().is_empty() => {}
            Poll::Ready(Err(alert)) if alert.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                return alert;
            }
            _ => break,
        }
    }
    error
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream, _) => {
                Pin::new(&mut **stream).poll_write(cx, buf).map_err(|error| said_before(stream, cx, error))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream, _) => {
                Pin::new(&mut **stream).poll_flush(cx).map_err(|error| said_before(stream, cx, error))
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// As for a request to cancel: the name does not exist, or no longer leads to this server.
    #[tokio::test]
    async fn a_known_address_is_not_resolved_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(vec![listener.local_addr().unwrap()]);
        let url = PgUrl::parse("postgres://u@no-such-host.invalid/db?sslmode=disable").unwrap();
        let connected = Attempt::at(&url, address.clone()).connect(|stream| async move { Ok(stream.address()) }).await;
        assert_eq!(connected.unwrap(), Some(address));
        let resolved = Attempt::new(&url).connect(|stream| async move { Ok(stream.address()) }).await;
        assert!(matches!(resolved, Err(ConnectError::Unreachable { .. })));
    }

    /// The server requires a certificate, and has closed the connection before the client writes.
    #[tokio::test]
    async fn a_failed_write_shows_the_alert_that_came_before() {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .build()
            .unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (closed, is_closed) = tokio::sync::watch::channel(false);
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_exact(&mut [0; 8]).await.unwrap();
            socket.write_all(b"S").await.unwrap();
            let accepted = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config)).accept(socket).await;
            assert!(accepted.is_err());
            closed.send_replace(true);
        });
        let url = PgUrl::parse(&format!("postgres://u@127.0.0.1:{port}/db?sslmode=require")).unwrap();
        let connected: Result<(), _> = connect_with(&url, |mut stream| {
            let mut is_closed = is_closed.clone();
            let url = &url;
            async move {
                is_closed.wait_for(|closed| *closed).await.unwrap();
                loop {
                    if let Err(error) = stream.write_all(b"startup").await {
                        return Err(ConnectError::unreachable(url, error));
                    }
                }
            }
        })
        .await;
        server.await.unwrap();
        let error = connected.unwrap_err();
        assert!(error.to_string().contains("set sslcert and sslkey"), "{error:?}");
    }

    #[test]
    fn every_sslmode_has_libpqs_order_of_attempts() {
        let check = |query: &str, expected| {
            let url = PgUrl::parse(&format!("postgres://u@h/db?{query}")).expect(query);
            assert_eq!(attempts(&url), expected, "{query}");
        };
        check("sslmode=disable", (Encryption::Never, None));
        check("sslmode=allow", (Encryption::Never, Some(Encryption::Always)));
        check("sslmode=prefer", (Encryption::IfOffered, Some(Encryption::Never)));
        check("sslmode=require", (Encryption::Always, None));
        check("sslmode=verify-full", (Encryption::Always, None));
        check("sslmode=verify-full&host=/tmp", (Encryption::Never, None));
    }
}
