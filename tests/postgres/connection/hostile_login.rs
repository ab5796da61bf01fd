//! Servers that attack during the login: none learns the password, costs much work or has a long text in an error.

use super::{fake_server, kind, parse, url, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use users_sync::capture::{CaptureError, ReplicationConnection};
use users_sync::pg::{self, ConnectError};

/// A message of the server; `{nonce}` stands for the client's nonce.
#[derive(Clone)]
struct Answer {
    tag: u8,
    body: Vec<u8>,
}

fn answer(tag: u8, body: impl Into<Vec<u8>>) -> Answer {
    Answer { tag, body: body.into() }
}

/// An authentication message (manual: "Message Formats").
fn authentication(kind: u32, data: &str) -> Answer {
    answer(b'R', [&kind.to_be_bytes(), data.as_bytes()].concat())
}

/// SCRAM up to the server's first message.
fn scram(first: &str) -> Vec<Answer> {
    vec![authentication(10, "SCRAM-SHA-256\0\0"), authentication(11, first)]
}

fn then(mut answers: Vec<Answer>, next: Answer) -> Vec<Answer> {
    answers.push(next);
    answers
}

/// Sends one answer after each message of the client. Returns what the client has sent.
async fn serve(mut client: TcpStream, answers: Vec<Answer>) -> std::io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    let length = client.read_u32().await? as usize;
    seen.resize(length - 4, 0);
    client.read_exact(&mut seen).await?;
    let mut nonce = String::new();
    for Answer { tag, body } in answers {
        let body = replace(&body, b"{nonce}", nonce.as_bytes());
        let length = u32::try_from(body.len() + 4).unwrap();
        client.write_all(&[&[tag][..], &length.to_be_bytes(), &body].concat()).await?;
        let mut message = vec![0; 5];
        if client.read_exact(&mut message).await.is_err() {
            break;
        }
        let length = u32::from_be_bytes(*message.last_chunk().unwrap()) as usize;
        message.resize(length + 1, 0);
        client.read_exact(&mut message[5..]).await?;
        let text = String::from_utf8_lossy(&message).into_owned();
        if let Some((_, first)) = text.split_once(",r=") {
            nonce = first.to_owned();
        }
        seen.extend(message);
    }
    let _ = client.read_to_end(&mut seen).await;
    Ok(seen)
}

fn replace(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match text.windows(from.len()).position(|window| window == from) {
        Some(at) => [&text[..at], to, &text[at + from.len()..]].concat(),
        None => text.to_vec(),
    }
}

#[tokio::test]
async fn no_server_gains_anything_by_a_login() {
    let long = "x".repeat(60_000);
    let salted = scram("r={nonce}more,s=c2FsdHNhbHQ=,i=4096");
    let cases = [
        ("a billion iterations", "auth", scram("r={nonce}more,s=c2FsdHNhbHQ=,i=4294967295")),
        ("iterations beyond a number", "auth", scram("r={nonce}more,s=c2FsdHNhbHQ=,i=99999999999999999999")),
        ("no iteration", "auth", then(scram("r={nonce}more,s=c2FsdHNhbHQ=,i=0"), authentication(12, "v=c2FsdA=="))),
        ("a negative number of iterations", "auth", scram("r={nonce}more,s=c2FsdHNhbHQ=,i=-1")),
        ("the nonce of another client", "auth", scram("r=another,s=c2FsdHNhbHQ=,i=4096")),
        ("no nonce", "auth", scram("r=,s=c2FsdHNhbHQ=,i=4096")),
        ("a salt that is none", "auth", scram("r={nonce}more,s=*,i=4096")),
        (
            "a salt of 45 kB",
            "auth",
            then(
                scram(&format!("r={{nonce}}more,s={},i=4096", "AAAA".repeat(15_000))),
                authentication(12, "v=c2FsdA=="),
            ),
        ),
        ("a wrong proof", "auth", then(salted.clone(), authentication(12, "v=c2FsdA=="))),
        ("an error of 60 kB", "auth", then(salted.clone(), authentication(12, &format!("e={long}")))),
        (
            "a nonce of 60 kB",
            "auth",
            then(scram(&format!("r={{nonce}}{long},s=c2FsdA==,i=1")), authentication(12, "e=x")),
        ),
        (
            "bytes that are no text",
            "auth",
            then(salted.clone(), answer(b'R', [&12u32.to_be_bytes()[..], b"\xff"].concat())),
        ),
        ("no proof", "protocol", then(salted.clone(), authentication(0, ""))),
        ("no exchange", "protocol", vec![authentication(10, "SCRAM-SHA-256\0\0"), authentication(0, "")]),
        ("an unknown mechanism", "auth", vec![authentication(10, &format!("{long}\0\0"))]),
        ("no mechanism", "auth", vec![authentication(10, "\0")]),
        ("Kerberos", "auth", vec![authentication(2, "")]),
        ("GSSAPI", "auth", vec![authentication(7, "")]),
        ("SSPI", "auth", vec![authentication(9, "")]),
        ("an unknown kind of login", "protocol", vec![authentication(99, "")]),
        ("another version of the protocol", "protocol", vec![answer(b'v', *b"\0\x03\0\0\0\0\0\0")]),
        ("no answer, but a key", "protocol", vec![answer(b'K', *b"\0\0\0\x01\0\0\0\x02")]),
        ("rows", "protocol", vec![answer(b'D', *b"\0\0")]),
        (
            "a long error",
            "auth 28000",
            vec![answer(b'E', format!("SFATAL\0VFATAL\0C28000\0M{long}\0H{long}\0\0").replace(&long, &long[..20_000]))],
        ),
    ];
    for (case, expected, answers) in cases {
        for replication in [false, true] {
            let (seen, received) = tokio::sync::mpsc::unbounded_channel();
            let mut received = received;
            let answers = answers.clone();
            let port = fake_server("127.0.0.1", move |client| {
                let (answers, seen) = (answers.clone(), seen.clone());
                async move {
                    // The client leaves where it likes.
                    let _ = seen.send(serve(client, answers).await.unwrap_or_default());
                }
            })
            .await;
            let url = parse(&url("u:hunter2", "127.0.0.1", port, "sslmode=disable"));
            let error: ConnectError = if replication {
                match within(ReplicationConnection::connect(&url)).await.err().expect(case) {
                    CaptureError::Connect(error) => error,
                    other => panic!("{case}: {other}"),
                }
            } else {
                within(pg::connect(&url)).await.expect_err(case)
            };
            assert_eq!(kind(&error), expected, "{case}, replication {replication}: {error:.1000}");
            let (text, length) = (error.to_string(), error.to_string().len());
            assert!(length < 2_500, "{case}: an error of {length} bytes");
            assert!(!format!("{text} {error:?}").contains("hunter2"), "{case}: {text}");
            let seen = within(received.recv()).await.expect(case);
            assert!(!seen.windows(7).any(|window| window == b"hunter2"), "{case}");
        }
    }
}
