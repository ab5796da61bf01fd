//! Keeps a password from being sent in clear text over a network that others can read.
//!
//! tokio-postgres sends the password whenever the server asks for it (AuthenticationCleartextPassword), as an
//! attacker can do. This inspects every message of its stream until the login is done, and rejects peers that
//! are not PostgreSQL: tokio-postgres would wait for a message of up to a gigabyte.

use super::stream::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};

/// A stream that fails when the server asks for a password in clear text.
pub(crate) struct CleartextGuard {
    stream: Stream,
    watch: Option<Watch>,
}

impl CleartextGuard {
    /// Inspects only streams that others can read.
    pub(crate) fn new(stream: Stream) -> Self {
        let watch = (!stream.is_private()).then(Watch::default);
        CleartextGuard { stream, watch }
    }
}

/// The text is shown as the reason of the failed login.
#[derive(Debug, thiserror::Error)]
#[error("the server asks for the password in clear text and the connection has no TLS; set sslmode=require or better")]
pub(crate) struct CleartextRefused;

/// The peer is not PostgreSQL, but for example a web server.
#[derive(Debug, thiserror::Error)]
#[error("a message of {0} bytes during the login")]
pub(crate) struct NotPostgres(usize);

/// Authentication messages (manual: "Message Formats"): `R`, length, kind.
const AUTHENTICATION: u8 = b'R';
const AUTHENTICATION_OK: u32 = 0;
const AUTHENTICATION_CLEARTEXT: u32 = 3;
/// Messages are short before the login is done. libpq has a similar limit.
const MAX_LOGIN_MESSAGE: usize = 64 << 10;
/// Tag, length, and the first four bytes of the body.
const HEADER_LENGTH: usize = 9;

/// Parses message headers from pieces of any size.
#[derive(Default)]
struct Watch {
    head: [u8; HEADER_LENGTH],
    filled: usize,
    /// Bytes of the current message after its header.
    skip: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Going,
    LoggedIn,
    Cleartext,
    NotPostgres(usize),
}

impl Watch {
    fn see(&mut self, mut bytes: &[u8]) -> Verdict {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.filled] = bytes[0];
            self.filled += 1;
            bytes = &bytes[1..];
            if self.filled < 5 {
                continue;
            }
            let [tag, a, b, c, d, word @ ..] = self.head;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            if !(4..=MAX_LOGIN_MESSAGE).contains(&length) {
                return Verdict::NotPostgres(length);
            }
            if tag != AUTHENTICATION {
                self.filled = 0;
                self.skip = length.saturating_sub(4);
            } else if self.filled == HEADER_LENGTH {
                self.filled = 0;
                self.skip = length.saturating_sub(8);
                match u32::from_be_bytes(word) {
                    AUTHENTICATION_OK => return Verdict::LoggedIn,
                    AUTHENTICATION_CLEARTEXT => return Verdict::Cleartext,
                    _ => {}
                }
            }
        }
        Verdict::Going
    }
}

impl AsyncRead for CleartextGuard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(watch) = &mut self.watch {
            match watch.see(&buf.filled()[before..]) {
                Verdict::Going => {}
                Verdict::LoggedIn => self.watch = None,
                Verdict::Cleartext => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, CleartextRefused)));
                }
                Verdict::NotPostgres(length) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, NotPostgres(length))));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CleartextGuard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl TlsStream for CleartextGuard {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict must not depend on where the bytes are split.
    fn check(bytes: &[u8], expected: Verdict) {
        for size in 1..=bytes.len() {
            let mut watch = Watch::default();
            let seen = bytes.chunks(size).map(|piece| watch.see(piece)).find(|verdict| *verdict != Verdict::Going);
            assert_eq!(seen.unwrap_or(Verdict::Going), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_clear_text_password_request_is_found_across_reads() {
        const NOTICE: &[u8] = b"N\0\0\0\x0bR\0\0\0\x08\0\0";
        const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
        const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
        const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
        check(CLEARTEXT, Verdict::Cleartext);
        check(&[NOTICE, SASL, CLEARTEXT].concat(), Verdict::Cleartext);
        check(&[NOTICE, SASL, OK].concat(), Verdict::LoggedIn);
        check(SASL, Verdict::Going);
        check(b"HTTP/1.1 400 Bad Request", Verdict::NotPostgres(0x5454_502F));
        check(&[SASL, b"R\0\0\0\x03"].concat(), Verdict::NotPostgres(3));
    }
}
