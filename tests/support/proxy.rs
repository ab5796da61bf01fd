//! A TCP proxy on loopback that delays, freezes and cuts connections, for the tests and the benchmark.
//! It searches the bytes that it carries for needles, so they are found only in connections without TLS.

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

/// Bytes that one read takes at most.
const READ_SIZE: usize = 64 << 10;
/// Chunks in flight in one direction: bounded, but enough that a delay does not limit the bandwidth.
const CHUNKS_IN_FLIGHT: usize = 4096;

/// The direction in which bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client that connected to the proxy.
    ToServer,
    /// From the server that the proxy connected to.
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

/// A proxy. Dropping it resets its connections.
#[derive(Debug)]
pub struct TcpProxy {
    port: u16,
    switches: Arc<Switches>,
    listening: AbortHandle,
}

#[derive(Debug)]
struct Switches {
    upstream: watch::Sender<SocketAddr>,
    delay: watch::Sender<Duration>,
    frozen: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    cuts: watch::Sender<()>,
    open: watch::Sender<usize>,
    armed: watch::Sender<Option<Armed>>,
}

/// A trigger that has not fired.
#[derive(Clone, Debug)]
struct Armed {
    /// Differs from the trigger before: a connection counts what it has seen from the arming on.
    id: Arc<()>,
    trigger: Trigger,
    /// A connection has met it and is being cut.
    met: bool,
}

#[derive(Clone, Debug)]
enum Trigger {
    Needle(Direction, Arc<[u8]>, Cut),
    SwallowReplyTo(Arc<[u8]>),
    Bytes(Direction, u64),
}

impl TcpProxy {
    /// Listens on a free port of 127.0.0.1 and connects every client to `upstream`.
    pub async fn start(upstream: SocketAddr) -> io::Result<TcpProxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let switches = Arc::new(Switches {
            upstream: watch::Sender::new(upstream),
            delay: watch::Sender::new(Duration::ZERO),
            frozen: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            cuts: watch::Sender::new(()),
            open: watch::Sender::new(0),
            armed: watch::Sender::new(None),
        });
        let listening = tokio::spawn(listen(listener, Arc::clone(&switches))).abort_handle();
        Ok(TcpProxy { port, switches, listening })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects new clients to `upstream` and resets open connections, as a name or an address does at a fail-over.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.switches.upstream.send_replace(upstream);
        self.cut();
    }

    /// Delays every byte read from now on, in both directions: a round trip takes twice as long.
    /// Connecting itself is not delayed. The clock ticks in milliseconds and rounds up.
    pub fn set_delay(&self, one_way: Duration) {
        self.switches.delay.send_replace(one_way);
    }

    /// Resets every open connection and accepts new ones.
    pub fn cut(&self) {
        self.switches.cuts.send_replace(());
    }

    /// Resets open connections, and new ones at once; `false` accepts new ones again.
    pub fn refuse(&self, refuse: bool) {
        self.switches.refusing.send_replace(refuse);
        if refuse {
            self.cut();
        }
    }

    /// Holds back all bytes, and closes, while the connections stay open; `false` lets them flow again.
    pub fn freeze(&self, freeze: bool) {
        self.switches.frozen.send_replace(freeze);
    }

    /// Resets, once, the connection that carries `needle`, also in pieces. With [`Cut::Before`] the pieces before the
    /// last one have arrived. Replaces a trigger that has not fired.
    pub fn cut_when(&self, direction: Direction, needle: &[u8], cut: Cut) {
        self.arm(Trigger::Needle(direction, needle.into(), cut));
    }

    /// Lets, once, the client's bytes with `needle` arrive, then resets the connection in place of the server's next
    /// bytes: a lost reply. For clients that wait for each reply before the next request.
    pub fn swallow_reply_to(&self, needle: &[u8]) {
        self.arm(Trigger::SwallowReplyTo(needle.into()));
    }

    /// Resets, once, the first connection that has carried `count` bytes from now on; exactly those arrive.
    pub fn cut_after_bytes(&self, direction: Direction, count: u64) {
        self.arm(Trigger::Bytes(direction, count));
    }

    /// Waits until the trigger has fired and its connection has ended. Returns at once when none is armed.
    pub async fn wait_cut(&self) {
        // Cannot fail: the proxy holds the sender.
        let _ = self.switches.armed.subscribe().wait_for(Option::is_none).await;
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        *self.switches.open.borrow()
    }

    /// Waits until `count` connections are open.
    pub async fn wait_connections(&self, count: usize) {
        let _ = self.switches.open.subscribe().wait_for(|open| *open == count).await;
    }

    fn arm(&self, trigger: Trigger) {
        self.switches.armed.send_replace(Some(Armed { id: Arc::new(()), trigger, met: false }));
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, switches: Arc<Switches>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            // A client may close before it is accepted.
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                let cuts = switches.cuts.subscribe();
                let client = Abrupt(Some(client));
                if !*switches.refusing.borrow() {
                    switches.open.send_modify(|open| *open += 1);
                    connections.spawn(serve(client, cuts, Arc::clone(&switches)));
                }
            },
        }
    }
}

/// Serves one connection until it ends.
async fn serve(client: Abrupt, mut cuts: watch::Receiver<()>, switches: Arc<Switches>) {
    let met = OnceLock::new();
    tokio::select! {
        () = carry(client, &switches, &met) => {}
        _ = cuts.changed() => {}
    }
    switches.open.send_modify(|open| *open -= 1);
    if let Some(id) = met.get() {
        switches.armed.send_if_modified(|armed| armed.take_if(|armed| Arc::ptr_eq(&armed.id, id)).is_some());
    }
}

/// Carries bytes until both ends have closed, one breaks, or a trigger is `met`.
async fn carry(mut client: Abrupt, switches: &Switches, met: &OnceLock<Arc<()>>) {
    let upstream = *switches.upstream.borrow();
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let mut server = Abrupt(Some(server));
    let over = {
        let (Some(client), Some(server)) = (&mut client.0, &mut server.0) else { return };
        for socket in [&*client, &*server] {
            // Only for speed.
            let _ = socket.set_nodelay(true);
        }
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let flow = |direction| Flow { direction, switches, met, seen: Seen::default() };
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
            // On failure the socket is closed instead of reset.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
        }
    }
}

/// The connection has ended other than by a close of both sides.
struct Over {
    /// The direction in which everything written still has to arrive.
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
    switches: &'a Switches,
    /// The trigger that this connection has met.
    met: &'a OnceLock<Arc<()>>,
    seen: Seen,
}

/// What a flow has carried since a trigger was armed.
#[derive(Default)]
struct Seen {
    armed: Option<Arc<()>>,
    count: u64,
    /// The last bytes, fewer than the needle has.
    tail: Vec<u8>,
}

/// How much of a chunk is forwarded, and whether the connection ends after it.
struct Verdict {
    forward: usize,
    ends: bool,
}

impl Flow<'_> {
    /// Carries bytes until the sending side closes.
    async fn pump(mut self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> Result<(), Over> {
        let (queue, queued) = mpsc::channel(CHUNKS_IN_FLIGHT);
        let read = read(from, queue, self.direction, self.switches, self.met);
        tokio::try_join!(read, self.write(queued, to)).map(drop)
    }

    /// Writes each chunk when it is due.
    async fn write(&mut self, mut queued: mpsc::Receiver<(Instant, Bytes)>, mut to: WriteHalf<'_>) -> Result<(), Over> {
        let mut frozen = self.switches.frozen.subscribe();
        while let Some((due, mut chunk)) = queued.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            // Cannot fail, here and below: the sender outlives every connection.
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

    /// Decides what happens to a chunk under the armed trigger.
    fn inspect(&mut self, chunk: &[u8]) -> Verdict {
        let all = Verdict { forward: chunk.len(), ends: false };
        let Some(armed) = self.switches.armed.borrow().clone().filter(|armed| !armed.met) else { return all };
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
                // The other direction does the rest.
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

    /// Claims the trigger; `false` if another connection was faster.
    fn claim(&self, wanted: &Armed) -> bool {
        self.switches.armed.send_if_modified(|armed| match armed {
            Some(armed) if Arc::ptr_eq(&armed.id, &wanted.id) && !armed.met => {
                armed.met = true;
                self.met.set(Arc::clone(&armed.id)).is_ok()
            }
            _ => false,
        })
    }
}

impl Seen {
    /// Whether this chunk completes the needle.
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

/// Reads chunks and stamps each with the time at which it is due.
async fn read(
    mut from: ReadHalf<'_>,
    queue: mpsc::Sender<(Instant, Bytes)>,
    direction: Direction,
    switches: &Switches,
    met: &OnceLock<Arc<()>>,
) -> Result<(), Over> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_SIZE);
        let count = from.read_buf(&mut buffer).await?;
        if direction == Direction::ToClient && met.get().is_some() {
            // The reply that is swallowed.
            return Err(Over { deliver: None });
        }
        let due = Instant::now() + *switches.delay.borrow();
        if count == 0 {
            // The close is delayed like the bytes.
            let _ = queue.send((due, Bytes::new())).await;
            return Ok(());
        }
        if queue.send((due, buffer.split().freeze())).await.is_err() {
            return Ok(());
        }
    }
}
