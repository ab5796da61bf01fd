//! Throwaway servers start, survive faults as real ones do, and leave nothing behind.

use std::collections::BTreeSet;
use users_sync::throwaway::{Options, PostgresServer, ThrowawayError};

async fn count(server: &PostgresServer) -> i64 {
    let client = server.connect("postgres").await.unwrap();
    client.query_one("select count(*) from t", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_server_starts_with_logical_replication_and_the_given_settings() {
    let server = PostgresServer::start(Options::new().set("work_mem", "5MB")).await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    for (name, wanted) in [("wal_level", "logical"), ("work_mem", "5MB"), ("max_connections", "300")] {
        let value: String = client.query_one("select current_setting($1)", &[&name]).await.unwrap().get(0);
        assert_eq!(value, wanted, "{name}");
    }
}

#[tokio::test]
async fn servers_have_identifiers_of_their_own_that_survive_a_crash() {
    let mut servers = Vec::new();
    for options in [Options::new(), Options::new(), Options::new().measured()] {
        servers.push(PostgresServer::start(options).await.unwrap());
    }
    let identifier = async |server: &PostgresServer| -> i64 {
        let client = server.connect("postgres").await.unwrap();
        client.query_one("select system_identifier from pg_control_system()", &[]).await.unwrap().get(0)
    };
    let mut found = BTreeSet::new();
    for server in &mut servers {
        let before = identifier(server).await;
        server.stop_immediate().await.unwrap();
        server.restart().await.unwrap();
        assert_eq!(identifier(server).await, before);
        found.insert(before);
    }
    assert_eq!(found.len(), servers.len());
}

#[tokio::test]
async fn commits_survive_every_way_to_end_the_server() {
    let mut server = PostgresServer::start(Options::new()).await.unwrap();
    let port = server.port();
    server.sql("postgres", "create table t (a int)").await.unwrap();
    for round in 1..=3 {
        server.sql("postgres", "insert into t values (1)").await.unwrap();
        match round {
            1 => server.kill().await.unwrap(),
            2 => server.stop_immediate().await.unwrap(),
            _ => server.stop().await.unwrap(),
        }
        assert!(server.connect("postgres").await.is_err());
        server.restart().await.unwrap();
        assert_eq!(count(&server).await, round);
    }
    assert_eq!(server.port(), port);
}

#[tokio::test]
async fn nothing_is_left_once_the_server_is_dropped() {
    let server = PostgresServer::start(Options::new()).await.unwrap();
    let (directory, port) = (server.socket_dir().to_owned(), server.port());
    drop(server);
    assert!(!directory.exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[tokio::test]
async fn other_roles_need_their_password_if_configured() {
    let server = PostgresServer::start(Options::new().auth("scram-sha-256")).await.unwrap();
    server.sql("postgres", "create role r login password 'right'").await.unwrap();
    let connects = async |role: &str| {
        tokio_postgres::connect(&server.url_for(role, "postgres"), tokio_postgres::NoTls).await.is_ok()
    };
    assert!(connects("r:right").await);
    assert!(!connects("r:wrong").await);
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why() {
    let error = PostgresServer::start(Options::new().set("no_such_setting", "1")).await.unwrap_err();
    assert!(matches!(&error, ThrowawayError::Server { log, .. } if log.contains("no_such_setting")), "{error}");
}

#[tokio::test]
async fn a_server_does_not_take_another_one_at_its_port_for_itself() {
    let first = PostgresServer::start(Options::new()).await.unwrap();
    let error = PostgresServer::start(Options::new().port(first.port())).await.unwrap_err();
    assert!(matches!(&error, ThrowawayError::Server { log, .. } if log.contains("could not bind")), "{error}");
}
