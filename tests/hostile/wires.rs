//! What the scripted servers do: each breaks the protocol or the patience of its client at another point.

use super::fake::{Act, Row, When, before_rows, message_of};

/// A behaviour with its name.
pub type Wire = (&'static str, When, Act);

const GIGABYTES: u32 = 2_000_000_000;
const MEGABYTES: u32 = 100_000_000;
/// The first statement of every connection.
const FIRST: When = When::Asked("SHOW search_path");
/// The statement that finds our tables.
const OPENING: When = When::Asked("to_regclass('users_sync.checkpoint')");
const FENCING: When = When::Asked("LOCK TABLE users_sync.checkpoint");
/// After silence, rows are written by statements instead of COPY.
const COPYING: When = When::Asked("COPY neon_auth.users_sync|INSERT INTO neon_auth.users_sync");
const COMMITTING: When = When::Asked("INSERT INTO users_sync.checkpoint");

const TEXT: u32 = 25;

fn error(code: &str) -> Vec<u8> {
    message_of(b'E', format!("SFATAL\0VFATAL\0C{code}\0Mhostile\0\0").as_bytes())
}

fn row() -> Vec<u8> {
    message_of(b'D', b"\0\x01\0\0\0\x01x")
}

/// One list for each scripted server.
pub fn wires() -> [Vec<Wire>; 4] {
    let notice = message_of(b'N', b"SNOTICE\0C00000\0Mhostile\0\0");
    let status = message_of(b'S', b"TimeZone\0hostile\0");
    let ready = message_of(b'Z', b"I");
    let many_columns = {
        let mut body = i16::MAX.to_be_bytes().to_vec();
        body.extend([0; 19].repeat(i16::MAX as usize));
        [message_of(b'1', b""), message_of(b'2', b""), message_of(b'T', &body)].concat()
    };
    [
        vec![
            ("an error of 100 MB instead of a login", When::LoggingIn, Act::Flood(vec![], b'E', MEGABYTES)),
            ("an authentication message of 2 GB", When::LoggingIn, Act::Flood(vec![], b'R', GIGABYTES)),
            ("notices without end during the login", When::LoggingIn, Act::Repeat(vec![], notice.clone())),
            ("silence during the login", When::LoggingIn, Act::Send(vec![])),
            ("an error of 100 MB", OPENING, Act::Flood(vec![], b'E', MEGABYTES)),
            ("rows without end", OPENING, Act::Repeat(before_rows(TEXT), row())),
            ("a row of 2 GB", OPENING, Act::Flood(before_rows(TEXT), b'D', GIGABYTES)),
            ("NULL in every column", FIRST, Act::Rows(Row::Nulls)),
            ("a column of a foreign type", OPENING, Act::Send(before_rows(99_999))),
        ],
        vec![
            ("the login, a byte a second", When::LoggingIn, Act::Trickle(message_of(b'R', &[0; 4]))),
            ("the end at the request for TLS", When::AskedForTls, Act::SendAndClose(vec![])),
            ("an error instead of TLS", When::AskedForTls, Act::Flood(vec![], b'E', MEGABYTES)),
            ("TLS that is none", When::AskedForTls, Act::Send([b"S".as_slice(), &[0x16; 4096]].concat())),
            ("a notice of 100 MB", FENCING, Act::Flood(vec![], b'N', MEGABYTES)),
            ("half a message and silence", OPENING, Act::Send(b"T\0\0\0\x40\0\x01nam".to_vec())),
            ("rows without columns", FIRST, Act::Rows(Row::Empty)),
            ("rows with 32,767 columns", FIRST, Act::Rows(Row::Wide)),
            ("no reading during COPY", COPYING, Act::StopReading),
        ],
        vec![
            ("a web server", When::LoggingIn, Act::SendAndClose(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
            ("a negative length", When::LoggingIn, Act::Send(b"R\xff\xff\xff\xff".to_vec())),
            ("an SQLSTATE of one character", When::LoggingIn, Act::SendAndClose(error("X"))),
            ("an error without fields", When::LoggingIn, Act::SendAndClose(message_of(b'E', b"\0"))),
            ("a parameter status of 100 MB", OPENING, Act::Flood(vec![], b'S', MEGABYTES)),
            ("columns with negative lengths", FIRST, Act::Rows(Row::NegativeLengths)),
            ("columns beyond the end of the row", FIRST, Act::Rows(Row::BeyondTheEnd)),
            ("an SQLSTATE of one character while opened", OPENING, Act::SendAndClose(error("X"))),
            ("silence during COPY, and no answer to a cancel request", COPYING, Act::Send(vec![])),
        ],
        vec![
            ("the end after the startup message", When::LoggingIn, Act::SendAndClose(vec![])),
            (
                "the same authentication request without end",
                When::LoggingIn,
                Act::Repeat(vec![], message_of(b'R', b"\0\0\0\x0bx")),
            ),
            ("parameters without end", OPENING, Act::Repeat(vec![], status)),
            ("ReadyForQuery without end", OPENING, Act::Repeat(vec![], ready)),
            ("a row description of 32,767 columns", OPENING, Act::Send(many_columns)),
            ("bytes that are no text", FIRST, Act::Rows(Row::NotUtf8)),
            ("a row of 2 GB instead of COPY", COPYING, Act::Flood(vec![], b'd', GIGABYTES)),
            (
                "an impossible number of rows",
                OPENING,
                Act::Send([before_rows(TEXT), message_of(b'C', b"SELECT 99999999999999999999\0")].concat()),
            ),
            ("the end before the commit", COMMITTING, Act::SendAndClose(vec![])),
        ],
    ]
}
