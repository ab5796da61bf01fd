//! `preset: neon-auth` with source and target in one database: applications that refer to `neon_auth.users_sync` go on as before.

use crate::support::process::{Process, adopts, command, said};
use crate::support::{DEADLINE, GENERATED, pause};
use std::io::Write;
use std::time::Instant;
use tempfile::NamedTempFile;
use users_sync::throwaway::{Options, PostgresServer};

/// Better Auth's table of users in Neon's schema.
const USERS: &str = "
    CREATE SCHEMA IF NOT EXISTS neon_auth;
    CREATE TABLE neon_auth.\"user\" (
      id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
      name text NOT NULL,
      email text NOT NULL UNIQUE,
      \"emailVerified\" boolean NOT NULL DEFAULT false,
      image text,
      \"createdAt\" timestamptz NOT NULL DEFAULT now(),
      \"updatedAt\" timestamptz NOT NULL DEFAULT now(),
      role text,
      banned boolean,
      \"banReason\" text,
      \"banExpires\" timestamptz
    );
    INSERT INTO neon_auth.\"user\" (id, name, email) VALUES ('00000000-0000-0000-0000-000000000001', 'Ada', 'ada@x.org')";

struct Project {
    server: PostgresServer,
    config: NamedTempFile,
}

impl Project {
    async fn new(tables: &str) -> Project {
        let server = PostgresServer::start(Options::new()).await.unwrap();
        server.create_database("app").await.unwrap();
        server.sql("app", tables).await.unwrap();
        server.sql("app", USERS).await.unwrap();
        let mut config = NamedTempFile::new().unwrap();
        let url = server.url("app");
        let text = format!(
            "source: {{url: '{url}'}}\nusers: {{preset: neon-auth}}\ntenants: [{{id: app, target: '{url}'}}]\n"
        );
        config.write_all(text.as_bytes()).unwrap();
        Project { server, config }
    }

    async fn becomes(&self, sql: &str, expected: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let client = self.server.connect("app").await.unwrap();
            let found = client.query_opt(sql, &[]).await.ok().flatten().and_then(|row| row.get::<_, Option<String>>(0));
            if found.as_deref() == Some(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{sql} returns {found:?}, not {expected}");
            pause().await;
        }
    }

    async fn command(&self, arguments: &[&str]) {
        let arguments = [arguments, &["-c", self.config.path().to_str().unwrap()]].concat();
        let (text, code) = said(&command(&arguments).await);
        assert_eq!(code, Some(0), "{arguments:?}: {text}");
    }

    /// Sign-ups, changes and deletes arrive in the same database, with a table of the application that refers to them.
    async fn follows(&self) {
        self.becomes("SELECT state::text FROM users_sync.tenant", "following").await;
        self.becomes("SELECT name || ' ' || email FROM neon_auth.users_sync WHERE name = 'Ada'", "Ada ada@x.org").await;
        let sql = "CREATE TABLE todos (user_id text NOT NULL REFERENCES neon_auth.users_sync (id));
                   INSERT INTO neon_auth.\"user\" (id, name, email)
                   VALUES ('00000000-0000-0000-0000-000000000002', 'Grace', 'grace@x.org')";
        self.server.sql("app", sql).await.unwrap();
        let grace = "FROM neon_auth.users_sync WHERE id = '00000000-0000-0000-0000-000000000002'";
        self.becomes(&format!("SELECT name {grace}"), "Grace").await;
        let sql = "INSERT INTO todos VALUES ('00000000-0000-0000-0000-000000000002');
                   UPDATE neon_auth.\"user\" SET image = 'x' WHERE name = 'Grace'";
        self.server.sql("app", sql).await.unwrap();
        self.becomes(&format!("SELECT raw_json ->> 'image' {grace}"), "x").await;
        self.server.sql("app", "DELETE FROM neon_auth.\"user\" WHERE name = 'Grace'").await.unwrap();
        self.becomes(&format!("SELECT (deleted_at IS NOT NULL)::text {grace}"), "true").await;
        self.command(&["verify"]).await;
        self.command(&["check"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_sync_follows_the_users_of_the_same_database() {
    let project = Project::new("").await;
    let process = Process::start(&project.config);
    project.follows().await;
    assert!(process.stop().await.success());
}

/// Neon filled the table until it closed it to new projects.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_sync_that_neon_filled_is_taken_over() {
    let rows = format!(
        "{GENERATED}; INSERT INTO neon_auth.users_sync (raw_json, updated_at) VALUES
           ('{{\"id\": \"00000000-0000-0000-0000-000000000001\", \"display_name\": \"Ada\", \
             \"primary_email\": \"old@x.org\", \"signed_up_at_millis\": 1700000000000}}', now()),
           ('{{\"id\": \"gone\", \"display_name\": \"Gone\", \"signed_up_at_millis\": 1700000000000}}', NULL)"
    );
    let project = Project::new(&rows).await;
    let process = Process::start(&project.config);
    project.becomes("SELECT state::text FROM users_sync.tenant", "parked").await;
    adopts("users-sync adopt -c FILE app", project.config.path()).await;
    project.follows().await;
    // No row is deleted: the application may refer to it.
    let gone = "SELECT (deleted_at IS NOT NULL)::text FROM neon_auth.users_sync WHERE id = 'gone'";
    project.becomes(gone, "true").await;
    assert!(process.stop().await.success());
}
