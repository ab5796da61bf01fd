//! `health`: asks a running process over HTTP how it is. For container health checks: an image that holds nothing but the
//! binary has no curl.

use super::common::FAILED;
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::Args;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// A healthy process answers within milliseconds; whoever asks gives up after a few seconds.
const PATIENCE: Duration = Duration::from_secs(3);
/// Its answers are a line.
const LONGEST_ANSWER: u64 = 64 << 10;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Endpoint to query. /readyz: it streams, or is a standby that can take over. /healthz: it is alive.
    #[arg(long, default_value = "http://127.0.0.1:9187/readyz", value_name = "URL")]
    url: String,
}

/// Exit code 0: the answer's status is 200. The answer is printed in any case.
pub(super) fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let url = &arguments.url;
    let (authority, path) = parts(url)
        .ok_or_else(|| diagnostic!(help = "for example http://127.0.0.1:9187/readyz", "{url:?} is not an http URL"))?;
    let answer = get(authority, path).map_err(|error| diagnostic!("no answer from {url}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    println!("{}", body.trim_end());
    let status = head.split_ascii_whitespace().nth(1);
    Ok(if status == Some("200") { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// `host:port` and the path.
fn parts(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    (!authority.is_empty() && !url.contains(char::is_whitespace)).then_some((authority, path))
}

/// HTTP/1.0: the server closes the connection behind its answer.
fn get(authority: &str, path: &str) -> std::io::Result<String> {
    let is_complete = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let addresses =
        if is_complete { authority.to_socket_addrs()? } else { format!("{authority}:80").to_socket_addrs()? };
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE))?;
                write!(stream, "GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: application/json\r\n\r\n")?;
                let mut answer = String::new();
                stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
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
        assert_eq!(parts("http://127.0.0.1:9187/readyz"), Some(("127.0.0.1:9187", "/readyz")));
        assert_eq!(parts("http://[::1]:1"), Some(("[::1]:1", "/")));
        for no in ["https://h/", "http:///x", "h:1/x", "http://h/a b", "http://h/\r\nX: y"] {
            assert_eq!(parts(no), None, "{no}");
        }
    }
}
