//! Logins: every sslmode against every line of pg_hba.conf, and refused logins.

use super::{
    Authority, DEADLINE, fake_server, kind, outcome, outcome_of_replication, outcome_of_sql, parse, tls_server, url,
    within,
};
use crate::support::proxy::TcpProxy;
use rcgen::PKCS_ECDSA_P256_SHA256;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use users_sync::capture::{CaptureError, ReplicationConnection};
use users_sync::pg::{self, ConnectError};
use users_sync::throwaway::{Options, PostgresServer};

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
const KINDS: [&str; 3] = ["host", "hostssl", "hostnossl"];
const METHODS: [&str; 4] = ["trust", "scram-sha-256", "md5", "password"];

/// A role for each kind of line and method, named after both, with the password `right`. All other roles are rejected.
fn options() -> Options {
    let mut options = Options::new().auth("reject");
    for kind in KINDS {
        for method in METHODS {
            options = options.hba(&format!("{kind} all {} 127.0.0.1/32 {method}", role(kind, method)));
        }
    }
    options.hba("local all unix_password password")
}

fn role(kind: &str, method: &str) -> String {
    format!("{kind}_{}", method.replace('-', "_"))
}

async fn create_roles(server: &PostgresServer) {
    for kind in KINDS {
        for method in METHODS {
            let encryption = if method == "md5" { "md5" } else { "scram-sha-256" };
            let role = role(kind, method);
            let sql = format!(
                "set password_encryption = '{encryption}'; create role {role} login replication password 'right'"
            );
            server.sql("postgres", &sql).await.unwrap();
        }
    }
}

/// libpq's rules. The server is at 127.0.0.1, which counts as private.
fn expected(mode: &str, kind: &str, server_has_tls: bool) -> &'static str {
    let attempts: &[bool] = match (mode, server_has_tls) {
        ("disable", _) | ("allow" | "prefer", false) => &[false],
        ("allow", true) => &[false, true],
        ("prefer", true) => &[true, false],
        (_, true) => &[true],
        (_, false) => return "no tls",
    };
    let let_in = |tls: &&bool| kind == "host" || (kind == "hostssl") == **tls;
    match attempts.iter().find(let_in) {
        None => "auth 28000",
        Some(true) => "tls",
        Some(false) => "plain",
    }
}

async fn check_matrix(server: &PostgresServer, roots: &str, server_has_tls: bool) {
    for mode in MODES {
        for kind in KINDS {
            for method in METHODS {
                let login = format!("{}:right", role(kind, method));
                let url = url(&login, "127.0.0.1", server.port(), &format!("sslmode={mode}&{roots}"));
                assert_eq!(outcome(&url).await, expected(mode, kind, server_has_tls), "{url}");
            }
        }
    }
}

#[tokio::test]
async fn every_sslmode_meets_every_pg_hba_line_as_in_libpq() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let server = tls_server(options(), authority.sign("127.0.0.1")).await;
    create_roles(&server).await;
    check_matrix(&server, &super::roots(&authority.file()), true).await;

    // Login errors are told apart, and a wrong password is not retried in another mode.
    let port = server.port();
    for method in ["scram-sha-256", "md5", "password"] {
        let role = role("hostssl", method);
        for mode in ["prefer", "require"] {
            let parameters = format!("sslmode={mode}");
            assert_eq!(outcome(&url(&format!("{role}:wrong"), "127.0.0.1", port, &parameters)).await, "auth 28P01");
            assert_eq!(outcome(&url(&role, "127.0.0.1", port, &parameters)).await, "auth", "no password");
        }
    }
    assert_eq!(outcome(&url("unlisted:x", "127.0.0.1", port, "sslmode=require")).await, "auth 28000");

    // channel_binding=require accepts only SCRAM over TLS.
    for method in METHODS {
        let login = format!("{}:right", role("host", method));
        let require = |mode: &str| url(&login, "127.0.0.1", port, &format!("channel_binding=require&sslmode={mode}"));
        let expected = if method == "scram-sha-256" { "tls" } else { "auth" };
        assert_eq!(outcome(&require("require")).await, expected, "{method}");
        assert_eq!(outcome(&require("disable")).await, "auth", "{method}");
    }
}

/// 127.0.0.2 stands for a host on the network.
#[tokio::test]
async fn a_clear_text_password_is_sent_over_the_network_only_to_a_verified_server() {
    let authority = Authority::new(&PKCS_ECDSA_P256_SHA256);
    let options = options().set("listen_addresses", "127.0.0.1,127.0.0.2");
    let server = tls_server(options, authority.sign("127.0.0.2")).await;
    create_roles(&server).await;
    let roots = super::roots(&authority.file());
    let outcome_with = async |role: &str, parameters: &str| {
        outcome(&url(&format!("{role}:right"), "127.0.0.2", server.port(), parameters)).await
    };
    for mode in ["disable", "allow", "prefer", "require"] {
        assert_eq!(outcome_with("host_password", &format!("sslmode={mode}")).await, "auth", "{mode}");
        let scram = outcome_with("host_scram_sha_256", &format!("sslmode={mode}")).await;
        assert!(scram == "tls" || scram == "plain", "{mode}: {scram}");
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_eq!(outcome_with("host_password", &format!("sslmode={mode}&{roots}")).await, "tls", "{mode}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_used_only_if_sslmode_allows_it() {
    let server = PostgresServer::start(options()).await.unwrap();
    // A server without TLS cannot have matching hostssl lines; the rules stay the same.
    create_roles(&server).await;
    check_matrix(&server, "", false).await;
}

#[tokio::test]
async fn refusals_for_other_reasons_keep_the_servers_code() {
    let server = PostgresServer::start(options()).await.unwrap();
    let port = server.port();
    assert_eq!(outcome(&format!("postgresql://postgres@127.0.0.1:{port}/nowhere")).await, "server 3D000");

    server.sql("postgres", "create role host_trust login; create role host_md5 nologin").await.unwrap();
    let without_replication = url("host_trust", "127.0.0.1", port, "");
    assert_eq!(outcome_of_sql(&without_replication).await, "plain");
    assert_eq!(outcome_of_replication(&without_replication).await, "server 42501");

    let full = "alter system set max_connections = 5; alter system set superuser_reserved_connections = 0;
                alter system set max_wal_senders = 1";
    for statement in full.split(';') {
        server.sql("postgres", statement).await.unwrap();
    }
    let mut server = server;
    server.restart().await.unwrap();
    let _only = ReplicationConnection::connect(&parse(&server.url("postgres"))).await.unwrap();
    assert_eq!(outcome_of_replication(&server.url("postgres")).await, "server 53300");
}

#[tokio::test]
async fn passwords_beyond_ascii_and_unix_sockets_work() {
    let server = PostgresServer::start(options()).await.unwrap();
    server
        .sql("postgres", "create role host_scram_sha_256 login replication password 'Ä ß\u{a0}€\u{1F600}'; create role unix_password login replication password 'a/b'")
        .await
        .unwrap();
    let login = "host_scram_sha_256:%C3%84%20%C3%9F%C2%A0%E2%82%AC%F0%9F%98%80";
    assert_eq!(outcome(&url(login, "127.0.0.1", server.port(), "sslmode=disable")).await, "plain");
    // A Unix socket cannot be intercepted: clear text is allowed, and TLS is not used in any mode.
    let unix = format!(
        "postgresql://unix_password:a%2Fb@/postgres?host={}&port={}&sslmode=require",
        server.socket_dir().display(),
        server.port()
    );
    assert_eq!(outcome(&unix).await, "plain");
}

#[tokio::test]
async fn a_silent_host_and_a_foreign_server_are_told_apart() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for mode in ["disable", "require"] {
        assert_eq!(
            outcome(&url("u", "127.0.0.1", port, &format!("sslmode={mode}&connect_timeout=1"))).await,
            "timeout"
        );
    }
    drop(silent);
    assert_eq!(outcome(&url("u", "127.0.0.1", port, "")).await, "unreachable");
    assert_eq!(outcome(&url("u", "no-such-host.invalid", port, "")).await, "unreachable");

    for mode in ["disable", "prefer", "require"] {
        let port = fake_server("127.0.0.1", |mut client| async move {
            let mut start = [0; 8];
            client.read_exact(&mut start).await.unwrap();
            client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = client.read_to_end(&mut Vec::new()).await;
        })
        .await;
        assert_eq!(outcome(&url("u", "127.0.0.1", port, &format!("sslmode={mode}"))).await, "protocol", "{mode}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_during_the_login_counts_as_unreachable() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    let proxy = TcpProxy::start(([127, 0, 0, 1], server.port()).into()).await.unwrap();
    let url = url("postgres", "127.0.0.1", proxy.port(), "sslmode=disable");
    assert_eq!(outcome(&url).await, "plain");
    proxy.refuse(true);
    assert_eq!(outcome(&url).await, "unreachable");
    proxy.refuse(false);
    for _ in 0..2 {
        // The reply to the startup message, which holds the database's name.
        proxy.swallow_reply_to(b"database\0postgres");
        assert_eq!(outcome_of_sql(&url).await, "unreachable");
        proxy.swallow_reply_to(b"database\0postgres");
        assert_eq!(outcome_of_replication(&url).await, "unreachable");
    }
}

/// Asked for a clear-text password, the client sends no byte of it.
#[tokio::test]
async fn a_password_never_crosses_an_open_connection_in_clear_text() {
    for replication in [false, true] {
        let (seen, received) = tokio::sync::oneshot::channel();
        let seen = std::sync::Mutex::new(Some(seen));
        let port = fake_server("127.0.0.2", move |mut client| {
            let seen = seen.lock().unwrap().take().expect("one connection");
            async move {
                let mut received = vec![0; 4];
                client.read_exact(&mut received).await.unwrap();
                let length = u32::from_be_bytes(received[..4].try_into().unwrap()) as usize;
                received.resize(length, 0);
                client.read_exact(&mut received[4..]).await.unwrap();
                // AuthenticationCleartextPassword
                client.write_all(b"R\0\0\0\x08\0\0\0\x03").await.unwrap();
                let _ = client.read_to_end(&mut received).await;
                seen.send(received).unwrap();
            }
        })
        .await;
        let url = url("u:hunter2", "127.0.0.2", port, "sslmode=disable");
        let error = if replication {
            match ReplicationConnection::connect(&parse(&url)).await.err().unwrap() {
                CaptureError::Connect(error) => error,
                other => panic!("{other}"),
            }
        } else {
            pg::connect(&parse(&url)).await.err().unwrap()
        };
        assert_eq!(kind(&error), "auth");
        assert!(error.to_string().contains("sslmode=verify-full"), "{error}");
        let received = within(received).await.unwrap();
        assert!(!received.windows(7).any(|window| window == b"hunter2"));
    }
}

#[tokio::test]
async fn no_error_shows_the_password() {
    let server = PostgresServer::start(options()).await.unwrap();
    create_roles(&server).await;
    for login in ["host_scram_sha_256:hunter2", "host_md5:hunter2", "host_password:hunter2", "unlisted:hunter2"] {
        let url = parse(&url(login, "127.0.0.1", server.port(), ""));
        let error: ConnectError = pg::connect(&url).await.err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{login}");
        let error: CaptureError = ReplicationConnection::connect(&url).await.err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{login}");
    }
}

#[tokio::test]
async fn a_closed_client_leaves_no_session_behind() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    let observer = server.connect("postgres").await.unwrap();
    let sessions = async || -> i64 {
        let query = "select count(*) from pg_stat_activity where application_name = 'users-sync'";
        observer.query_one(query, &[]).await.unwrap().get(0)
    };
    let client = pg::connect(&parse(&server.url("postgres"))).await.unwrap();
    let replication = ReplicationConnection::connect(&parse(&server.url("postgres"))).await.unwrap();
    assert_eq!(sessions().await, 2);
    client.close().await;
    drop(replication);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while sessions().await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "sessions are left");
    }
    // A running statement does not keep the session.
    let client = pg::connect(&parse(&server.url("postgres"))).await.unwrap();
    let running = client.query_one("select pg_sleep(600)", &[]);
    assert!(tokio::time::timeout(Duration::from_millis(50), running).await.is_err());
    tokio::time::timeout(Duration::from_secs(5), client.close()).await.expect("the client waits for its statement");
}
