//! Clients that send half of a request, too much or nothing, against real sockets.

use super::super::connections::{Accept, serve};
use super::*;
use crate::config::{Env, parse};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::interval;

/// Time limit of one expectation, far above any real answer.
const DEADLINE: Duration = Duration::from_secs(60);

const TOKEN: &str = "0123456789abcdef";

/// So long that no test reaches it.
const LONG: Duration = Duration::from_secs(3_600);

fn limits() -> Limits {
    Limits {
        header_time: LONG,
        body_time: LONG,
        write_time: LONG,
        header_bytes: 16 << 10,
        headers: 64,
        unauthorized: 64,
        authorized: 64,
        accept_pause: Duration::from_millis(1),
    }
}

struct Bed {
    at: SocketAddr,
    stop: CancellationToken,
    _configs: watch::Sender<Config>,
}

impl Bed {
    async fn start(limits: Limits) -> Bed {
        let (configs, receiver) = watch::channel(config());
        let server = Server::bind_with(receiver, Arc::default(), limits, Router::new()).await.unwrap();
        let (at, stop) = (server.address().unwrap(), CancellationToken::new());
        tokio::spawn(server.run(stop.clone()));
        Bed { at, stop, _configs: configs }
    }

    async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.at).await.unwrap())
    }

    async fn is_healthy(&self) {
        let mut client = self.connect().await;
        client.send(&request("GET", "/healthz", "Connection: close\r\n")).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn config() -> Config {
    let text = format!(
        "source: {{url: 'postgres://u@127.0.0.1:1/d'}}\nusers: {{table: auth.users, id: id}}\n\
         tenants: [{{id: acme, target: 'postgres://u@127.0.0.1:1/acme'}}]\n\
         admin: {{listen: '127.0.0.1:0', token: {TOKEN}}}\n"
    );
    let env = Env { variable: &|_| None, file: &|_| Err(io::ErrorKind::NotFound.into()) };
    parse("test.yaml", &text, &env).unwrap()
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

fn authorized(path: &str) -> String {
    request("GET", path, &format!("Authorization: Bearer {TOKEN}\r\n"))
}

struct Client(TcpStream);

impl Client {
    /// The server may have closed the connection.
    async fn send(&mut self, text: &str) {
        let _ = self.0.write_all(text.as_bytes()).await;
    }

    /// Everything until the server closes the connection.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A connection that is closed with unread bytes is reset.
        let _ = tokio::time::timeout(DEADLINE, self.0.read_to_end(&mut bytes)).await.expect("it stays open");
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until the text appears, and returns all.
    async fn reads(&mut self, wanted: &str) -> String {
        let read = async {
            let mut text = String::new();
            while !text.contains(wanted) {
                let mut bytes = [0; 4_096];
                let length = self.0.read(&mut bytes).await.unwrap();
                assert!(length > 0, "closed after {text:?}");
                text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
            text
        };
        tokio::time::timeout(DEADLINE, read).await.unwrap_or_else(|_| panic!("no {wanted:?}"))
    }

    async fn is_open(&mut self) {
        self.send(&authorized("/api/status")).await;
        // The last character of the object.
        let answer = self.reads("\"tee\":null}").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[tokio::test]
async fn half_sent_and_silent_requests_are_closed() {
    let bed = Bed::start(Limits { header_time: Duration::from_millis(100), ..limits() }).await;
    for sent in ["", "G", "GET /api/status HTTP/1.1\r\nHost: localh", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut client = bed.connect().await;
        client.send(sent).await;
        assert_eq!(client.rest().await, "", "{sent:?}");
    }
}

#[tokio::test]
async fn headers_that_arrive_slowly_are_cut_off() {
    let bed = Bed::start(Limits { header_time: Duration::from_millis(100), ..limits() }).await;
    let mut client = bed.connect().await;
    client.send("GET /healthz HTTP/1.1\r\nX: ").await;
    let (mut reader, mut writer) = client.0.split();
    let drip = async {
        let mut ticks = interval(Duration::from_millis(5));
        loop {
            ticks.tick().await;
            if writer.write_all(b"x").await.is_err() {
                break;
            }
        }
    };
    let closed = async {
        let mut bytes = Vec::new();
        let _ = reader.read_to_end(&mut bytes).await;
    };
    let ended = async {
        tokio::select! { () = drip => {}, () = closed => {} }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("it stays open");
}

#[tokio::test]
async fn idle_connections_are_closed_after_a_response() {
    let bed = Bed::start(Limits { header_time: Duration::from_millis(100), ..limits() }).await;
    let mut client = bed.connect().await;
    client.send(&authorized("/api/status")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn event_streams_outlive_the_time_limits() {
    let short = Duration::from_millis(50);
    let bed =
        Bed::start(Limits { header_time: short, body_time: short, write_time: short, unauthorized: 1, ..limits() })
            .await;
    let mut events = bed.connect().await;
    events.send(&authorized("/api/events")).await;
    events.reads("event: status").await;
    // Connections that began later reach their limit.
    for _ in 0..3 {
        assert_eq!(bed.connect().await.rest().await, "");
    }
    let mut byte = [0; 1];
    let ended = events.0.try_read(&mut byte);
    assert!(!matches!(ended, Ok(0)), "the stream was closed: {ended:?}");
}

#[tokio::test]
async fn large_headers_are_refused() {
    let bed = Bed::start(limits()).await;
    let many = "A: b\r\n".repeat(65);
    let large = [
        request("GET", "/healthz", &format!("X: {}\r\n", "x".repeat(64 << 10))),
        request("GET", &format!("/{}", "x".repeat(64 << 10)), ""),
        request("GET", "/healthz", &many),
    ];
    for sent in large {
        let mut client = bed.connect().await;
        client.send(&sent).await;
        let answer = client.rest().await;
        let is_refusal = ["HTTP/1.1 431 ", "HTTP/1.1 414 ", ""].into_iter().any(|start| answer.starts_with(start));
        assert!(is_refusal && !answer.contains(" 200 "), "{answer}");
    }
    bed.is_healthy().await;
}

#[tokio::test]
async fn bodies_that_do_not_arrive_are_answered_with_408() {
    let bed = Bed::start(Limits { body_time: Duration::from_millis(50), ..limits() }).await;
    let headers = format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: 20\r\n");
    let mut client = bed.connect().await;
    client.send(&(request("POST", "/api/tenants/acme/resync", &headers) + "{")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 408 "));
    // A body that no handler reads does not keep the connection open.
    let mut client = bed.connect().await;
    client.send(&request("GET", "/healthz", "Content-Length: 20\r\n")).await;
    assert!(client.rest().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_flood_of_connections_closes_the_oldest_unauthorized_ones() {
    let bed = Bed::start(Limits { unauthorized: 4, ..limits() }).await;
    let mut console = bed.connect().await;
    console.is_open().await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        let mut client = bed.connect().await;
        client.send("GET /api/status HTTP/1.1\r\n").await;
        flood.push(client);
    }
    bed.is_healthy().await;
    let remaining = flood.split_off(197);
    for mut client in flood {
        assert_eq!(client.rest().await, "");
    }
    console.is_open().await;
    // The newest are still open, and are closed with the server.
    drop(bed);
    for mut client in remaining {
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn too_many_authorized_connections_are_answered_with_503() {
    let bed = Bed::start(Limits { authorized: 1, ..limits() }).await;
    let mut first = bed.connect().await;
    first.is_open().await;
    let mut second = bed.connect().await;
    second.send(&authorized("/api/status")).await;
    let answer = second.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("too many connections"), "{answer}");
    bed.is_healthy().await;
    first.is_open().await;
    drop(first);
    let free = async {
        loop {
            let mut third = bed.connect().await;
            third.send(&authorized("/api/status")).await;
            let mut start = [0; 13];
            third.0.read_exact(&mut start).await.unwrap();
            if &start == b"HTTP/1.1 200 " {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, free).await.expect("the place is not free");
}

/// A listener that fails a few times after its first connection, as with too many open files.
struct Failing {
    listener: TcpListener,
    accepted: u32,
    failures: u32,
}

impl Accept for Failing {
    async fn accept(&mut self) -> io::Result<TcpStream> {
        if self.accepted == 1 && self.failures > 0 {
            self.failures -= 1;
            return Err(io::Error::other("Too many open files"));
        }
        let (stream, _) = self.listener.accept().await?;
        self.accepted += 1;
        Ok(stream)
    }
}

#[tokio::test]
async fn errors_of_accept_close_silent_connections_and_do_not_end_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = Router::new().route("/healthz", get(async || "alive"));
    let served = tokio::spawn(serve(Failing { listener, accepted: 0, failures: 3 }, router, limits(), stop.clone()));
    assert_eq!(Client(TcpStream::connect(at).await.unwrap()).rest().await, "");
    let mut client = Client(TcpStream::connect(at).await.unwrap());
    client.send(&request("GET", "/healthz", "Connection: close\r\n")).await;
    assert!(client.rest().await.ends_with("alive"));
    stop.cancel();
    tokio::time::timeout(DEADLINE, served).await.unwrap().unwrap();
}

#[tokio::test]
async fn pages_of_other_sites_can_only_open_the_console() {
    let bed = Bed::start(limits()).await;
    let token = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let cross = format!("{token}Sec-Fetch-Site: cross-site\r\n");
    let navigation = format!("{cross}Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n");
    for (path, headers, status) in [
        ("/api/status", &token, "200"),
        ("/metrics", &cross, "403"),
        ("/healthz", &cross, "403"),
        ("/", &cross, "403"),
        ("/", &navigation, "200"),
        ("/api/status", &navigation, "403"),
    ] {
        let mut client = bed.connect().await;
        client.send(&request("GET", path, headers)).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {headers}: {answer}");
    }
}
