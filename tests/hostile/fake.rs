//! A scripted PostgreSQL server. It relays a real database until a chosen moment, and then breaks the protocol (manual:
//! "Message Formats") or the patience of its client.

use crate::support::let_pass;
use bytes::{BufMut, BytesMut};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

const SSL_REQUEST: u32 = 80_877_103;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Bytes of one write of a flood.
const PIECE: usize = 64 << 10;
/// No text of [`When::Asked`] is longer.
const LONGEST_TEXT: usize = 100;

/// The moment at which the script begins.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Instead of an answer to the request for TLS.
    AskedForTls,
    /// Instead of an answer to the startup message.
    LoggingIn,
    /// When the client has sent this text, or one of several between `|`, which is not forwarded.
    Asked(&'static str),
}

/// What the server does then.
#[derive(Clone, Debug)]
pub enum Act {
    /// These bytes, and then nothing, on an open connection.
    Send(Vec<u8>),
    /// These bytes, and then the end of the connection.
    SendAndClose(Vec<u8>),
    /// These bytes first, and the second ones without end.
    Repeat(Vec<u8>, Vec<u8>),
    /// These bytes, and a message with this tag that announces and sends this many bytes.
    Flood(Vec<u8>, u8, u32),
    /// One byte a second.
    Trickle(Vec<u8>),
    /// Nothing is read any more. What is written shows when the client has left.
    StopReading,
    /// The text is forwarded, and every row of an answer replaced by this.
    Rows(Row),
}

/// A row instead of the real one.
#[derive(Clone, Copy, Debug)]
pub enum Row {
    /// As many columns, all of them NULL.
    Nulls,
    /// No column.
    Empty,
    /// As many columns as a row can have, all of them NULL.
    Wide,
    /// As many columns, whose lengths are negative, but not that of NULL.
    NegativeLengths,
    /// As many columns, which are longer than the message.
    BeyondTheEnd,
    /// As many columns of bytes that are no text.
    NotUtf8,
}

#[derive(Clone, Debug)]
struct Script {
    when: When,
    act: Act,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    begun: usize,
    ended: usize,
}

/// A server on a port of 127.0.0.1. Dropping it ends its connections.
pub struct Fake {
    port: u16,
    script: Arc<Mutex<Option<Script>>>,
    counts: watch::Sender<Counts>,
    cuts: watch::Sender<()>,
    listening: AbortHandle,
}

impl Fake {
    /// Relays the server at port `upstream` of 127.0.0.1.
    pub async fn start(upstream: u16) -> Fake {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(None));
        let (counts, cuts) = (watch::Sender::default(), watch::Sender::default());
        let (of_each, ends, counting) = (script.clone(), cuts.clone(), counts.clone());
        let listen = async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let connection =
                    Connection { script: of_each.clone(), counts: counting.clone(), cut: ends.subscribe(), upstream };
                connections.spawn(connection.serve(client));
                while connections.try_join_next().is_some() {}
            }
        };
        Fake { port, script, counts, cuts, listening: tokio::spawn(listen).abort_handle() }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends the connections. The next one follows this script.
    pub fn follow(&self, when: When, act: Act) {
        self.set(Some(Script { when, act }));
    }

    /// Ends the connections. From now on the server only relays.
    pub fn relay(&self) {
        self.set(None);
    }

    fn set(&self, script: Option<Script>) {
        *self.script.lock().unwrap() = script;
        self.counts.send_replace(Counts::default());
        self.cuts.send_replace(());
    }

    /// How often the script has begun, and how often the client has left afterwards.
    pub fn counts(&self) -> (usize, usize) {
        let Counts { begun, ended } = *self.counts.borrow();
        (begun, ended)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

struct Connection {
    script: Arc<Mutex<Option<Script>>>,
    counts: watch::Sender<Counts>,
    cut: watch::Receiver<()>,
    upstream: u16,
}

impl Connection {
    async fn serve(mut self, client: TcpStream) {
        let mut cut = self.cut.clone();
        tokio::select! {
            // The other end may close at any time.
            _ = self.talk(client) => {}
            _ = cut.changed() => {}
        }
    }

    async fn talk(&mut self, mut client: TcpStream) -> io::Result<()> {
        let script = self.script.lock().unwrap().clone();
        let startup = loop {
            let length = client.read_u32().await?;
            let mut rest = vec![0; length.saturating_sub(4) as usize];
            client.read_exact(&mut rest).await?;
            let code = u32::from_be_bytes(*rest.first_chunk().unwrap_or(&[0; 4]));
            match (code, &script) {
                (SSL_REQUEST, Some(Script { when: When::AskedForTls, act })) => return self.act(client, act).await,
                (SSL_REQUEST, _) => client.write_all(b"N").await?,
                // It is never answered.
                (CANCEL_REQUEST, Some(_)) => std::future::pending().await,
                _ => break [&length.to_be_bytes()[..], &rest].concat(),
            }
        };
        if let Some(Script { when: When::LoggingIn, act }) = &script {
            return self.act(client, act).await;
        }
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream)).await?;
        server.write_all(&startup).await?;
        let needle = script.as_ref().and_then(|script| match script.when {
            When::Asked(texts) => Some((texts, &script.act)),
            When::AskedForTls | When::LoggingIn => None,
        });
        self.relay(client, server, needle).await
    }

    async fn relay(
        &mut self,
        mut client: TcpStream,
        mut server: TcpStream,
        needle: Option<(&str, &Act)>,
    ) -> io::Result<()> {
        let (mut asked, mut answer) = (BytesMut::with_capacity(PIECE), BytesMut::with_capacity(PIECE));
        // The end of what was forwarded: a text may come in two reads.
        let mut before = Vec::new();
        let mut row = None;
        loop {
            tokio::select! {
                read = client.read_buf(&mut asked) => {
                    if read? == 0 {
                        if row.is_some() {
                            self.counts.send_modify(|counts| counts.ended += 1);
                        }
                        return Ok(());
                    }
                    before.extend_from_slice(&asked);
                    let is_asked = |texts: &str| texts.split('|').any(|text| contains(&before, text.as_bytes()));
                    match needle.filter(|(texts, _)| row.is_none() && is_asked(texts)) {
                        Some((_, Act::Rows(instead))) => {
                            row = Some(*instead);
                            self.counts.send_modify(|counts| counts.begun += 1);
                        }
                        Some((_, act)) => return self.act(client, act).await,
                        None => {}
                    }
                    server.write_all(&asked).await?;
                    asked.clear();
                    before.drain(..before.len().saturating_sub(LONGEST_TEXT));
                }
                read = server.read_buf(&mut answer) => {
                    if read? == 0 {
                        return Ok(());
                    }
                    match row {
                        None => {
                            client.write_all(&answer).await?;
                            answer.clear();
                        }
                        Some(row) => client.write_all(&replace_rows(&mut answer, row)).await?,
                    }
                }
            }
        }
    }

    /// Acts, and notes when the client leaves.
    async fn act(&mut self, client: TcpStream, act: &Act) -> io::Result<()> {
        self.counts.send_modify(|counts| counts.begun += 1);
        let (mut reader, mut writer) = client.into_split();
        let read = async {
            if matches!(act, Act::StopReading) {
                std::future::pending::<()>().await;
            }
            drain(&mut reader).await;
        };
        let write = async {
            if write(&mut writer, act).await.is_ok() && !matches!(act, Act::SendAndClose(_)) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = read => {}
            () = write => {}
        }
        self.counts.send_modify(|counts| counts.ended += 1);
        Ok(())
    }
}

/// Reads until the client has left.
async fn drain(reader: &mut OwnedReadHalf) {
    let mut dropped = vec![0; PIECE];
    while reader.read(&mut dropped).await.is_ok_and(|read| read > 0) {}
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

async fn write(writer: &mut OwnedWriteHalf, act: &Act) -> io::Result<()> {
    match act {
        Act::Send(bytes) | Act::SendAndClose(bytes) => writer.write_all(bytes).await,
        Act::Repeat(first, again) => {
            writer.write_all(first).await?;
            let many = again.repeat((PIECE / again.len()).max(1));
            loop {
                writer.write_all(&many).await?;
            }
        }
        Act::Flood(first, tag, length) => {
            writer.write_all(&[&first[..], &[*tag], &length.to_be_bytes()].concat()).await?;
            // The text of a first field.
            writer.write_all(b"M").await?;
            let (piece, mut left) = (vec![b'x'; PIECE], *length as usize - 5);
            while left > 0 {
                let now = left.min(PIECE);
                writer.write_all(&piece[..now]).await?;
                left -= now;
            }
            Ok(())
        }
        Act::Trickle(bytes) => {
            for byte in bytes {
                writer.write_all(&[*byte]).await?;
                let_pass(Duration::from_secs(1)).await;
            }
            Ok(())
        }
        Act::StopReading => loop {
            writer.write_all(&message_of(b'S', b"TimeZone\0UTC\0")).await?;
            let_pass(Duration::from_millis(200)).await;
        },
        Act::Rows(_) => Ok(()),
    }
}

/// Takes the complete messages of an answer, with other rows.
fn replace_rows(answer: &mut BytesMut, row: Row) -> BytesMut {
    let mut sent = BytesMut::new();
    while let Some(header) = answer.first_chunk::<5>() {
        let length = u32::from_be_bytes(*header[1..].first_chunk().unwrap()) as usize;
        if answer.len() < length + 1 {
            break;
        }
        let message = answer.split_to(length + 1);
        if message[0] != b'D' {
            sent.extend_from_slice(&message);
            continue;
        }
        let real = u16::from_be_bytes(*message[5..].first_chunk().unwrap());
        let (columns, value): (u16, &[u8]) = match row {
            Row::Nulls => (real, b"\xff\xff\xff\xff"),
            Row::Empty => (0, b""),
            Row::Wide => (u16::MAX >> 1, b"\xff\xff\xff\xff"),
            Row::NegativeLengths => (real, b"\x80\0\0\0"),
            Row::BeyondTheEnd => (real, b"\0\0\x40\0"),
            Row::NotUtf8 => (real, b"\0\0\0\x04\xff\xfe\xfd\xfc"),
        };
        let mut body = BytesMut::new();
        body.put_u16(columns);
        (0..columns).for_each(|_| body.put_slice(value));
        sent.put_slice(&message_of(b'D', &body));
    }
    sent
}

/// A message with its header.
pub fn message_of(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// The messages before the rows of an answer whose only column has this type.
pub fn before_rows(oid: u32) -> Vec<u8> {
    let mut column = BytesMut::from(&b"\0\x01name\0\0\0\0\0\0\0"[..]);
    column.put_u32(oid);
    column.put_slice(&[0; 8]);
    [message_of(b'1', b""), message_of(b'2', b""), message_of(b'T', &column)].concat()
}
