//! Who may use the admin API: bearer token, Host check, listen address.

use super::bed::{AdminBed, loopback};
use super::http::{ask, get};
use crate::support::Bed;
use crate::support::process::{command, said};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_health_answers_without_it() {
    let bed = Bed::start(&["acme"]).await;
    let mut config = bed.config();
    config.admin = loopback(Some("hunter2-hunter2x"));
    let shown = AdminBed::start(config).await;
    for path in ["/metrics", "/api/status", "/api/tenants", "/api/tenants/acme/users", "/api/openapi.json"] {
        let answer = get(shown.at, path).await;
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        assert_eq!((&answer.json()["code"], &answer.json()["status"]), (&"unauthorized".into(), &401.into()), "{path}");
        assert!(answer.json()["remedy"].is_string() && !answer.body.contains("hunter2-hunter2x"), "{}", answer.body);
        for wrong in ["Bearer hunter2-hunter2y", "Bearer hunter2-hunter2x ", "Basic hunter2-hunter2x", "Bearer"] {
            let status = ask(shown.at, "GET", path, &[("Authorization", wrong)], "").await.status;
            // Trailing spaces are not part of a header's value.
            assert_eq!(status, if wrong.ends_with(' ') { shown_status(path) } else { 401 }, "{path} {wrong:?}");
        }
    }
    let all = ["/metrics", "/api/status", "/api/tenants", "/api/openapi.json"];
    for path in all {
        let answer =
            ask(shown.at, "GET", path, &[("Authorization", "Bearer hunter2-hunter2x"), ("Host", "a.example")], "")
                .await;
        assert_eq!(answer.status, shown_status(path), "{path}: {}", answer.body);
        assert!(answer.header("set-cookie").is_none() && answer.header("x-content-type-options") == Some("nosniff"));
    }
    assert_eq!(get(shown.at, "/healthz").await.status, 200);
    let page = get(shown.at, "/api/docs").await;
    assert_eq!((page.status, page.header("location")), (303, Some("../#/api")));
    // Another token, without a new socket.
    shown.configs.send_modify(|config| {
        config.admin.as_mut().unwrap().token = loopback(Some("other-other-other")).unwrap().token
    });
    shown.becomes("/healthz", |answer| answer.status == 200).await;
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while ask(shown.at, "GET", "/api/status", &[("Authorization", "Bearer other-other-other")], "").await.status != 200
    {
        assert!(std::time::Instant::now() < deadline, "the new token is not taken");
    }
    assert_eq!(
        ask(shown.at, "GET", "/api/status", &[("Authorization", "Bearer hunter2-hunter2x")], "").await.status,
        401
    );
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_gives_its_reason_only_with_the_token() {
    let bed = Bed::start(&["acme"]).await;
    let mut config = bed.config();
    config.admin = loopback(Some("hunter2-hunter2x"));
    (config.source.url.port, config.state_url.port) = (1, 1);
    let shown = AdminBed::start(config).await;
    let bearer = [("Authorization", "Bearer hunter2-hunter2x")];
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    let told = loop {
        let answer = ask(shown.at, "GET", "/readyz", &bearer, "").await;
        if answer.json()["reason"].is_string() {
            break answer;
        }
        assert!(std::time::Instant::now() < deadline, "{}", answer.body);
    };
    assert!(told.status == 503 && told.body.contains("127.0.0.1:1"), "{}", told.body);
    let open = get(shown.at, "/readyz").await;
    assert_eq!(
        (open.status, open.json()),
        (
            503,
            serde_json::json!({"ready": false, "role": "starting", "reason": null, "level": "failed", "reasons": []})
        )
    );
    shown.stop().await;
}

/// The status of an allowed request for this path.
fn shown_status(path: &str) -> u16 {
    match path {
        "/api/tenants/acme/users" => 503,
        "/api/openapi.json" if !cfg!(feature = "openapi") => 404,
        _ => 200,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_a_foreign_host_header_is_refused() {
    let bed = Bed::start(&["acme"]).await;
    let shown = AdminBed::start(bed.config()).await;
    for host in ["localhost", "127.0.0.1:9187", "[::1]:80"] {
        assert_eq!(ask(shown.at, "GET", "/api/status", &[("Host", host)], "").await.status, 200, "{host}");
    }
    for host in ["rebound.example", "10.1.2.3", "localhost.example", ""] {
        let answer = ask(shown.at, "GET", "/api/status", &[("Host", host)], "").await;
        assert_eq!(answer.status, 400, "{host}: {}", answer.body);
    }
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_listen_address_is_one_clear_message() {
    let bed = Bed::start(&["acme"]).await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let _listener = TcpListener::bind(taken).unwrap();
    let file = bed.config_file(&format!("admin: {{listen: '{taken}'}}"));
    let (text, code) = said(&command(&["run", "-c", file.path().to_str().unwrap()]).await);
    assert!(code == Some(1) && text.contains(&format!("admin.listen: cannot listen on {taken}: ")), "{text}");
    let file = bed.config_file("admin: {listen: '0.0.0.0:9187'}");
    let (text, code) = said(&command(&["run", "-c", file.path().to_str().unwrap()]).await);
    assert!(code == Some(1) && text.contains("admin.token") && text.contains(":3:17"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_moves_to_a_new_listen_address() {
    let bed = Bed::start(&["acme"]).await;
    let shown = AdminBed::start(bed.config()).await;
    shown.becomes("/readyz", |answer| answer.status == 200).await;
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    // An address in use changes nothing.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let go_to = |to: SocketAddr| shown.configs.send_modify(|config| config.admin.as_mut().unwrap().listen = to);
    go_to(taken.local_addr().unwrap());
    shown.becomes("/readyz", |answer| answer.status == 200).await;
    let elsewhere = free();
    go_to(elsewhere);
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    while tokio::net::TcpStream::connect(elsewhere).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "nothing listens on {elsewhere}");
    }
    assert_eq!(get(elsewhere, "/readyz").await.json()["role"], "streaming");
    while tokio::net::TcpStream::connect(shown.at).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "it still listens on {}", shown.at);
    }
    // Without `admin` the server stops; the replication session is not affected.
    shown.configs.send_modify(|config| config.admin = None);
    while tokio::net::TcpStream::connect(elsewhere).await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "it still listens on {elsewhere}");
    }
    assert_eq!(bed.query("auth", "SELECT count(*) FROM users_sync.epoch").await[0][0].as_deref(), Some("1"));
    shown.stop().await;
}
