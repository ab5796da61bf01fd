//! Connects to a server: TCP or Unix socket, TLS with libpq's modes and fallbacks, one time limit for
//! everything.
//!
//! The SQL and the replication client both start here. CVE-2021-23222 (plain text injected before TLS) does
//! not apply: the answer to SSLRequest is read as a single byte from the bare socket, so injected bytes make
//! the handshake fail.

use super::{ConnectError, PgUrl, SslMode, certificate, tls};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A peer that disappears is detected after 10 + 3 * 5 seconds.
const TCP_KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(3);

/// Keepalive probes are not sent while data is unacknowledged: the same limit for that case.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(25);

/// Whether the peer's address is 127.0.0.1 or ::1. Others of 127.0.0.0/8 may be forwarded to another machine.
fn is_localhost(socket: &TcpStream) -> bool {
    let address = socket.peer_addr().map(|peer| peer.ip().to_canonical());
    address.is_ok_and(|address| address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST)
}

/// For `sslmode=prefer`, which continues in plain text as libpq does.
const PREFER_REMEDY: &str =
    "set sslmode=verify-full, or sslmode=disable if the network between is trusted to read and change everything";

/// A connection on which nothing has been sent yet.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether a password may be sent in clear text: it stays on this machine, or the other end of the TLS
    /// connection is verified. An unverified certificate may be that of a man in the middle.
    pub(crate) fn is_private(&self, url: &PgUrl) -> bool {
        match self {
            Stream::Unix(_) => true,
            Stream::Tcp(socket) => is_localhost(socket),
            Stream::Tls(stream) => url.verifies_server() || is_localhost(stream.get_ref().0),
        }
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// `tls-server-end-point` of the server's certificate; `None` without TLS.
    pub(crate) fn channel_binding(&self) -> Option<Vec<u8>> {
        let Stream::Tls(stream) = self else { return None };
        let (_, session) = stream.get_ref();
        session.peer_certificates()?.first().and_then(|leaf| certificate::tls_server_end_point(leaf))
    }
}

/// Connects, lets `start` log in, and makes a second attempt as `allow` and `prefer` say: after a failed
/// handshake (`prefer`), or if pg_hba.conf has no line for the connection. Unlike libpq it sends a wrong
/// password only once; the URL's time limit covers both attempts.
pub(crate) async fn connect_with<T, F, Fut>(url: &PgUrl, start: F) -> Result<T, ConnectError>
where
    F: Fn(Stream) -> Fut,
    Fut: Future<Output = Result<T, ConnectError>>,
{
    let deadline = Instant::now().checked_add(url.connect_timeout);
    let work = async {
        let (first, second) = attempts(url);
        let config = if first == Encryption::Never && second.is_none() {
            None
        } else {
            tls::client_config(url).map_err(|error| ConnectError::tls(url, error))?.map(Arc::new)
        };
        let stream = match open(url, first, config.clone(), deadline).await {
            Ok(stream) => stream,
            Err(error @ ConnectError::Tls { .. }) if second == Some(Encryption::Never) => {
                tracing::warn!(%error, remedy = PREFER_REMEDY, "connecting without TLS after a failed handshake");
                return start(open(url, Encryption::Never, None, deadline).await?).await;
            }
            Err(error) => return Err(error),
        };
        let was_tls = stream.is_tls();
        let refused = match start(stream).await {
            Err(error) if error.is_not_let_in() => error,
            done => return done,
        };
        match second {
            Some(encryption) if was_tls == (encryption == Encryption::Never) => {
                let Ok(stream) = open(url, encryption, config, deadline).await else { return Err(refused) };
                // If neither kind is let in, the first refusal is the better explanation.
                start(stream).await.map_err(|error| if error.is_not_let_in() { refused } else { error })
            }
            _ => Err(refused),
        }
    };
    timeout(url.connect_timeout, work)
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout { at: url.to_string(), after: url.connect_timeout }))
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

async fn open(
    url: &PgUrl,
    encryption: Encryption,
    config: Option<Arc<ClientConfig>>,
    deadline: Option<Instant>,
) -> Result<Stream, ConnectError> {
    if url.host.starts_with('/') {
        let path = Path::new(&url.host).join(format!(".s.PGSQL.{}", url.port));
        return UnixStream::connect(path)
            .await
            .map(Stream::Unix)
            .map_err(|error| ConnectError::unreachable(url, error));
    }
    let mut socket = dial(url, deadline).await.map_err(|error| ConnectError::unreachable(url, error))?;
    let Some(config) = config.filter(|_| encryption != Encryption::Never) else { return Ok(Stream::Tcp(socket)) };
    if !ask_for_tls(url, &mut socket).await? {
        return match encryption {
            Encryption::IfOffered => {
                if !is_localhost(&socket) {
                    let at = url.to_string();
                    tracing::warn!(at, remedy = PREFER_REMEDY, "connecting without TLS: the server does not offer it");
                }
                Ok(Stream::Tcp(socket))
            }
            _ => Err(ConnectError::tls(url, "the server does not support it (enable ssl there, or change sslmode)")),
        };
    }
    let name = ServerName::try_from(url.host.clone())
        .map_err(|_| ConnectError::tls(url, "the host is neither a DNS name nor an address"))?;
    let stream =
        TlsConnector::from(config).connect(name, socket).await.map_err(|error| handshake_failed(url, error))?;
    Ok(Stream::Tls(Box::new(stream)))
}

/// Connects to the first address that answers. Every address gets an equal share of the time, so that one
/// that drops packets (broken IPv6) does not use up all of it.
async fn dial(url: &PgUrl, deadline: Option<Instant>) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((&*url.host, url.port)).await?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let shares = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = left.map_or(Duration::MAX, |left| left / shares);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                socket.set_nodelay(true)?;
                SockRef::from(&socket).set_tcp_keepalive(&TCP_KEEPALIVE)?;
                #[cfg(target_os = "linux")]
                SockRef::from(&socket).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
                return Ok(socket);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer"),
        }
    }
    Err(last)
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

fn handshake_failed(url: &PgUrl, error: io::Error) -> ConnectError {
    use rustls::CertificateError as Certificate;
    let Some(reason) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return ConnectError::unreachable(url, error);
    };
    match reason {
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => ConnectError::tls(
            url,
            "the server's certificate is not from a trusted authority (set sslrootcert to the authority's file)",
        ),
        other => ConnectError::tls(url, other),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
