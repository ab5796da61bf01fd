//! The demo's two servers, their tables and the configuration.

use super::error::DemoError;
use crate::config::{self, Config, Env};
use crate::throwaway::{Options, PostgresServer};
use std::time::Duration;
use tokio_postgres::Client;

pub(super) const TENANTS: [&str; 2] = ["acme", "globex"];
pub(super) const INITIAL_USERS: u32 = 200;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const AUTH: &str = "
    CREATE SCHEMA auth;
    CREATE TABLE auth.users (
      id uuid NOT NULL DEFAULT gen_random_uuid(),
      organization text NOT NULL,
      username text NOT NULL,
      first_name text,
      last_name text,
      email text,
      encrypted_password text NOT NULL DEFAULT md5(random()::text),
      created_at timestamptz NOT NULL DEFAULT now(),
      updated_at timestamptz,
      PRIMARY KEY (id, organization)
    )";

const TODOS: &str = "
    CREATE TABLE todos (
      id serial PRIMARY KEY,
      task text NOT NULL,
      user_id text NOT NULL REFERENCES neon_auth.users_sync(id) ON DELETE CASCADE,
      created_at timestamptz DEFAULT current_timestamp
    )";

pub(super) struct Stage {
    source: PostgresServer,
    targets: PostgresServer,
}

impl Stage {
    pub(super) async fn build() -> Result<Stage, DemoError> {
        let options = || Options::new().measured();
        let (source, targets) = tokio::try_join!(PostgresServer::start(options()), PostgresServer::start(options()))?;
        source.create_database("auth").await?;
        source.sql("auth", AUTH).await?;
        let first = format!(
            "INSERT INTO auth.users (organization, username, first_name, email)
             SELECT (ARRAY['acme', 'globex'])[1 + n % 2], 'user' || n, 'Early ' || n, 'user' || n || '@example.com'
             FROM generate_series(1, {INITIAL_USERS}) n"
        );
        source.sql("auth", &first).await?;
        for tenant in TENANTS {
            targets.create_database(tenant).await?;
        }
        Ok(Stage { source, targets })
    }

    pub(super) fn source_url(&self) -> String {
        self.source.url("auth")
    }

    pub(super) fn target_url(&self, tenant: &str) -> String {
        self.targets.url(tenant)
    }

    /// With `brokers` the configuration has a `kafka` section.
    pub(super) fn config(&self, brokers: Option<&str>) -> Result<Config, DemoError> {
        let variable = |name: &str| match name {
            "SOURCE" => Some(self.source_url()),
            "ACME" => Some(self.target_url("acme")),
            "GLOBEX" => Some(self.target_url("globex")),
            _ => None,
        };
        let file = |_: &str| Err(std::io::ErrorKind::NotFound.into());
        let mut text = include_str!("demo.yaml").to_owned();
        if let Some(brokers) = brokers {
            let topics = "topic: 'users_sync_demo.{tenant}', positions_topic: users_sync_demo.positions";
            text.push_str(&format!("\nkafka: {{brokers: '{}', {topics}}}\n", brokers.replace('\'', "''")));
        }
        Ok(config::parse("demo.yaml", &text, &Env { variable: &variable, file: &file })?)
    }

    pub(super) async fn auth(&self) -> Result<Client, DemoError> {
        Ok(self.source.connect("auth").await?)
    }

    pub(super) async fn tenant(&self, tenant: &str) -> Result<Client, DemoError> {
        Ok(self.targets.connect(tenant).await?)
    }

    pub(super) async fn wait_until_all_follow(&self) -> Result<(), DemoError> {
        let client = self.auth().await?;
        loop {
            let there = "SELECT to_regclass('users_sync.tenant') IS NOT NULL";
            if client.query_one(there, &[]).await?.try_get(0)? {
                let following = "SELECT count(*) FROM users_sync.tenant WHERE state = 'following'";
                if client.query_one(following, &[]).await?.try_get::<_, i64>(0)? == TENANTS.len() as i64 {
                    return Ok(());
                }
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// A table of the application with a foreign key to `users_sync`.
    pub(super) async fn create_todos(&self) -> Result<(), DemoError> {
        for tenant in TENANTS {
            self.targets.sql(tenant, TODOS).await?;
        }
        Ok(())
    }
}
