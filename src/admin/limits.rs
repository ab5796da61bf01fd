//! Limits of the HTTP server's connections. They apply before a token is checked.

use rustix::process::{Resource, getrlimit};
use std::time::Duration;

/// Maximum number of connections with an authorized request: all waits and event streams, and some more.
const MAX_AUTHORIZED: usize = 4_608;

/// Maximum number of connections without one. It is above any burst of real clients: an evicted one has to repeat its
/// request. At most 16 KiB of headers each are kept.
const MAX_UNAUTHORIZED: usize = 1_024;

/// Connections that waiting requests leave to other requests.
const SPARE_CONNECTIONS: usize = 512;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Time from a connection's start, or from the end of a response, to the end of the next request's headers. It is also
    /// the time that a connection may be idle.
    pub(super) header_time: Duration,
    /// Time in which a request's body must arrive.
    pub(super) body_time: Duration,
    /// Time in which a client must read at least one byte of a pending response.
    pub(super) write_time: Duration,
    /// Maximum size of a request's headers in bytes.
    pub(super) header_bytes: usize,
    /// Maximum number of headers of a request.
    pub(super) headers: usize,
    /// Maximum number of connections without an authorized request. A further one replaces the oldest.
    pub(super) unauthorized: usize,
    /// Maximum number of connections that have sent an authorized request. A request on a further one is answered with 503.
    pub(super) authorized: usize,
    /// Pause after an error of `accept`, such as too many open files.
    pub(super) accept_pause: Duration,
}

impl Limits {
    /// The defaults, and at most a quarter of the process's open files for either kind of connections.
    pub(super) fn of_process() -> Limits {
        let open_files = getrlimit(Resource::Nofile).current;
        Limits {
            header_time: Duration::from_secs(15),
            body_time: Duration::from_secs(10),
            write_time: Duration::from_secs(30),
            header_bytes: 16 << 10,
            headers: 64,
            unauthorized: quarter(open_files, MAX_UNAUTHORIZED),
            authorized: quarter(open_files, MAX_AUTHORIZED),
            accept_pause: Duration::from_millis(200),
        }
    }

    /// Maximum number of requests that wait for a user.
    pub(super) fn waiters(&self) -> usize {
        self.authorized.saturating_sub(SPARE_CONNECTIONS).max(self.authorized / 2)
    }
}

fn quarter(open_files: Option<u64>, most: usize) -> usize {
    let quarter = open_files.and_then(|files| usize::try_from(files / 4).ok());
    quarter.map_or(most, |quarter| quarter.clamp(1, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_use_at_most_a_quarter_of_the_open_files() {
        assert_eq!(
            [None, Some(1 << 20), Some(1_024), Some(2)].map(|files| quarter(files, 4_608)),
            [4_608, 4_608, 256, 1]
        );
        let waiters = |authorized| Limits { authorized, ..Limits::of_process() }.waiters();
        assert_eq!([4_608, 1_024, 256].map(waiters), [4_096, 512, 128]);
    }
}
