//! Inspects everything that a server sends before tokio-postgres buffers it.
//!
//! A server, or an attacker between it and us, may ask for the password in clear text, announce a message of
//! a gigabyte, or send without end. tokio-postgres believes all of it. The guard reads the header of every
//! message (manual: "Message Formats") and fails the read before too much has arrived.

use super::PgUrl;
use super::stream::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsStream};
use tokio_postgres::types::Type;

/// Whose server it is, which decides what it may send after the login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The operator's own: source and state. A row has the size of a user's row, which has no limit.
    Operator,
    /// A tenant's. Every message and every answer is bounded.
    Tenant,
}

/// A stream that fails when the server sends what it must not.
pub(crate) struct Guard {
    stream: Stream,
    watch: Option<Watch>,
}

impl Guard {
    pub(crate) fn new(stream: Stream, url: &PgUrl, trust: Trust) -> Self {
        let watch = Some(Watch::new(!stream.is_private(url), trust));
        Guard { stream, watch }
    }
}

/// Why the guard ended a connection. The texts are shown as reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GuardError {
    /// The password would be readable on the way.
    #[error("{CLEARTEXT}")]
    Cleartext,
    /// The peer is not PostgreSQL, but for example a web server.
    #[error("a message of {0} bytes during the login")]
    NotPostgres(usize),
    /// The server sends more than is accepted.
    #[error("the server sent {what} of {bytes} bytes, more than the limit of {limit} bytes")]
    TooMuch {
        /// The kind of message.
        what: &'static str,
        bytes: usize,
        limit: usize,
    },
    /// tokio-postgres would read the type from the server's catalog, level by level.
    #[error("the server answered with a column of a type that is not built in (object id {0})")]
    ForeignType(u32),
}

impl GuardError {
    /// The guard's error in an error of tokio-postgres, if the guard caused it.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Option<GuardError> {
        let io: &io::Error = error.source()?.downcast_ref()?;
        io.get_ref()?.downcast_ref().copied()
    }

    fn kind(self) -> io::ErrorKind {
        match self {
            GuardError::Cleartext => io::ErrorKind::PermissionDenied,
            GuardError::NotPostgres(_) | GuardError::TooMuch { .. } | GuardError::ForeignType(_) => {
                io::ErrorKind::InvalidData
            }
        }
    }
}

impl From<GuardError> for io::Error {
    fn from(error: GuardError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

/// Why a login fails whose password would be readable on the way, and the remedy.
pub(crate) const CLEARTEXT: &str = "the server asks for the password in clear text, and the connection is not \
    verified TLS; set sslmode=verify-full (and sslrootcert, if the certificate's authority is a private one)";

/// The longest message before the login is done. libpq has a similar limit.
pub(crate) const MAX_LOGIN_MESSAGE: usize = 64 << 10;
/// The most bytes before the login is done, so that notices cannot continue for ever.
pub(crate) const MAX_LOGIN_BYTES: usize = 1 << 20;
/// The longest row of a target. users-sync reads ids, counts and checkpoints from it, and profiles for the API.
pub(crate) const MAX_ROW: usize = 2 << 20;
/// The longest other message of a target: an error, a notice, a list of columns.
const MAX_MESSAGE: usize = 256 << 10;
/// The most bytes of one answer of a target. Notices between two answers count as well.
pub(crate) const MAX_ANSWER: usize = 4 << 20;

/// Tag and length.
const HEADER_LENGTH: usize = 5;
/// The kind of an authentication message.
const KIND_LENGTH: usize = 4;
const AUTHENTICATION_OK: u32 = 0;
const AUTHENTICATION_CLEARTEXT: u32 = 3;

mod tag {
    pub(super) const AUTHENTICATION: u8 = b'R';
    pub(super) const DATA_ROW: u8 = b'D';
    pub(super) const ERROR: u8 = b'E';
    pub(super) const NOTICE: u8 = b'N';
    pub(super) const PARAMETER_STATUS: u8 = b'S';
    pub(super) const READY_FOR_QUERY: u8 = b'Z';
    pub(super) const ROW_DESCRIPTION: u8 = b'T';
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    LoggingIn,
    /// AuthenticationOk has arrived.
    LoggedIn,
}

/// Parses messages from pieces of any size.
struct Watch {
    state: State,
    trust: Trust,
    refuses_cleartext: bool,
    header: [u8; HEADER_LENGTH],
    filled: usize,
    /// Bytes of the current message that are still to come.
    rest: usize,
    /// The body of the current message, if its content is inspected.
    body: Option<Vec<u8>>,
    /// Bytes since the last ReadyForQuery.
    answer: usize,
}

impl Watch {
    fn new(refuses_cleartext: bool, trust: Trust) -> Self {
        Watch {
            state: State::LoggingIn,
            trust,
            refuses_cleartext,
            header: [0; HEADER_LENGTH],
            filled: 0,
            rest: 0,
            body: None,
            answer: 0,
        }
    }

    fn see(&mut self, mut bytes: &[u8]) -> Result<(), GuardError> {
        while !bytes.is_empty() {
            if self.filled < HEADER_LENGTH {
                self.header[self.filled] = bytes[0];
                self.filled += 1;
                bytes = &bytes[1..];
                if self.filled == HEADER_LENGTH {
                    self.begin()?;
                }
                continue;
            }
            let (now, later) = bytes.split_at(self.rest.min(bytes.len()));
            if let Some(body) = &mut self.body {
                body.extend_from_slice(now);
            }
            self.rest -= now.len();
            bytes = later;
            if self.rest == 0 {
                self.end()?;
            }
        }
        Ok(())
    }

    /// A header is complete: checks the announced length.
    fn begin(&mut self) -> Result<(), GuardError> {
        let [tag, length @ ..] = self.header;
        let length = u32::from_be_bytes(length) as usize;
        if length < 4 || self.state == State::LoggingIn && length > MAX_LOGIN_MESSAGE {
            return Err(GuardError::NotPostgres(length));
        }
        self.answer = self.answer.saturating_add(length + 1);
        if self.state == State::LoggingIn {
            check("messages during the login", self.answer, MAX_LOGIN_BYTES)?;
        } else if self.trust == Trust::Tenant {
            match tag {
                tag::DATA_ROW => check("a row", length, MAX_ROW)?,
                tag::ERROR => check("an error", length, MAX_MESSAGE)?,
                tag::NOTICE => check("a notice", length, MAX_MESSAGE)?,
                tag::PARAMETER_STATUS => check("a parameter status", length, MAX_MESSAGE)?,
                _ => check("a message", length, MAX_MESSAGE)?,
            }
            check("an answer", self.answer, MAX_ANSWER)?;
        }
        self.rest = length - 4;
        let is_inspected = match tag {
            tag::AUTHENTICATION => self.state == State::LoggingIn,
            tag::ROW_DESCRIPTION => self.trust == Trust::Tenant,
            _ => false,
        };
        self.body = is_inspected.then(Vec::new);
        if self.rest == 0 { self.end() } else { Ok(()) }
    }

    /// A message is complete.
    fn end(&mut self) -> Result<(), GuardError> {
        self.filled = 0;
        let body = self.body.take();
        match (self.header[0], body) {
            (tag::READY_FOR_QUERY, _) => self.answer = 0,
            (tag::AUTHENTICATION, Some(body)) => match kind_of_authentication(&body)? {
                AUTHENTICATION_OK => self.state = State::LoggedIn,
                AUTHENTICATION_CLEARTEXT if self.refuses_cleartext => return Err(GuardError::Cleartext),
                _ => {}
            },
            (tag::ROW_DESCRIPTION, Some(body)) => {
                if let Some(foreign) = column_types(&body).find(|oid| Type::from_oid(*oid).is_none()) {
                    return Err(GuardError::ForeignType(foreign));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the rest of the connection needs no inspection.
    fn is_done(&self) -> bool {
        self.state == State::LoggedIn && self.trust == Trust::Operator
    }
}

fn check(what: &'static str, bytes: usize, limit: usize) -> Result<(), GuardError> {
    if bytes > limit { Err(GuardError::TooMuch { what, bytes, limit }) } else { Ok(()) }
}

fn kind_of_authentication(body: &[u8]) -> Result<u32, GuardError> {
    let kind = body.first_chunk::<KIND_LENGTH>().ok_or(GuardError::NotPostgres(body.len() + 4))?;
    Ok(u32::from_be_bytes(*kind))
}

/// The types of the columns of a RowDescription. A malformed message ends early; tokio-postgres refuses it.
fn column_types(body: &[u8]) -> impl Iterator<Item = u32> + '_ {
    /// The column's name is followed by table, column number, type, size, modifier and format.
    const TYPE_AT: usize = 6;
    const FIELD_LENGTH: usize = 18;
    let mut rest = body.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let name = rest.iter().position(|byte| *byte == 0)?;
        let field = rest.get(name + 1..name + 1 + FIELD_LENGTH)?;
        rest = &rest[name + 1 + FIELD_LENGTH..];
        Some(u32::from_be_bytes(*field[TYPE_AT..].first_chunk()?))
    })
}

impl AsyncRead for Guard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(watch) = &mut self.watch {
            watch.see(&buf.filled()[before..])?;
            if watch.is_done() {
                self.watch = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guard {
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

impl TlsStream for Guard {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTICE: &[u8] = b"N\0\0\0\x0bR\0\0\0\x08\0\0";
    const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    const CLEARTEXT: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
    const READY: &[u8] = b"Z\0\0\0\x05I";

    /// The result must not depend on where the bytes are split.
    #[track_caller]
    fn check_all(trust: Trust, bytes: &[u8], expected: Result<(), GuardError>) {
        for size in [1, 2, 3, 5, 7, 64, 8192] {
            let mut watch = Watch::new(true, trust);
            let seen = bytes.chunks(size).try_for_each(|piece| watch.see(piece));
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    }

    fn row_description(types: &[u32]) -> Vec<u8> {
        let mut body = u16::try_from(types.len()).unwrap().to_be_bytes().to_vec();
        for oid in types {
            body.extend(b"name\0\0\0\0\0\0\0");
            body.extend(oid.to_be_bytes());
            body.extend([0; 8]);
        }
        message(tag::ROW_DESCRIPTION, &body)
    }

    fn too_much(what: &'static str, bytes: usize, limit: usize) -> Result<(), GuardError> {
        Err(GuardError::TooMuch { what, bytes, limit })
    }

    #[test]
    fn a_clear_text_password_request_is_found_across_reads() {
        for trust in [Trust::Operator, Trust::Tenant] {
            check_all(trust, CLEARTEXT, Err(GuardError::Cleartext));
            check_all(trust, &[NOTICE, SASL, CLEARTEXT].concat(), Err(GuardError::Cleartext));
            check_all(trust, &[NOTICE, SASL, OK].concat(), Ok(()));
            check_all(trust, SASL, Ok(()));
            check_all(trust, b"HTTP/1.1 400 Bad Request", Err(GuardError::NotPostgres(0x5454_502F)));
            check_all(trust, &[SASL, b"R\0\0\0\x03"].concat(), Err(GuardError::NotPostgres(3)));
            check_all(trust, b"R\0\0\0\x06\0\0", Err(GuardError::NotPostgres(6)));
        }
    }

    #[test]
    fn every_servers_login_is_bounded() {
        let long = [b"N".as_slice(), &u32::try_from(MAX_LOGIN_MESSAGE + 1).unwrap().to_be_bytes()].concat();
        let many = message(tag::NOTICE, &[0; 1019]).repeat(1025);
        for trust in [Trust::Operator, Trust::Tenant] {
            check_all(trust, &long, Err(GuardError::NotPostgres(MAX_LOGIN_MESSAGE + 1)));
            check_all(trust, &many, too_much("messages during the login", MAX_LOGIN_BYTES + 1024, MAX_LOGIN_BYTES));
        }
    }

    #[test]
    fn what_a_tenants_server_sends_after_the_login_is_bounded() {
        let announce =
            |tag: u8, length: usize| [OK, READY, &[tag], &u32::try_from(length).unwrap().to_be_bytes()].concat();
        for (tag, what, limit) in [
            (tag::DATA_ROW, "a row", MAX_ROW),
            (tag::ERROR, "an error", MAX_MESSAGE),
            (tag::NOTICE, "a notice", MAX_MESSAGE),
            (tag::PARAMETER_STATUS, "a parameter status", MAX_MESSAGE),
            (b'A', "a message", MAX_MESSAGE),
        ] {
            check_all(Trust::Tenant, &announce(tag, limit + 1), too_much(what, limit + 1, limit));
            check_all(Trust::Tenant, &announce(tag, limit), Ok(()));
            check_all(Trust::Operator, &announce(tag, limit + 1), Ok(()));
        }
        // The rows and ReadyForQuery stay within the limit.
        let rows = message(tag::DATA_ROW, &[0; 1019]).repeat(4095);
        let answer = [OK, READY, &rows, READY].concat();
        check_all(Trust::Tenant, &answer, Ok(()));
        check_all(Trust::Tenant, &[&answer[..], &rows, READY].concat(), Ok(()));
        let one_more = [OK, READY, &rows, &message(tag::DATA_ROW, &[0; 1019]).repeat(2)].concat();
        check_all(Trust::Tenant, &one_more, too_much("an answer", MAX_ANSWER + 1024, MAX_ANSWER));
        check_all(Trust::Operator, &one_more, Ok(()));
    }

    #[test]
    fn a_type_that_is_not_built_in_ends_a_tenants_connection() {
        let (text, int8, composite) = (25, 20, 16_384);
        let answer = |types: &[u32]| [OK, READY, &row_description(types)].concat();
        check_all(Trust::Tenant, &answer(&[]), Ok(()));
        check_all(Trust::Tenant, &answer(&[text, int8]), Ok(()));
        check_all(Trust::Tenant, &answer(&[text, composite]), Err(GuardError::ForeignType(composite)));
        check_all(Trust::Operator, &answer(&[text, composite]), Ok(()));
        check_all(Trust::Tenant, &[OK, READY, &message(tag::ROW_DESCRIPTION, b"\0\x01name")].concat(), Ok(()));
    }
}
