//! Where a URL leads. A host name is resolved once for each attempt to connect: the further connections of the
//! attempt, and the requests to cancel its statements, go to the addresses that it gave.

use super::PgUrl;
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

/// A peer that disappears is detected after 10 + 3 * 5 seconds.
const TCP_KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(3);

/// Keepalive probes are not sent while data is unacknowledged: the same limit for that case.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(25);

/// The addresses of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// The path of a Unix socket.
    Unix(PathBuf),
    /// In the resolver's order.
    Tcp(Vec<SocketAddr>),
}

impl Address {
    pub(super) async fn resolve(url: &PgUrl) -> io::Result<Address> {
        if url.host.starts_with('/') {
            return Ok(Address::Unix(Path::new(&url.host).join(format!(".s.PGSQL.{}", url.port))));
        }
        Ok(Address::Tcp(lookup_host((&*url.host, url.port)).await?.collect()))
    }
}

/// Connects to the first address that answers. Every address gets an equal share of the time, so that one
/// that drops packets (broken IPv6) does not use up all of it.
pub(super) async fn dial(addresses: &[SocketAddr], deadline: Option<Instant>) -> io::Result<TcpStream> {
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

/// Whether the peer's address is 127.0.0.1 or ::1. Others of 127.0.0.0/8 may be forwarded to another machine.
pub(super) fn is_localhost(socket: &TcpStream) -> bool {
    let address = socket.peer_addr().map(|peer| peer.ip().to_canonical());
    address.is_ok_and(|address| address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST)
}
