//! PostgreSQL's message framing, one message at a time: for the login and for commands. The stream of changes
//! has a faster implementation (`stream`), which takes over this buffer.

use super::CaptureError;
use crate::pg::{MAX_LOGIN_MESSAGE, ServerError, Stream};
use bytes::BytesMut;
use postgres_protocol::message::backend::{Header, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Tag, and a length that includes itself.
pub(super) const HEADER_LENGTH: usize = 5;
/// No row exceeds 1 GB (MaxAllocSize), so no message does; with some slack for its framing.
pub(super) const MAX_MESSAGE_LENGTH: usize = (1 << 30) + (1 << 20);
/// The only tag that `Message::parse` rejects (manual: "CopyBothResponse").
const COPY_BOTH_RESPONSE: u8 = b'W';

/// A message from the server.
pub(super) enum Reply {
    Message(Message),
    CopyBoth,
}

pub(super) struct MessageHeader {
    pub(super) tag: u8,
    /// Bytes of the whole message, with its header.
    pub(super) length: usize,
}

/// The header of the message at the start of the buffer; `None` until it is complete.
pub(super) fn read_header(buffer: &[u8], longest: usize) -> Result<Option<MessageHeader>, CaptureError> {
    let header = Header::parse(buffer).map_err(|error| CaptureError::protocol(error.to_string()))?;
    let Some(header) = header else { return Ok(None) };
    let length = usize::try_from(header.len()).unwrap_or(usize::MAX).saturating_add(1);
    if length > longest {
        let what = format!("message {:?} has {length} bytes, more than {longest}", char::from(header.tag()));
        return Err(CaptureError::Protocol(what));
    }
    Ok(Some(MessageHeader { tag: header.tag(), length }))
}

pub(super) struct Wire {
    pub(super) stream: Stream,
    pub(super) incoming: BytesMut,
    longest: usize,
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Wire { stream, incoming: BytesMut::new(), longest: MAX_LOGIN_MESSAGE }
    }

    pub(super) fn logged_in(&mut self) {
        self.longest = MAX_MESSAGE_LENGTH;
    }

    /// Sends the bytes that `write` puts into the buffer.
    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), CaptureError> {
        let mut message = BytesMut::new();
        write(&mut message)?;
        self.stream.write_all(&message).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Receives the next message. Notices and parameter changes are returned; an ErrorResponse becomes an
    /// error.
    pub(super) async fn receive(&mut self) -> Result<Reply, CaptureError> {
        let MessageHeader { tag, length } = loop {
            let known = read_header(&self.incoming, self.longest)?;
            match known {
                Some(header) if self.incoming.len() >= header.length => break header,
                Some(header) => self.incoming.reserve(header.length - self.incoming.len()),
                None => self.incoming.reserve(HEADER_LENGTH),
            }
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(CaptureError::Closed);
            }
        };
        if tag == COPY_BOTH_RESPONSE {
            // The body lists the columns' formats, which a walsender's client does not need.
            let _ = self.incoming.split_to(length);
            return Ok(Reply::CopyBoth);
        }
        match Message::parse(&mut self.incoming) {
            Ok(Some(Message::ErrorResponse(body))) => {
                Err(CaptureError::Server(Box::new(ServerError::parse(body.fields()))))
            }
            Ok(Some(message)) => Ok(Reply::Message(message)),
            Ok(None) => Err(CaptureError::protocol("an incomplete message")),
            Err(error) => Err(CaptureError::protocol(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_length_above_the_limit_is_refused() {
        let header = |length: u32| [&b"d"[..], &length.to_be_bytes()].concat();
        let check = |length, expected: Option<usize>| {
            let seen = read_header(&header(length), 1000).ok().flatten().map(|header| header.length);
            assert_eq!(seen, expected, "{length}");
        };
        check(4, Some(5));
        check(999, Some(1000));
        check(1000, None);
        check(3, None);
        check(u32::MAX, None);
        assert!(matches!(read_header(b"d\0\0", 1000), Ok(None)));
    }
}
