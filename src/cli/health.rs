//! `health`: queries the health endpoint of a running process. For container health checks: an image with only the binary has
//! no curl.

use super::common::FAILED;
use super::output::{self, Format};
use crate::cli::exit::ExitCode;
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::Args;
use serde::Serialize;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A healthy process answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Health responses are one line.
const MAX_RESPONSE_BYTES: u64 = 64 << 10;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Endpoint to query. /readyz: it streams, or is a standby that can take over. /healthz: it is alive.
    #[arg(long, default_value = "http://127.0.0.1:9187/readyz", value_name = "URL")]
    url: String,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Serialize)]
struct Document<'a> {
    url: &'a str,
    is_healthy: bool,
    answer: &'a str,
}

/// Prints the response. Exit code 0 if its status is 200.
pub(super) fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let url = &arguments.url;
    let HttpUrl { authority, path } = split_url(url)
        .ok_or_else(|| diagnostic!(help = "for example http://127.0.0.1:9187/readyz", "{url:?} is not an http URL"))?;
    let answer = get(authority, path).map_err(|error| diagnostic!("no answer from {url}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let is_healthy = head.split_ascii_whitespace().nth(1) == Some("200");
    output::result(body.trim_end(), &Document { url, is_healthy, answer: body.trim_end() })?;
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

#[derive(Debug, PartialEq)]
struct HttpUrl<'a> {
    /// `host:port`.
    authority: &'a str,
    path: &'a str,
}

fn split_url(url: &str) -> Option<HttpUrl<'_>> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    (!authority.is_empty() && !url.contains(char::is_whitespace)).then_some(HttpUrl { authority, path })
}

/// With HTTP/1.0 the server closes the connection after the response.
fn get(authority: &str, path: &str) -> std::io::Result<String> {
    let is_complete = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let addresses =
        if is_complete { authority.to_socket_addrs()? } else { format!("{authority}:80").to_socket_addrs()? };
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                write!(stream, "GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: application/json\r\n\r\n")?;
                let mut answer = String::new();
                stream.take(MAX_RESPONSE_BYTES).read_to_string(&mut answer)?;
                return Ok(answer);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_split_into_its_parts() {
        let readyz = HttpUrl { authority: "127.0.0.1:9187", path: "/readyz" };
        assert_eq!(split_url("http://127.0.0.1:9187/readyz"), Some(readyz));
        assert_eq!(split_url("http://[::1]:1"), Some(HttpUrl { authority: "[::1]:1", path: "/" }));
        for no in ["https://h/", "http:///x", "h:1/x", "http://h/a b", "http://h/\r\nX: y"] {
            assert_eq!(split_url(no), None, "{no}");
        }
    }
}
