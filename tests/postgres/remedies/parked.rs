//! The remedies of a running process: a target is broken, the remedy shown for the parked tenant is followed, and the
//! tenant recovers. Also the remedies printed before the process exits.

use super::{no_postgres, statements};
use crate::support::majors::at_least;
use crate::support::process::{Log, Process, adopts};
use crate::support::{Bed, DEADLINE, Service, pause};
use std::time::Instant;
use tempfile::NamedTempFile;
use users_sync::config::Config;

const TENANTS: [&str; 12] =
    ["acme", "renamed", "dropped", "shape", "view", "stored", "foreign", "parts", "counter", "kind", "gone", "lacking"];

struct Scene {
    bed: Bed,
    process: Process,
    log: Log,
    config: NamedTempFile,
}

impl Scene {
    async fn start(tenants: &[&str]) -> Scene {
        let bed = Bed::start(tenants).await;
        for tenant in tenants {
            bed.auth(&format!("INSERT INTO auth.users (id, org, updated_at) VALUES ('u', '{tenant}', now())")).await;
        }
        let config = bed.config_file("");
        let (process, log) = Process::start_logged(&config);
        bed.equal().await;
        Scene { bed, process, log, config }
    }

    /// Ends all connections, so that the target is opened again.
    async fn at_target(&self, tenant: &str, sql: &str) {
        self.bed.server.sql(tenant, sql).await.unwrap();
        let others = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{tenant}' AND pid <> pg_backend_pid()"
        );
        self.bed.server.sql(tenant, &others).await.unwrap();
    }

    async fn change(&self, tenant: &str) {
        self.bed
            .auth(&format!("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE org = '{tenant}'"))
            .await;
    }

    /// The recorded remedy, once the tenant is parked with one that contains these words.
    async fn remedy(&self, tenant: &str, words: &str) -> String {
        remedy(&self.bed, tenant, words).await
    }

    /// Writes the configuration file, which reloads it.
    fn corrects(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.config.path()).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(self.config.path(), text.replace(from, to)).unwrap();
    }

    async fn ends_well(self) {
        self.bed.equal().await;
        for tenant in &self.bed.tenants {
            self.bed.state_is(tenant, "following").await;
        }
        assert!(self.process.stop().await.success(), "{}", self.log.text());
    }
}

async fn remedy(bed: &Bed, tenant: &str, words: &str) -> String {
    remedy_in(bed, tenant, "parked", words).await
}

/// The remedy of a tenant in this state, once it has these words.
async fn remedy_in(bed: &Bed, tenant: &str, expected: &str, words: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let sql = format!("SELECT state, remedy FROM users_sync.tenant WHERE tenant = '{tenant}'");
        let rows = bed.query("auth", &sql).await;
        if let Some([Some(state), Some(remedy)]) = rows.first().map(|row| &row[..])
            && state == expected
            && remedy.contains(words)
        {
            return remedy.clone();
        }
        assert!(Instant::now() < deadline, "{tenant} is {rows:?}, and not {expected} with {words}");
        pause().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remedies_for_an_altered_target_work() {
    let scene = Scene::start(&TENANTS).await;
    // For each case: a part of the remedy, the break, and the fix.
    let rename = "ALTER TABLE users_sync.checkpoint RENAME COLUMN epoch TO era";
    let drop_both = "DROP TABLE neon_auth.users_sync, users_sync.checkpoint";
    let view = "ALTER TABLE neon_auth.users_sync RENAME TO theirs;
                CREATE VIEW neon_auth.users_sync AS SELECT * FROM neon_auth.theirs LIMIT 1";
    let instead = |what: &str| format!("DROP TABLE neon_auth.users_sync; {what}");
    let stored = instead("CREATE MATERIALIZED VIEW neon_auth.users_sync AS SELECT 1 AS id");
    let foreign = instead(
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; \
         CREATE FOREIGN TABLE neon_auth.users_sync (id text) SERVER s",
    );
    let parts = instead("CREATE TABLE neon_auth.users_sync (id text) PARTITION BY HASH (id)");
    let (counter, kind) =
        (instead("CREATE SEQUENCE neon_auth.users_sync"), instead("CREATE TYPE neon_auth.users_sync AS (id text)"));
    // Without a fix of its own, the recorded remedy is run as printed.
    let cases = [
        ("renamed", "rename them back", rename, "ALTER TABLE users_sync.checkpoint RENAME COLUMN era TO epoch"),
        ("dropped", "or drop them", rename, drop_both),
        (
            "shape",
            "ALTER COLUMN email TYPE text;",
            "ALTER TABLE neon_auth.users_sync ALTER COLUMN email TYPE char(3)",
            "",
        ),
        ("acme", "ADD COLUMN email text;", "ALTER TABLE neon_auth.users_sync DROP COLUMN email", ""),
        ("view", "ALTER VIEW neon_auth.users_sync RENAME TO", view, ""),
        ("stored", "ALTER MATERIALIZED VIEW neon_auth.users_sync RENAME TO", &stored, ""),
        ("foreign", "ALTER FOREIGN TABLE neon_auth.users_sync RENAME TO", &foreign, ""),
        ("parts", "ALTER TABLE neon_auth.users_sync RENAME TO", &parts, ""),
        ("counter", "ALTER SEQUENCE neon_auth.users_sync RENAME TO", &counter, ""),
        ("kind", "ALTER TYPE neon_auth.users_sync RENAME TO", &kind, ""),
        ("gone", "GRANT USAGE, CREATE ON SCHEMA neon_auth TO", "ALTER TABLE neon_auth.users_sync RENAME TO theirs", ""),
        ("lacking", "GRANT USAGE ON SCHEMA neon_auth TO", "REVOKE ALL ON neon_auth.users_sync FROM granted", ""),
    ];
    scene.bed.server.sql("postgres", "CREATE ROLE granted LOGIN").await.unwrap();
    for tenant in ["gone", "lacking"] {
        let grants = "GRANT USAGE ON SCHEMA neon_auth, users_sync TO granted;
             GRANT SELECT, INSERT, UPDATE ON neon_auth.users_sync TO granted;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA users_sync TO granted";
        scene.bed.server.sql(tenant, grants).await.unwrap();
        scene.corrects(&scene.bed.server.url(tenant), &scene.bed.server.url_for("granted", tenant));
    }
    scene.log.says_times("connecting to the target as it is configured now", 2).await;
    scene.bed.equal().await;
    for (tenant, _, broken, _) in cases {
        scene.at_target(tenant, broken).await;
        scene.change(tenant).await;
    }
    let mut printed = Vec::new();
    for (tenant, words, _, _) in cases {
        printed.push(statements(&scene.remedy(tenant, words).await).join("; "));
    }
    for ((tenant, _, _, fixed), printed) in cases.into_iter().zip(&printed) {
        assert!(!fixed.is_empty() || !printed.is_empty(), "{tenant}: nothing to run");
        scene.at_target(tenant, if fixed.is_empty() { printed } else { fixed }).await;
    }
    scene.ends_well().await;
}

/// A target's owner can disturb only its own tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_checkpoint_parks_its_own_tenant_only() {
    let scene = Scene::start(&["acme", "globex", "own"]).await;
    let future = "UPDATE users_sync.checkpoint SET epoch = 9223372036854775807";
    scene.at_target("acme", future).await;
    scene.at_target("globex", "ALTER TABLE users_sync.checkpoint RENAME COLUMN epoch TO era").await;
    for tenant in ["acme", "globex", "own"] {
        scene.change(tenant).await;
    }
    let said = scene.remedy("acme", "users-sync adopt").await;
    scene.remedy("globex", "rename them back, or drop them").await;
    scene.bed.state_is("own", "following").await;
    adopts(&said, scene.config.path()).await;
    scene.at_target("globex", "DROP TABLE users_sync.checkpoint, neon_auth.users_sync").await;
    let log = scene.log.text();
    assert!(!log.contains("every tenant is resynced") && log.matches("streaming slot").count() == 1, "{log}");
    scene.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remedies_for_a_wrong_target_url_work() {
    let scene = Scene::start(&["acme", "globex", "own"]).await;
    let (port, answering) = no_postgres().await;
    let url = |database: &str| scene.bed.server.url(database);
    // A tenant that followed is not parked at once for TLS or a login: a rotation may reach the server first.
    let (from, to) = (url("acme"), url("acme").replace("prefer", "require"));
    scene.corrects(&from, &to);
    remedy_in(&scene.bed, "acme", "following", "correct sslmode, sslrootcert, sslcert or sslkey").await;
    scene.corrects(&to, &from);
    scene.bed.becomes("auth", "SELECT remedy IS NULL FROM users_sync.tenant WHERE tenant = 'acme'", "t").await;
    for (from, to, tenant, words) in [
        (
            url("acme"),
            format!("postgresql://postgres@127.0.0.1:{port}/acme?sslmode=disable"),
            "acme",
            "correct host and port of the target's URL",
        ),
        (url("globex"), url("nowhere"), "globex", "create the database, or correct the target's URL"),
        (url("own"), url("globex"), "own", "point tenant own at its own database"),
    ] {
        if tenant == "own" {
            // Two tenants may not share a target; the other tenant is removed.
            scene.corrects(&format!("- {{id: globex, target: '{from}'}}", from = url("globex")), "");
        }
        scene.corrects(&from, &to);
        scene.remedy(tenant, words).await;
        if words.starts_with("create the database") {
            scene.bed.server.create_database("nowhere").await.unwrap();
            scene.bed.state_is(tenant, "following").await;
        }
        scene.corrects(&to, &from);
        scene.bed.state_is(tenant, "following").await;
    }
    answering.abort();
    let Scene { process, log, .. } = scene;
    assert!(process.stop().await.success(), "{}", log.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remedies_for_foreign_rows_and_a_removed_tenant_work() {
    let bed = Bed::start(&["rows", "other"]).await;
    for tenant in ["rows", "other"] {
        bed.auth(&format!("INSERT INTO auth.users (id, org) VALUES ('u', '{tenant}')")).await;
    }
    let rows =
        "CREATE SCHEMA neon_auth; CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL,
        name text, email text, created_at timestamptz, deleted_at timestamptz, updated_at timestamptz);
        INSERT INTO neon_auth.users_sync (id, raw_json) VALUES ('theirs', '{}')";
    bed.server.sql("rows", rows).await.unwrap();
    let checkpoint =
        "CREATE SCHEMA users_sync; CREATE TABLE users_sync.checkpoint (only_row boolean PRIMARY KEY DEFAULT true,
        tenant text NOT NULL, target_id uuid NOT NULL, generation bigint NOT NULL, position pg_lsn NOT NULL,
        epoch bigint NOT NULL, mapping text NOT NULL);
        INSERT INTO users_sync.checkpoint VALUES (true, 'another', gen_random_uuid(), 1, '0/1', 1, '')";
    bed.server.sql("other", &format!("{rows}; {checkpoint}")).await.unwrap();
    let service = Service::start(bed.config());
    bed.state_is("rows", "parked").await;
    let file = bed.config_file("");
    adopts(&remedy(&bed, "rows", "users-sync adopt").await, file.path()).await;
    let said = remedy(&bed, "other", "once tenant another is not in the configuration any more").await;
    adopts(said.split_once("any more: ").unwrap().1, file.path()).await;
    bed.equal().await;
    service.stop().await;
}

/// The process exits on its own with this message.
async fn ends_with(config: Config, words: &[&str]) -> String {
    let error = Service::start(config).fails().await.to_string();
    assert!(words.iter().all(|words| error.contains(words)), "{error}\ndoes not say {words:?}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn the_remedies_printed_before_an_exit_work() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;

    // The slot belongs to another program; the remedy is another name.
    bed.auth("SELECT pg_create_physical_replication_slot('users_sync')").await;
    ends_with(bed.config(), &["slot users_sync was not created by users-sync", "choose another name for source.slot"])
        .await;
    let mut config = bed.config();
    config.source.slot = "users_sync_2".into();
    bed.auth("SELECT pg_drop_replication_slot('users_sync')").await;

    bed.auth("ALTER TABLE auth.users REPLICA IDENTITY NOTHING").await;
    let said = ends_with(config.clone(), &["the replica identity of auth.users lacks id, org"]).await;
    for sql in statements(&said) {
        bed.auth(&sql).await;
    }

    bed.auth("CREATE PUBLICATION other FOR TABLE auth.users").await;
    bed.auth("ALTER TABLE auth.users RENAME TO people").await;
    ends_with(config.clone(), &["table auth.users does not exist", "correct users.table, or create it"]).await;
    bed.auth("ALTER TABLE auth.people RENAME TO users").await;

    let service = Service::start(config.clone());
    bed.equal().await;
    service.stop().await;

    // The slot is lost. With `on_slot_loss: stop` the message says that `resync` creates a new one.
    // Its walsender ends a moment after the process.
    bed.becomes("auth", "SELECT active FROM pg_replication_slots WHERE slot_name = 'users_sync_2'", "f").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync_2')").await;
    config.on_slot_loss = users_sync::config::OnSlotLoss::Stop;
    ends_with(config.clone(), &["with on_slot_loss: resync, users-sync creates a new slot"]).await;
    config.on_slot_loss = users_sync::config::OnSlotLoss::Resync;
    let service = Service::start(config);
    bed.equal().await;
    service.stop().await;
}

/// An application listens and leaves a transaction open. Its unread notifications fill the queue of the whole server.
#[tokio::test(flavor = "multi_thread")]
async fn ending_the_listening_session_empties_a_full_notification_queue() {
    // The smallest possible queue, since PostgreSQL 17: 512 kB.
    let bed = Bed::start_with(&["acme"], at_least(17).set("max_notify_queue_pages", "64")).await;
    let users = "INSERT INTO auth.users (id, org) SELECT repeat('u', 1000) || n, 'acme' FROM generate_series(1, 50) n";
    bed.auth(users).await;
    let config = bed.config_file("notify: true");
    let (process, log) = Process::start_logged(&config);
    bed.equal().await;
    let listener = bed.server.connect("acme").await.unwrap();
    listener.batch_execute("LISTEN users_sync").await.unwrap();
    listener.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let said = async {
        // Each round adds 50 kB.
        for n in 0..100 {
            bed.auth(&format!("UPDATE auth.users SET first_name = '{n}', updated_at = now()")).await;
            let name = format!("SELECT count(*) FROM neon_auth.users_sync WHERE name = '{n}'");
            let deadline = Instant::now() + DEADLINE;
            loop {
                if log.text().contains("end that session") {
                    return;
                }
                if bed.query("acme", &name).await[0][0].as_deref() == Some("50") {
                    break;
                }
                assert!(Instant::now() < deadline, "{}", log.text());
                pause().await;
            }
        }
        panic!("the queue does not fill: {}", log.text());
    };
    said.await;
    remedy(&bed, "acme", "the queue of notifications is full: end that session").await;
    drop(listener);
    bed.equal().await;
    bed.state_is("acme", "following").await;
    assert!(process.stop().await.success());
}
