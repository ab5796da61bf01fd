//! A minimal HTTP/1.1 client, so that tests can send what no library would.

use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Time limit, far above any real answer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

/// Sends a request with these headers and no others.
pub async fn ask(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let asked = async {
        let mut stream = open(to, method, path, headers, body).await;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        text
    };
    let text = tokio::time::timeout(DEADLINE, asked).await.expect("no answer");
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Answer { status, headers, body: body.to_owned() }
}

async fn open(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {to}\r\n"));
    }
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.unwrap();
    BufReader::new(stream)
}

/// GET without further headers.
pub async fn get(to: SocketAddr, path: &str) -> Answer {
    ask(to, "GET", path, &[], "").await
}

/// POST of a JSON body.
pub async fn post(to: SocketAddr, path: &str, body: &str) -> Answer {
    ask(to, "POST", path, &[("Content-Type", "application/json")], body).await
}

/// An open stream of server-sent events.
pub struct Events(BufReader<TcpStream>);

impl Events {
    pub async fn of(to: SocketAddr, path: &str) -> Events {
        let mut stream = open(to, "GET", path, &[], "").await;
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.contains(" 200 "), "{line}");
        Events(stream)
    }

    /// The name and data of the next event.
    pub async fn next(&mut self) -> (String, Value) {
        let read = async {
            let mut name = String::new();
            loop {
                let mut line = String::new();
                assert!(self.0.read_line(&mut line).await.unwrap() > 0, "the events have ended");
                // Skip the lines that frame chunks.
                if let Some(of) = line.strip_prefix("event: ") {
                    of.trim().clone_into(&mut name);
                } else if let Some(data) = line.strip_prefix("data: ") {
                    return (name, serde_json::from_str(data).unwrap());
                }
            }
        };
        tokio::time::timeout(DEADLINE, read).await.expect("no event")
    }
}
