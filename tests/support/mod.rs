//! Shared by the service's tests: an auth database and tenants' databases on one throwaway server, the service in this
//! process, and the row-by-row comparison of source and targets.

#![allow(dead_code, clippy::unwrap_used)]

pub mod demo;
pub mod http;
pub mod lights;
pub mod majors;
pub mod pooler;
pub mod process;
pub mod proxy;

use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;
use users_sync::config::{Config, Env, Source, Tenant, parse};
use users_sync::map::{Redactions, Rules, Value};
use users_sync::model::{TableName, TenantId, TenantKey};
use users_sync::pg::PgUrl;
use users_sync::replicator;
use users_sync::replicator::ServiceError;
use users_sync::throwaway::{Options, PostgresServer};

/// Time limit for a condition: far above any real duration, so that only a defect reaches it.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The users' table of the tests' auth database.
pub const USERS: &str = "
    CREATE SCHEMA auth;
    CREATE TABLE auth.users (
      id text NOT NULL,
      org text NOT NULL,
      first_name text,
      last_name text,
      email text,
      encrypted_password text,
      profile jsonb,
      created_at timestamptz NOT NULL DEFAULT now(),
      updated_at timestamptz,
      deleted_at timestamptz,
      PRIMARY KEY (id, org)
    )";

/// The expected content of a target, computed by the source itself. `$1` is the tenant.
pub const EXPECTED: &str = "
    SELECT id, (to_jsonb(u) - 'encrypted_password' || jsonb_build_object('id', id,
             'display_name', nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), ''),
             'primary_email', nullif(email, ''),
             'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint))::text,
           nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), ''), nullif(email, ''),
           created_at::text, updated_at::text, deleted_at::text
    FROM auth.users u WHERE org = $1 ORDER BY id COLLATE \"C\"";

/// The content of a target. Users deleted at the source are left out: they stay with a deletion time.
pub const HELD: &str = "
    SELECT id, raw_json::text, name, email, created_at::text, updated_at::text, deleted_at::text
    FROM neon_auth.users_sync WHERE deleted_at IS NULL OR raw_json ->> 'deleted_at' IS NOT NULL ORDER BY id COLLATE \"C\"";

/// `neon_auth.users_sync` as users-sync creates it.
pub const PLAIN: &str = "
    CREATE SCHEMA neon_auth;
    CREATE TABLE neon_auth.users_sync (
      id text PRIMARY KEY,
      raw_json jsonb NOT NULL,
      name text,
      email text,
      created_at timestamptz,
      deleted_at timestamptz,
      updated_at timestamptz
    )";

/// `neon_auth.users_sync` in Neon's shape, with columns generated from raw_json.
pub const GENERATED: &str = "
    CREATE SCHEMA neon_auth;
    CREATE TABLE neon_auth.users_sync (
      raw_json jsonb NOT NULL,
      id text GENERATED ALWAYS AS (raw_json ->> 'id') STORED PRIMARY KEY NOT NULL,
      name text GENERATED ALWAYS AS (raw_json ->> 'display_name') STORED,
      email text GENERATED ALWAYS AS (raw_json ->> 'primary_email') STORED,
      created_at timestamptz GENERATED ALWAYS AS
        (to_timestamp(trunc(((raw_json ->> 'signed_up_at_millis')::bigint)::double precision / 1000))) STORED,
      updated_at timestamptz,
      deleted_at timestamptz
    );
    CREATE INDEX users_sync_deleted_at_idx ON neon_auth.users_sync (deleted_at)";

pub type Row = [Option<String>; 7];

pub fn rules() -> Rules {
    let column = |name: &str| Value::Column(name.to_owned());
    Rules {
        table: TableName { schema: "auth".into(), name: "users".into() },
        id: column("id"),
        name: Some(Value::Join { parts: vec![column("first_name"), column("last_name")], with: " ".into() }),
        email: Some(column("email")),
        created_at: Some(column("created_at")),
        updated_at: Some(column("updated_at")),
        deleted_at: Some(column("deleted_at")),
        tenant: Some(column("org")),
        filter: None,
        allow: None,
        exclude: Vec::new(),
        query: None,
        redactions: Redactions::default(),
    }
}

/// A configuration with the default of every key.
pub fn default_config() -> Config {
    let text = "source: {url: postgres://u@h/auth}\nusers: {table: auth.users, id: id}\n\
                tenants: [{id: acme, target: postgres://u@h/acme}]\n";
    let env = Env { variable: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    parse("defaults", text, &env).unwrap()
}

/// One server with the auth database and one database per tenant.
pub struct Bed {
    pub server: PostgresServer,
    pub tenants: Vec<String>,
}

impl Bed {
    pub async fn start(tenants: &[&str]) -> Bed {
        Bed::start_with(tenants, Options::new()).await
    }

    pub async fn start_with(tenants: &[&str], options: Options) -> Bed {
        let server = PostgresServer::start(options).await.unwrap();
        server.create_database("auth").await.unwrap();
        server.sql("auth", USERS).await.unwrap();
        for tenant in tenants {
            server.create_database(tenant).await.unwrap();
        }
        Bed { server, tenants: tenants.iter().map(|tenant| (*tenant).to_owned()).collect() }
    }

    pub fn url(&self, database: &str) -> PgUrl {
        PgUrl::parse(&self.server.url(database)).unwrap()
    }

    pub fn tenant(&self, name: &str) -> Tenant {
        let default = default_config().tenants[0].as_ref().clone();
        Tenant { id: TenantId::new(name), key: TenantKey::new(name), target: self.url(name), ..default }
    }

    pub fn config(&self) -> Config {
        let default = default_config();
        Config {
            source: Source { url: self.url("auth"), ..default.source },
            state_url: self.url("auth"),
            users: rules(),
            families: Vec::new(),
            tenants: self.tenants.iter().map(|tenant| Arc::new(self.tenant(tenant))).collect(),
            ..default
        }
    }

    pub async fn auth(&self, sql: &str) {
        self.server.sql("auth", sql).await.unwrap();
    }

    pub async fn query(&self, database: &str, sql: &str) -> Vec<Vec<Option<String>>> {
        self.repeat(&mut None, database, sql).await
    }

    /// [`Bed::query`] for a condition that is looked at often. A new connection costs the server more than most queries, so
    /// one is kept until it is lost.
    async fn repeat(&self, kept: &mut Option<Client>, database: &str, sql: &str) -> Vec<Vec<Option<String>>> {
        let answer = match &kept {
            Some(client) => client.simple_query(sql).await.ok(),
            None => None,
        };
        let messages = match answer {
            Some(messages) => messages,
            None => kept.insert(self.server.connect(database).await.unwrap()).simple_query(sql).await.unwrap(),
        };
        messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
                }
                _ => None,
            })
            .collect()
    }

    pub async fn expected(&self, tenant: &str) -> Vec<Row> {
        expected(&self.server.connect("auth").await.unwrap(), tenant).await.unwrap()
    }

    pub async fn held(&self, tenant: &str) -> Vec<Row> {
        held(&self.server.connect(tenant).await.unwrap()).await.unwrap()
    }

    /// [`Bed::expected`] and [`Bed::held`], with connections that are kept until they are lost.
    async fn both_sides(&self, kept: &mut Option<(Client, Client)>, tenant: &str) -> (Vec<Row>, Vec<Row>) {
        if let Some((auth, target)) = kept
            && let (Ok(expected), Ok(held)) = (expected(auth, tenant).await, held(target).await)
        {
            return (expected, held);
        }
        let (auth, target) = (self.server.connect("auth").await.unwrap(), self.server.connect(tenant).await.unwrap());
        let (auth, target) = kept.insert((auth, target));
        (expected(auth, tenant).await.unwrap(), held(target).await.unwrap())
    }

    /// Waits until every target equals the source.
    #[track_caller]
    pub fn equal(&self) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            for tenant in &self.tenants {
                let deadline = Instant::now() + DEADLINE;
                let mut clients = None;
                loop {
                    let (expected, held) = self.both_sides(&mut clients, tenant).await;
                    if expected == held {
                        break;
                    }
                    if Instant::now() > deadline {
                        let shown = |rows: &[Row], others: &[Row]| {
                            let only: Vec<_> = rows.iter().filter(|row| !others.contains(row)).take(3).collect();
                            format!("{only:?}").chars().take(2000).collect::<String>()
                        };
                        let states = self.query("auth", "SELECT * FROM users_sync.tenant").await;
                        let (missing, extra) = (shown(&expected, &held), shown(&held, &expected));
                        panic!(
                            "{caller}: {tenant} holds {} users of {}\nmissing {missing}\nextra {extra}\nstates {states:?}",
                            held.len(),
                            expected.len()
                        );
                    }
                    pause().await;
                }
            }
        }
    }

    /// Waits until a query's first value is `wanted`.
    #[track_caller]
    pub fn becomes<'a>(&'a self, database: &'a str, sql: &'a str, wanted: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + DEADLINE;
            let mut client = None;
            loop {
                let rows = self.repeat(&mut client, database, sql).await;
                let value = rows.first().and_then(|row| row[0].clone()).unwrap_or_default();
                if value == wanted {
                    return;
                }
                assert!(Instant::now() < deadline, "{caller}: {sql} is {value:?}, not {wanted:?}");
                pause().await;
            }
        }
    }

    /// Waits until the state has the tenant in this state.
    #[track_caller]
    pub fn state_is<'a>(&'a self, tenant: &'a str, state: &'a str) -> impl Future<Output = ()> + 'a {
        self.state_is_within(DEADLINE, tenant, state)
    }

    /// [`Bed::state_is`] with a longer limit, for what takes many steps.
    #[track_caller]
    pub fn state_is_within<'a>(
        &'a self,
        within: Duration,
        tenant: &'a str,
        state: &'a str,
    ) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let sql = format!(
                "SELECT CASE WHEN to_regclass('users_sync.tenant') IS NULL THEN '' ELSE \
                 (xpath('//state/text()', query_to_xml($$SELECT state FROM users_sync.tenant \
                 WHERE tenant = '{tenant}'$$, true, false, '')))[1]::text END"
            );
            let deadline = Instant::now() + within;
            let mut client = None;
            loop {
                let rows = self.repeat(&mut client, "auth", &sql).await;
                if rows[0][0].as_deref() == Some(state) {
                    return;
                }
                let why = match rows[0][0].as_deref() {
                    Some("parked") => self.query("auth", "SELECT tenant, reason FROM users_sync.tenant").await,
                    _ => Vec::new(),
                };
                assert!(Instant::now() < deadline, "{caller}: {tenant} is {:?}, not {state}; {why:?}", rows[0][0]);
                pause().await;
            }
        }
    }
}

async fn expected(auth: &Client, tenant: &str) -> Result<Vec<Row>, tokio_postgres::Error> {
    rows(auth, EXPECTED, &[&tenant]).await
}

async fn held(target: &Client) -> Result<Vec<Row>, tokio_postgres::Error> {
    let there = target.query_one("SELECT to_regclass('neon_auth.users_sync') IS NOT NULL", &[]).await?;
    if there.get(0) { rows(target, HELD, &[]).await } else { Ok(Vec::new()) }
}

async fn rows(
    client: &Client,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let rows = client.query(sql, parameters).await?;
    Ok(rows.iter().map(|row| std::array::from_fn(|column| row.get(column))).collect())
}

/// Lets a random time pass before a fault. Nothing is waited for.
pub async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The pause between two checks of a condition.
pub async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// [`pause`] for code without an async runtime.
pub fn breathe() {
    std::thread::sleep(Duration::from_millis(20));
}

/// The service, in this process.
pub struct Service {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ServiceError>>,
}

impl Service {
    pub fn start(config: Config) -> Service {
        log();
        let stop = CancellationToken::new();
        Service { task: tokio::spawn(replicator::run(config, stop.clone())), stop }
    }

    /// Stops it as SIGTERM does, and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Whether it is still running. It ends on its own only with a final error.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Ends it as kill -9 does: nothing is finished.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// Waits until it ends on its own. Returns its error.
    pub async fn fails(self) -> ServiceError {
        tokio::time::timeout(DEADLINE, self.task).await.expect("it goes on").unwrap().unwrap_err()
    }
}

/// Logs to the test's output. `RUST_LOG` sets the level.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "users_sync=info".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
