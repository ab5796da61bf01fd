//! The fault proxy delays, freezes and cuts exactly as the other tests rely on.

use crate::support::proxy::{Cut, Direction, TcpProxy};
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Time limit, far above any real wait.
const DEADLINE: Duration = Duration::from_secs(20);

/// The proxy and the server behind it.
struct Setup {
    proxy: TcpProxy,
    upstream: TcpListener,
}

impl Setup {
    async fn new() -> Setup {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Setup { proxy: TcpProxy::start(upstream.local_addr().unwrap()).await.unwrap(), upstream }
    }

    /// A connection through the proxy: the client's end and the server's.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = self.dial().await;
        (client, within(self.upstream.accept()).await.unwrap().0)
    }

    async fn dial(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.proxy.port())).await.unwrap()
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("nothing happened")
}

async fn read(socket: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    within(socket.read_exact(&mut bytes)).await.unwrap();
    bytes
}

/// All bytes that still arrive, and whether the end was a reset.
async fn read_to_end(socket: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    match within(socket.read_to_end(&mut bytes)).await {
        Ok(_) => (bytes, false),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, true),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn bytes_and_closes_go_through_in_both_directions() {
    let setup = Setup::new().await;
    let (mut client, mut server) = setup.connect().await;
    let large: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
    let (sent, received) = tokio::join!(client.write_all(&large), read(&mut server, large.len()));
    sent.unwrap();
    assert!(received == large);
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut server).await, (vec![], false));
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, (b"bye".to_vec(), false));
    within(setup.proxy.wait_connections(0)).await;
}

#[tokio::test]
async fn a_delay_shifts_the_stream_and_does_not_add_up() {
    const DELAY: Duration = Duration::from_millis(500);
    const ROUNDS: u8 = 200;
    let setup = Setup::new().await;
    let (mut client, mut server) = setup.connect().await;
    setup.proxy.set_delay(DELAY);
    let start = Instant::now();
    for round in 0..ROUNDS {
        client.write_all(&[round]).await.unwrap();
        // The proxy reads it as a separate chunk.
        tokio::task::yield_now().await;
    }
    // Delays that add up would take 100 s, longer than the deadline of the read.
    assert_eq!(read(&mut server, usize::from(ROUNDS)).await, (0..ROUNDS).collect::<Vec<u8>>());
    assert!(start.elapsed() >= DELAY, "{:?}", start.elapsed());
    let start = Instant::now();
    server.write_all(b"back").await.unwrap();
    read(&mut client, 4).await;
    assert!(start.elapsed() >= DELAY, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_cut_resets_what_is_open_and_lets_new_connections_in() {
    let setup = Setup::new().await;
    let (mut client, mut server) = setup.connect().await;
    client.write_all(b"x").await.unwrap();
    read(&mut server, 1).await;
    assert_eq!(setup.proxy.connections(), 1);
    setup.proxy.cut();
    assert_eq!(read_to_end(&mut client).await, (vec![], true));
    assert_eq!(read_to_end(&mut server).await, (vec![], true));
    within(setup.proxy.wait_connections(0)).await;
    let (mut client, mut server) = setup.connect().await;
    client.write_all(b"y").await.unwrap();
    assert_eq!(read(&mut server, 1).await, b"y");
}

#[tokio::test]
async fn refusing_ends_old_and_new_connections_until_switched_off() {
    let setup = Setup::new().await;
    let (mut client, _server) = setup.connect().await;
    within(setup.proxy.wait_connections(1)).await;
    setup.proxy.refuse(true);
    assert!(read_to_end(&mut client).await.1);
    assert!(read_to_end(&mut setup.dial().await).await.1);
    setup.proxy.refuse(false);
    let (mut client, mut server) = setup.connect().await;
    client.write_all(b"y").await.unwrap();
    assert_eq!(read(&mut server, 1).await, b"y");
}

#[tokio::test]
async fn an_unreachable_server_resets_the_client() {
    let Setup { proxy, upstream } = Setup::new().await;
    drop(upstream);
    let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    assert!(read_to_end(&mut client).await.1);
}

#[tokio::test]
async fn frozen_bytes_arrive_in_order_after_the_thaw() {
    let setup = Setup::new().await;
    let (mut client, mut server) = setup.connect().await;
    client.write_all(b"1").await.unwrap();
    read(&mut server, 1).await;
    setup.proxy.freeze(true);
    client.write_all(b"2").await.unwrap();
    server.write_all(b"3").await.unwrap();
    client.shutdown().await.unwrap();
    // Another connection is frozen, too, and later bytes are held as well.
    let (mut other, mut other_server) = setup.connect().await;
    other.write_all(b"4").await.unwrap();
    let quiet = Duration::from_millis(100);
    let mut byte = [0];
    for socket in [&mut server, &mut client, &mut other_server] {
        assert!(tokio::time::timeout(quiet, socket.read(&mut byte)).await.is_err(), "it came through");
    }
    assert_eq!(setup.proxy.connections(), 2);
    setup.proxy.freeze(false);
    assert_eq!(read_to_end(&mut server).await, (b"2".to_vec(), false));
    assert_eq!(read(&mut client, 1).await, b"3");
    assert_eq!(read(&mut other_server, 1).await, b"4");
}

#[tokio::test]
async fn a_needle_cuts_its_own_connection_once_before_or_after_its_arrival() {
    for (cut, arrives) in [(Cut::Before, &b"one "[..]), (Cut::After, b"one COMMIT;")] {
        let setup = Setup::new().await;
        let (mut client, mut server) = setup.connect().await;
        let (mut other, mut other_server) = setup.connect().await;
        setup.proxy.cut_when(Direction::ToServer, b"COMMIT", cut);
        // The other direction is not affected.
        server.write_all(b"COMMIT").await.unwrap();
        read(&mut client, 6).await;
        client.write_all(b"one ").await.unwrap();
        assert_eq!(read(&mut server, 4).await, b"one ");
        client.write_all(b"COMMIT;").await.unwrap();
        within(setup.proxy.wait_cut()).await;
        assert_eq!(read_to_end(&mut server).await.0, arrives[4..], "{cut:?}");
        assert!(read_to_end(&mut client).await.1, "{cut:?}");
        // The cut applies once.
        other.write_all(b"COMMIT").await.unwrap();
        assert_eq!(read(&mut other_server, 6).await, b"COMMIT");
    }
}

#[tokio::test]
async fn a_needle_is_found_across_chunks() {
    let setup = Setup::new().await;
    let (mut client, mut server) = setup.connect().await;
    setup.proxy.cut_when(Direction::ToClient, b"needle", Cut::After);
    for piece in [&b"haystack nee"[..], b"nee", b"d", b"le"] {
        server.write_all(piece).await.unwrap();
        read(&mut client, piece.len()).await;
    }
    assert_eq!(read_to_end(&mut client).await, (vec![], false));
    assert!(read_to_end(&mut server).await.1);
    within(setup.proxy.wait_cut()).await;
}

#[tokio::test]
async fn a_reply_is_dropped_although_the_request_arrived() {
    let setup = Setup::new().await;
    let (mut client, mut server) = setup.connect().await;
    setup.proxy.swallow_reply_to(b"COMMIT");
    client.write_all(b"BEGIN").await.unwrap();
    assert_eq!(read(&mut server, 5).await, b"BEGIN");
    server.write_all(b"ok").await.unwrap();
    assert_eq!(read(&mut client, 2).await, b"ok");
    client.write_all(b"COMMIT").await.unwrap();
    assert_eq!(read(&mut server, 6).await, b"COMMIT");
    server.write_all(b"done").await.unwrap();
    assert_eq!(read_to_end(&mut client).await, (vec![], true));
    within(setup.proxy.wait_cut()).await;
}

#[tokio::test]
async fn a_cut_after_a_number_of_bytes_is_exact() {
    let setup = Setup::new().await;
    let (mut client, mut server) = setup.connect().await;
    client.write_all(b"before").await.unwrap();
    read(&mut server, 6).await;
    setup.proxy.cut_after_bytes(Direction::ToServer, 300_000);
    let (mut answers, mut questions) = client.into_split();
    // It fails in the middle, or everything fits into buffers on the way.
    let sending = tokio::spawn(async move { questions.write_all(&vec![7; 2_000_000]).await });
    assert_eq!(read_to_end(&mut server).await.0.len(), 300_000);
    let error = within(answers.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let _ = within(sending).await.unwrap();
    within(setup.proxy.wait_cut()).await;
}

#[tokio::test]
async fn a_dropped_proxy_closes_its_connections() {
    let Setup { proxy, upstream } = Setup::new().await;
    let port = proxy.port();
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut server, _) = within(upstream.accept()).await.unwrap();
    drop(proxy);
    read_to_end(&mut client).await;
    read_to_end(&mut server).await;
    assert_eq!(TcpStream::connect(("127.0.0.1", port)).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}
