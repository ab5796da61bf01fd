//! The stream of changes after START_REPLICATION (manual: "Streaming Replication Protocol"): receives frames
//! and sends status updates. Designed for many small frames: reads are large, and a frame is a slice of a
//! read, not a copy.

use super::CaptureError;
use super::wire::{HEADER_LENGTH, MAX_MESSAGE_LENGTH, MessageHeader, read_header};
use crate::model::{Lsn, Timestamp};
use crate::pg::{ServerError, Stream};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, ERROR_RESPONSE_TAG, Message, NOTICE_RESPONSE_TAG,
    PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// Size of one read: some hundred small changes, and little compared with a tenant's budget.
const READ_SIZE: usize = 128 << 10;
/// With less free space than this, a new buffer is allocated before the next read.
const MIN_READ_SPACE: usize = 16 << 10;

/// First byte of CopyData: XLogData and primary keepalive.
const XLOG_DATA: u8 = b'w';
const KEEPALIVE: u8 = b'k';
/// First byte of a standby status update.
const STATUS_UPDATE: u8 = b'r';
/// Kind, start, end, clock.
const XLOG_DATA_HEAD: usize = 25;
/// Kind, end, clock, reply requested.
const KEEPALIVE_LENGTH: usize = 18;

/// A frame of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A pgoutput message.
    XLogData {
        /// Position in the log; zero for messages without one, such as Relation.
        wal_start: Lsn,
        /// How far the server has read its log.
        wal_end: Lsn,
        /// When it was sent, by the server's clock.
        sent_at: Timestamp,
        /// The message. It keeps the whole read of 128 kB or more in memory: copy from it instead of storing
        /// it.
        data: Bytes,
    },
    /// A sign of life without data.
    Keepalive {
        /// How far the server has read its log.
        wal_end: Lsn,
        /// When it was sent, by the server's clock.
        sent_at: Timestamp,
        /// The server wants an immediate status update, or it will close the connection.
        reply_requested: bool,
    },
    /// The stream has ended and the slot is free: after [`ReplicationWriter::finish`], or because the server
    /// shuts down.
    Ended,
}

/// The receiving half of the stream.
pub struct ReplicationReader {
    stream: ReadHalf<Stream>,
    buffer: BytesMut,
}

impl ReplicationReader {
    pub(super) fn new(stream: ReadHalf<Stream>, buffer: BytesMut) -> Self {
        ReplicationReader { stream, buffer }
    }

    /// Receives the next frame, without a time limit: request a keepalive with a status update.
    ///
    /// Cancel-safe: received bytes stay in the buffer for the next call.
    pub async fn next(&mut self) -> Result<Frame, CaptureError> {
        loop {
            if let Some(frame) = self.try_next()? {
                return Ok(frame);
            }
            make_room(&mut self.buffer)?;
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(CaptureError::Closed);
            }
        }
    }

    /// Returns a frame that is completely received; `None` if the next one has to be waited for.
    pub fn try_next(&mut self) -> Result<Option<Frame>, CaptureError> {
        take_frame(&mut self.buffer)
    }
}

/// Reserves space for the rest of a large frame, or for many small ones. A large frame whose rest has space is not copied
/// to make a read larger.
fn make_room(buffer: &mut BytesMut) -> Result<(), CaptureError> {
    let length = read_header(buffer, MAX_MESSAGE_LENGTH)?.map_or(HEADER_LENGTH, |header| header.length);
    let missing = length.saturating_sub(buffer.len());
    let wanted = if buffer.len() > READ_SIZE { missing } else { missing.max(MIN_READ_SPACE) };
    if buffer.capacity() - buffer.len() < wanted {
        buffer.reserve(missing.max(READ_SIZE));
    }
    Ok(())
}

/// Splits off the next frame, skipping other messages. Pure.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, CaptureError> {
    loop {
        let Some(MessageHeader { tag, length }) = read_header(buffer, MAX_MESSAGE_LENGTH)? else { return Ok(None) };
        if buffer.len() < length {
            return Ok(None);
        }
        match tag {
            COPY_DATA_TAG => {
                let mut frame = buffer.split_to(length).freeze();
                frame.advance(HEADER_LENGTH);
                return parse_copy_data(frame).map(Some);
            }
            ERROR_RESPONSE_TAG => {
                return Err(match Message::parse(buffer) {
                    Ok(Some(Message::ErrorResponse(body))) => {
                        CaptureError::Server(Box::new(ServerError::parse(body.fields())))
                    }
                    _ => CaptureError::protocol("an error that cannot be parsed"),
                });
            }
            // CopyDone answers ours; the slot is free only after CommandComplete. A server that shuts down
            // sends CommandComplete alone.
            COMMAND_COMPLETE_TAG => {
                buffer.advance(length);
                return Ok(Some(Frame::Ended));
            }
            COPY_DONE_TAG | NOTICE_RESPONSE_TAG | PARAMETER_STATUS_TAG | READY_FOR_QUERY_TAG => buffer.advance(length),
            other => {
                return Err(CaptureError::Protocol(format!(
                    "unexpected message {:?} in the stream",
                    char::from(other)
                )));
            }
        }
    }
}

fn parse_copy_data(mut data: Bytes) -> Result<Frame, CaptureError> {
    let kind = data.first().copied().unwrap_or_default();
    let lsn = |data: &mut Bytes| Lsn(data.get_u64());
    match kind {
        XLOG_DATA if data.len() >= XLOG_DATA_HEAD => {
            data.advance(1);
            let (wal_start, wal_end) = (lsn(&mut data), lsn(&mut data));
            let sent_at = Timestamp(data.get_i64());
            Ok(Frame::XLogData { wal_start, wal_end, sent_at, data })
        }
        KEEPALIVE if data.len() == KEEPALIVE_LENGTH => {
            data.advance(1);
            let wal_end = lsn(&mut data);
            let sent_at = Timestamp(data.get_i64());
            Ok(Frame::Keepalive { wal_end, sent_at, reply_requested: data.get_u8() != 0 })
        }
        other => Err(CaptureError::Protocol(format!(
            "unexpected CopyData of kind {:?} and {} bytes",
            char::from(other),
            data.len()
        ))),
    }
}

/// The positions of a standby status update (manual: Streaming Replication Protocol, "Standby status update").
#[derive(Clone, Copy, Debug)]
pub struct StatusUpdate {
    /// Everything before this position was received.
    pub written: Lsn,
    /// Everything before this position is durable: the slot moves to it.
    pub flushed: Lsn,
    /// Everything before this position was applied.
    pub applied: Lsn,
}

/// The sending half of the stream.
pub struct ReplicationWriter {
    stream: WriteHalf<Stream>,
    /// Bytes not sent yet, so that a dropped call does not leave half a message behind.
    outgoing: BytesMut,
}

impl ReplicationWriter {
    pub(super) fn new(stream: WriteHalf<Stream>) -> Self {
        ReplicationWriter { stream, outgoing: BytesMut::new() }
    }

    /// Sends a standby status update.
    ///
    /// Cancel-safe: the next call finishes a message that was begun.
    pub async fn status(
        &mut self,
        update: StatusUpdate,
        now: Timestamp,
        reply_requested: bool,
    ) -> Result<(), CaptureError> {
        put_status(&mut self.outgoing, update, now, reply_requested);
        self.drain().await
    }

    /// Ends the stream (CopyDone). The reader receives what is under way, then [`Frame::Ended`].
    pub async fn finish(&mut self) -> Result<(), CaptureError> {
        frontend::copy_done(&mut self.outgoing);
        self.drain().await
    }

    /// Closes the connection with Terminate, so that the server logs no error. The stream may still be
    /// running.
    pub async fn terminate(mut self) -> Result<(), CaptureError> {
        frontend::terminate(&mut self.outgoing);
        self.drain().await?;
        Ok(self.stream.shutdown().await?)
    }

    async fn drain(&mut self) -> Result<(), CaptureError> {
        while self.outgoing.has_remaining() {
            if self.stream.write_buf(&mut self.outgoing).await? == 0 {
                return Err(CaptureError::Closed);
            }
        }
        Ok(self.stream.flush().await?)
    }
}

fn put_status(out: &mut BytesMut, update: StatusUpdate, now: Timestamp, reply_requested: bool) {
    /// Kind, three positions, clock, reply requested.
    const LENGTH: u32 = 1 + 3 * 8 + 8 + 1;
    out.put_u8(COPY_DATA_TAG);
    out.put_u32(4 + LENGTH);
    out.put_u8(STATUS_UPDATE);
    for position in [update.written, update.flushed, update.applied] {
        out.put_u64(position.0);
    }
    out.put_i64(now.0);
    out.put_u8(u8::from(reply_requested));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
    }

    fn xlog_data(wal_start: u64, data: &[u8]) -> Vec<u8> {
        let numbers = [wal_start, wal_start + 1, 7].map(u64::to_be_bytes).concat();
        message(COPY_DATA_TAG, &[&[XLOG_DATA], &numbers[..], data].concat())
    }

    fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
        let numbers = [wal_end, 8].map(u64::to_be_bytes).concat();
        message(COPY_DATA_TAG, &[&[KEEPALIVE], &numbers[..], &[reply]].concat())
    }

    fn frames(buffer: &mut BytesMut) -> Vec<Frame> {
        std::iter::from_fn(|| take_frame(buffer).expect("a frame")).collect()
    }

    /// The last read of a frame can end at any byte.
    #[test]
    fn a_large_frame_is_received_into_one_buffer() {
        const LARGE: usize = 4 << 20;
        let frame = xlog_data(100, &vec![7; LARGE]);
        for missing in [1, 100, MIN_READ_SPACE - 1, MIN_READ_SPACE, READ_SIZE + 1] {
            let mut buffer = BytesMut::new();
            for part in [&frame[..HEADER_LENGTH + 1], &frame[HEADER_LENGTH + 1..frame.len() - missing]] {
                make_room(&mut buffer).unwrap();
                assert!(buffer.capacity() - buffer.len() >= part.len());
                buffer.extend_from_slice(part);
            }
            let capacity = buffer.capacity();
            make_room(&mut buffer).unwrap();
            assert_eq!(buffer.capacity(), capacity, "{missing} bytes missing");
            buffer.extend_from_slice(&frame[frame.len() - missing..]);
            assert_eq!(frames(&mut buffer).len(), 1);
        }
    }

    #[test]
    fn frames_do_not_depend_on_how_the_bytes_are_split() {
        let bytes = [
            xlog_data(100, b"first"),
            message(NOTICE_RESPONSE_TAG, b"\0"),
            keepalive(200, 1),
            xlog_data(300, b""),
            message(COPY_DONE_TAG, b""),
            message(COMMAND_COMPLETE_TAG, b"COPY 0\0"),
        ]
        .concat();
        let data = |start, data: &'static [u8]| Frame::XLogData {
            wal_start: Lsn(start),
            wal_end: Lsn(start + 1),
            sent_at: Timestamp(7),
            data: Bytes::from_static(data),
        };
        let expected = [
            data(100, b"first"),
            Frame::Keepalive { wal_end: Lsn(200), sent_at: Timestamp(8), reply_requested: true },
            data(300, b""),
            Frame::Ended,
        ];
        for size in 1..=bytes.len() {
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                buffer.extend_from_slice(piece);
                seen.extend(frames(&mut buffer));
            }
            assert_eq!(seen, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_is_a_slice_of_what_was_read() {
        let mut buffer = BytesMut::from(&[xlog_data(1, b"one"), xlog_data(2, b"two")].concat()[..]);
        let read = buffer.as_ptr_range();
        for frame in frames(&mut buffer) {
            let Frame::XLogData { data, .. } = frame else { panic!("not data") };
            assert!(read.contains(&data.as_ptr()));
        }
    }

    #[test]
    fn a_server_error_ends_the_stream_with_that_error() {
        let body = b"SFEHLER\0VERROR\0C42704\0Mpublication \"p\" does not exist\0Hmake it\0\0";
        let mut buffer = BytesMut::from(&message(ERROR_RESPONSE_TAG, body)[..]);
        let error = take_frame(&mut buffer).expect_err("an error");
        assert_eq!(error.sqlstate(), Some("42704"));
        let CaptureError::Server(error) = error else { panic!("another kind") };
        assert_eq!((&*error.severity, error.hint.as_deref()), ("ERROR", Some("make it")));
    }

    #[test]
    fn a_malformed_frame_is_refused() {
        let check = |bytes: &[u8]| {
            let mut buffer = BytesMut::from(bytes);
            assert!(matches!(take_frame(&mut buffer), Err(CaptureError::Protocol(_))), "{bytes:?}");
        };
        check(&message(COPY_DATA_TAG, b""));
        check(&message(COPY_DATA_TAG, b"w123"));
        check(&message(COPY_DATA_TAG, b"k123"));
        check(&message(COPY_DATA_TAG, b"?"));
        check(&message(b'!', b""));
        check(&[COPY_DATA_TAG, 0x7F, 0xFF, 0xFF, 0xFF]);
    }

    #[test]
    fn a_status_update_has_the_manuals_layout() {
        let mut out = BytesMut::new();
        let update = StatusUpdate { written: Lsn(3), flushed: Lsn(2), applied: Lsn(1) };
        put_status(&mut out, update, Timestamp(4), true);
        let numbers = [3u64, 2, 1, 4].map(u64::to_be_bytes).concat();
        assert_eq!(&out[..], message(b'd', &[b"r", &numbers[..], &[1]].concat()));
    }
}
