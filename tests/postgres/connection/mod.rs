//! Both clients, SQL and replication, against real servers: login and stream.

mod client_certificate;
mod hostile_login;
mod login;
mod plain_text;
mod service_certificate;
mod short_lived;
mod stream;
mod tls;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SignatureAlgorithm};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use users_sync::capture::{CaptureError, ReplicationConnection};
use users_sync::pg::{self, ConnectError, PgUrl};
use users_sync::throwaway::{Options, PostgresServer};

/// Time limit, far above any real wait.
const DEADLINE: Duration = Duration::from_secs(30);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("nothing happened")
}

fn parse(url: &str) -> PgUrl {
    PgUrl::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
}

/// The outcome of a login: `tls`, `plain`, or the kind of error with the server's code.
async fn outcome_of_sql(url: &str) -> String {
    let client = match within(pg::connect(&parse(url))).await {
        Ok(client) => client,
        Err(error) => return kind(&error),
    };
    let row = client.query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[]).await.unwrap();
    encryption(row.get(0))
}

async fn outcome_of_replication(url: &str) -> String {
    let mut connection = match within(ReplicationConnection::connect(&parse(url))).await {
        Ok(connection) => connection,
        Err(CaptureError::Connect(error)) => return kind(&error),
        Err(error) => panic!("{url}: not an error of connecting: {error:?}"),
    };
    let query = format!("select ssl from pg_stat_ssl where pid = {}", connection.backend_pid());
    let rows = connection.simple_query(&query).await.unwrap();
    encryption(rows == [[Some("t".to_owned())]])
}

/// Checks that both clients log in the same way: they share one implementation.
async fn outcome(url: &str) -> String {
    let sql = outcome_of_sql(url).await;
    assert_eq!(sql, outcome_of_replication(url).await, "SQL and replication differ: {url}");
    sql
}

fn encryption(tls: bool) -> String {
    if tls { "tls" } else { "plain" }.to_owned()
}

fn kind(error: &ConnectError) -> String {
    match error {
        ConnectError::Unreachable { .. } => "unreachable".to_owned(),
        ConnectError::Timeout { .. } => "timeout".to_owned(),
        ConnectError::Tls { .. } => "no tls".to_owned(),
        ConnectError::Auth { sqlstate: None, .. } => "auth".to_owned(),
        ConnectError::Auth { sqlstate: Some(code), .. } => format!("auth {code}"),
        ConnectError::Server { error, .. } => format!("server {}", error.sqlstate),
        ConnectError::Protocol { .. } => "protocol".to_owned(),
        ConnectError::Password { .. } => "no password".to_owned(),
    }
}

/// The error of connecting. It must not hold the password of a key.
async fn refusal(url: &str) -> String {
    let error = within(pg::connect(&parse(url))).await.err().unwrap();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    error.to_string()
}

/// A certificate authority, its file, and the certificates that it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    fn new(algorithm: &'static SignatureAlgorithm) -> Authority {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let dir = tempfile::tempdir().unwrap();
        // Authorities are found by their names.
        params.distinguished_name.push(DnType::CommonName, dir.path().display().to_string());
        std::fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { issuer: Issuer::new(params, key), dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Signs a server's name or address.
    fn sign(&self, name: &str) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        Signed { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A certificate and its key in PEM.
struct Signed {
    certificate: String,
    key: String,
}

/// A server that uses TLS with this certificate and key.
async fn tls_server(options: Options, signed: Signed) -> PostgresServer {
    let mut server = PostgresServer::start(options).await.unwrap();
    use_certificate(&mut server, signed).await;
    server
}

async fn use_certificate(server: &mut PostgresServer, Signed { certificate, key }: Signed) {
    server.write_file("server.crt", certificate.as_bytes()).unwrap();
    server.write_file("server.key", key.as_bytes()).unwrap();
    server.sql("postgres", "alter system set ssl = on").await.unwrap();
    server.restart().await.unwrap();
}

/// A URL with these parameters.
fn url(login: &str, host: &str, port: u16, parameters: &str) -> String {
    format!("postgresql://{login}@{host}:{port}/postgres?{parameters}")
}

fn roots(file: &Path) -> String {
    format!("sslrootcert={}", file.display())
}

/// Answers every connection with `serve`. Returns the port.
async fn fake_server<F, Fut>(host: &str, serve: F) -> u16
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client));
        }
    });
    port
}
