//! A TCP proxy on loopback that delays, freezes and cuts connections, for tests, the demo and the benchmark.
//! Knows nothing of what it carries: needles are looked for in the bytes as they are, so they show only without TLS.

use super::error::ThrowawayError;
use bytes::{Buf, Bytes, BytesMut};
use socket2::SockRef;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// As much as one read takes.
const READ: usize = 64 << 10;
/// Chunks on their way in one direction: enough that a delay does not limit the bandwidth, and not without end.
const ON_THE_WAY: usize = 4096;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to the proxy.
    ToServer,
    /// From where the proxy connected to.
    ToClient,
}

/// Whether the bytes that complete a needle still arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// They do not.
    Before,
    /// They do, together with what came in the same read.
    After,
}

/// A proxy; it ends, and its connections with it, when it is dropped.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    context: Arc<SessionContext>,
    listening: AbortHandle,
}

#[derive(Debug)]
struct SessionContext {
    upstream: watch::Sender<SocketAddr>,
    delay: watch::Sender<Duration>,
    frozen: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    cuts: watch::Sender<()>,
    open: watch::Sender<usize>,
    armed: watch::Sender<Option<Armed>>,
}

/// A trigger that has not done its work yet.
#[derive(Clone, Debug)]
struct Armed {
    /// Tells it from the one before: what a connection has seen counts from the arming on.
    id: Arc<()>,
    trigger: Trigger,
    /// One connection has met it and is being cut.
    met: bool,
}

#[derive(Clone, Debug)]
enum Trigger {
    Needle(Direction, Arc<[u8]>, Cut),
    SwallowReplyTo(Arc<[u8]>),
    Bytes(Direction, u64),
}

impl TcpProxy {
    /// Listens on a free port of 127.0.0.1 and connects whoever comes to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Result<TcpProxy, ThrowawayError> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(ThrowawayError::io("listen for the proxy"))?;
        let port = listener.local_addr().map_err(ThrowawayError::io("ask for the proxy's port"))?.port();
        let context = Arc::new(SessionContext {
            upstream: watch::Sender::new(upstream),
            delay: watch::Sender::new(Duration::ZERO),
            frozen: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            cuts: watch::Sender::new(()),
            open: watch::Sender::new(0),
            armed: watch::Sender::new(None),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&context))).abort_handle();
        Ok(TcpProxy { port, context, listening })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections go there, and open ones are reset: what a name or an address does at a fail-over.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.context.upstream.send_replace(upstream);
        self.cut();
    }

    /// Every byte read from now on arrives so much later, in both directions: a round trip takes twice that.
    /// Connecting itself is not delayed. The clock ticks in milliseconds and rounds up.
    pub fn set_delay(&self, one_way: Duration) {
        self.context.delay.send_replace(one_way);
    }

    /// Resets every open connection; new ones are welcome.
    pub fn cut(&self) {
        self.context.cuts.send_replace(());
    }

    /// Resets new connections at once, and those that are open; `false` lets new ones in again.
    pub fn refuse(&self, refuse: bool) {
        self.context.refusing.send_replace(refuse);
        if refuse {
            self.cut();
        }
    }

    /// Holds everything back, a close too, while the connections stay open; `false` lets it flow again.
    pub fn freeze(&self, freeze: bool) {
        self.context.frozen.send_replace(freeze);
    }

    /// Once: resets the connection on which `needle` comes by, also when it comes in pieces. With [`Cut::Before`] the
    /// pieces before the last one have arrived. Replaces a trigger that has not fired.
    pub fn cut_when(&self, direction: Direction, needle: &[u8], cut: Cut) {
        self.arm(Trigger::Needle(direction, needle.into(), cut));
    }

    /// Once: lets the client's bytes with `needle` arrive, then resets the connection in place of the next bytes that
    /// the server sends: done, but nobody knows. Meant for clients that wait for one answer before the next question.
    pub fn swallow_reply_to(&self, needle: &[u8]) {
        self.arm(Trigger::SwallowReplyTo(needle.into()));
    }

    /// Once: resets the first connection that has carried `count` bytes from now on; exactly those arrive.
    pub fn cut_after_bytes(&self, direction: Direction, count: u64) {
        self.arm(Trigger::Bytes(direction, count));
    }

    /// Waits until the trigger has fired and its connection is gone; at once when none is armed.
    pub async fn wait_cut(&self) {
        // It cannot fail: we hold the sender.
        let _ = self.context.armed.subscribe().wait_for(Option::is_none).await;
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        *self.context.open.borrow()
    }

    /// Waits until so many connections are open.
    pub async fn wait_connections(&self, count: usize) {
        let _ = self.context.open.subscribe().wait_for(|open| *open == count).await;
    }

    fn arm(&self, trigger: Trigger) {
        self.context.armed.send_replace(Some(Armed { id: Arc::new(()), trigger, met: false }));
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, context: Arc<SessionContext>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            // A client that is gone before it is accepted is no reason to stop.
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                let cuts = context.cuts.subscribe();
                let client = Abrupt(Some(client));
                if !*context.refusing.borrow() {
                    context.open.send_modify(|open| *open += 1);
                    connections.spawn(serve(client, cuts, Arc::clone(&context)));
                }
            },
        }
    }
}

/// One connection, from its first byte to its end.
async fn serve(client: Abrupt, mut cuts: watch::Receiver<()>, context: Arc<SessionContext>) {
    let met = OnceLock::new();
    tokio::select! {
        () = carry(client, &context, &met) => {}
        _ = cuts.changed() => {}
    }
    context.open.send_modify(|open| *open -= 1);
    if let Some(id) = met.get() {
        context.armed.send_if_modified(|armed| armed.take_if(|armed| Arc::ptr_eq(&armed.id, id)).is_some());
    }
}

/// Carries bytes until both ends have closed, one breaks, or a trigger is `met`.
async fn carry(mut client: Abrupt, context: &SessionContext, met: &OnceLock<Arc<()>>) {
    let upstream = *context.upstream.borrow();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let mut server = Abrupt(Some(server));
    let over = {
        let (Some(client), Some(server)) = (&mut client.0, &mut server.0) else { return };
        for socket in [&*client, &*server] {
            // For speed only.
            let _ = socket.set_nodelay(true);
        }
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let flow = |direction| Flow { direction, context, met, seen: Seen::default() };
        tokio::try_join!(
            flow(Direction::ToServer).pump(from_client, to_server),
            flow(Direction::ToClient).pump(from_server, to_client),
        )
    };
    // A close delivers what is written, a reset may not.
    match over {
        Ok(_) => drop((client.0.take(), server.0.take())),
        Err(Over { deliver: Some(Direction::ToServer) }) => drop(server.0.take()),
        Err(Over { deliver: Some(Direction::ToClient) }) => drop(client.0.take()),
        Err(Over { deliver: None }) => {}
    }
}

/// A socket that is reset when it is dropped. Taken out, it is closed.
struct Abrupt(Option<TcpStream>);

impl Drop for Abrupt {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // Without it the end is a close, which is no error of anybody's either.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// The connection has come to an end that is not a close by both sides.
struct Over {
    /// To whom everything that was written has to arrive all the same.
    deliver: Option<Direction>,
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Over { deliver: None }
    }
}

/// One direction of one connection.
struct Flow<'a> {
    direction: Direction,
    context: &'a SessionContext,
    /// The trigger that this connection has met.
    met: &'a OnceLock<Arc<()>>,
    seen: Seen,
}

/// What came by since a trigger was armed.
#[derive(Default)]
struct Seen {
    armed: Option<Arc<()>>,
    count: u64,
    /// The end of it, shorter than the needle.
    tail: Vec<u8>,
}

/// How much of a chunk goes on, and whether the connection ends behind it.
struct Verdict {
    forward: usize,
    ends: bool,
}

impl Flow<'_> {
    /// Ends well when the sending side has closed.
    async fn pump(mut self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Over> {
        let (queue, queued) = mpsc::channel(ON_THE_WAY);
        let read = read(from, queue, self.direction, self.context, self.met);
        tokio::try_join!(read, self.write(queued, to)).map(drop)
    }

    /// Hands on what is due.
    async fn write(&mut self, mut queued: mpsc::Receiver<(Instant, Bytes)>, mut to: WriteHalf<'_>) -> Result<(), Over> {
        let mut frozen = self.context.frozen.subscribe();
        while let Some((due, mut chunk)) = queued.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            // It cannot fail: the sender outlives every connection. So below.
            let _ = frozen.wait_for(|frozen| !frozen).await;
            let verdict = self.inspect(&chunk);
            chunk.truncate(verdict.forward);
            while chunk.has_remaining() {
                let _ = frozen.wait_for(|frozen| !frozen).await;
                to.write_buf(&mut chunk).await?;
            }
            if verdict.ends {
                return Err(Over { deliver: Some(self.direction) });
            }
        }
        let _ = frozen.wait_for(|frozen| !frozen).await;
        Ok(to.shutdown().await?)
    }

    /// Looks for what the trigger waits for.
    fn inspect(&mut self, chunk: &[u8]) -> Verdict {
        let all = Verdict { forward: chunk.len(), ends: false };
        let Some(armed) = self.context.armed.borrow().clone().filter(|armed| !armed.met) else { return all };
        if self.seen.armed.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &armed.id)) {
            self.seen = Seen { armed: Some(Arc::clone(&armed.id)), ..Seen::default() };
        }
        match &armed.trigger {
            Trigger::Needle(direction, needle, cut)
                if *direction == self.direction && self.seen.completes(needle, chunk) && self.claim(&armed) =>
            {
                Verdict { forward: if *cut == Cut::After { chunk.len() } else { 0 }, ends: true }
            }
            Trigger::SwallowReplyTo(needle)
                if self.direction == Direction::ToServer && self.seen.completes(needle, chunk) =>
            {
                // From here on it is up to the other direction.
                self.claim(&armed);
                all
            }
            Trigger::Bytes(direction, count) if *direction == self.direction => {
                let left = count.saturating_sub(self.seen.count);
                self.seen.count += chunk.len() as u64;
                match usize::try_from(left) {
                    Ok(left) if left <= chunk.len() && self.claim(&armed) => Verdict { forward: left, ends: true },
                    _ => all,
                }
            }
            Trigger::Needle(..) | Trigger::SwallowReplyTo(_) | Trigger::Bytes(..) => all,
        }
    }

    /// Whether the trigger is ours, and not another connection's that was faster.
    fn claim(&self, wanted: &Armed) -> bool {
        self.context.armed.send_if_modified(|armed| match armed {
            Some(armed) if Arc::ptr_eq(&armed.id, &wanted.id) && !armed.met => {
                armed.met = true;
                self.met.set(Arc::clone(&armed.id)).is_ok()
            }
            _ => false,
        })
    }
}

impl Seen {
    /// Whether the needle is whole with this chunk.
    fn completes(&mut self, needle: &[u8], chunk: &[u8]) -> bool {
        self.tail.extend_from_slice(chunk);
        if needle.is_empty() || self.tail.windows(needle.len()).any(|window| window == needle) {
            return true;
        }
        let kept = self.tail.len().min(needle.len() - 1);
        self.tail.drain(..self.tail.len() - kept);
        false
    }
}

/// Takes in what comes, and stamps it with the time at which it is due.
async fn read(
    mut from: ReadHalf<'_>,
    queue: mpsc::Sender<(Instant, Bytes)>,
    direction: Direction,
    context: &SessionContext,
    met: &OnceLock<Arc<()>>,
) -> Result<(), Over> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        let count = from.read_buf(&mut buffer).await?;
        if direction == Direction::ToClient && met.get().is_some() {
            // The answer that nobody is to hear.
            return Err(Over { deliver: None });
        }
        let due = Instant::now() + *context.delay.borrow();
        if count == 0 {
            // The close is due in its turn, too.
            let _ = queue.send((due, Bytes::new())).await;
            return Ok(());
        }
        if queue.send((due, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
}
