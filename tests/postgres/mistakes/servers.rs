//! Mistakes at the source and in a target that `check` and `setup` meet: one server, one mistake at a time, and its remedy.

use super::{Expected, Shown, shown};
use crate::remedies::scene::{Scene, users_table, write_state};
use users_sync::throwaway::Options;

/// The lines of this file.
pub const LINES: [u8; 16] = [2, 3, 21, 22, 23, 24, 27, 28, 29, 30, 36, 37, 39, 42, 45, 51];

/// Runs a command with the file of the scene.
async fn runs(scene: &Scene, arguments: &[&str]) -> Shown {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("users-sync.yaml"), &scene.yaml).unwrap();
    shown(arguments, directory.path(), &[]).await
}

/// A mistake that statements make, and that the printed statements undo. `words` begins with a part of the message.
async fn resolves(scene: &mut Scene, database: &'static str, sql: &str, expected: Expected<'_>) {
    for sql in sql.split(";;") {
        scene.run(database, sql).await;
    }
    runs(scene, &["check"]).await.is(&expected);
    scene.resolves(database, "SELECT 1", expected.words[0]).await;
}

/// A mistake in the file, which is corrected afterwards.
async fn corrects(scene: &mut Scene, from: &str, to: &str, expected: &[Expected<'_>]) {
    let good = scene.yaml.clone();
    assert!(good.contains(from), "{good}");
    scene.yaml = good.replace(from, to);
    let shown = runs(scene, &["check"]).await;
    expected.iter().for_each(|expected| shown.is(expected));
    scene.yaml = good;
    scene.is_clean().await;
}

const fn expected<'a>(line: u8, code: &'a str, exit: i32, words: &'a [&'a str]) -> Expected<'a> {
    Expected { line, code, exit, words }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_at_servers_have_remedies_that_work_as_printed() {
    let options = Options::new()
        .set("max_slot_wal_keep_size", "8GB")
        .set("listen_addresses", "127.0.0.1,127.0.0.2")
        .hba("host all clear 127.0.0.0/8 password");
    let mut scene = Scene::start(options).await;
    scene.is_clean().await;
    let wrong = "password authentication failed";
    for (database, sql, expected) in [
        (
            "auth",
            "ALTER ROLE reader PASSWORD 'other'",
            expected(2, "source_login", 1, &[wrong, "ALTER ROLE \"reader\" PASSWORD"]),
        ),
        (
            "acme",
            "ALTER ROLE writer PASSWORD 'other'",
            expected(2, "login", 1, &[wrong, "ALTER ROLE \"writer\" PASSWORD"]),
        ),
        (
            "acme",
            "REVOKE CREATE ON DATABASE acme FROM writer",
            expected(28, "rights", 1, &["cannot create neon_auth.users_sync", "GRANT CREATE ON DATABASE \"acme\""]),
        ),
        (
            "acme",
            "ALTER ROLE writer NOLOGIN",
            expected(45, "login", 1, &["is not permitted to log in", "ALTER ROLE \"writer\" LOGIN;"]),
        ),
        (
            "acme",
            "ALTER DATABASE acme SET default_transaction_read_only = on",
            expected(
                29,
                "rights",
                1,
                &["is read-only for role writer", "ALTER DATABASE \"acme\" SET default_transaction_read_only = off;"],
            ),
        ),
        (
            "auth",
            "ALTER TABLE store.users DROP CONSTRAINT users_pkey; ALTER TABLE store.users ALTER org DROP NOT NULL;
             ALTER TABLE store.users ADD PRIMARY KEY (id)",
            expected(21, "replica_identity", 1, &["the replica identity of store.users lacks org"]),
        ),
        (
            "auth",
            "ALTER ROLE reader NOREPLICATION; REVOKE USAGE ON SCHEMA store FROM reader;
             REVOKE SELECT ON store.users FROM reader; REVOKE CREATE ON DATABASE auth FROM reader",
            expected(
                39,
                "replication_right",
                1,
                &["has no REPLICATION privilege", "ALTER ROLE \"reader\" REPLICATION;"],
            ),
        ),
    ] {
        resolves(&mut scene, database, sql, expected).await;
    }

    for (from, to, all) in [
        (
            "table: store.users",
            "table: store.Users",
            &[expected(
                36,
                "table_unknown",
                1,
                &["there is no table store.Users", "table: store.users    # did you mean this one?"],
            )][..],
        ),
        (
            "table: store.users",
            "table: store.user",
            &[expected(36, "table_unknown", 1, &["there is no table store.user", "did you mean this one?"])],
        ),
        (
            "table: store.users",
            "table: users",
            &[expected(36, "invalid_configuration", 1, &["a table as schema.name"])],
        ),
        (
            "table: store.users",
            "table: '\"store\".\"users\"'",
            &[expected(36, "table_unknown", 1, &["table: store.users    # did you mean this one?"])],
        ),
        (
            "name: name, email: email, tenant: org",
            "name: nmae, email: email, tenant: orgs",
            &[
                expected(
                    37,
                    "mapping_unfit",
                    1,
                    &["there is no column \"nmae\"; did you mean \"name\"?", "correct this key in the configuration"],
                ),
                expected(37, "mapping_unfit", 1, &["there is no column \"orgs\"; did you mean \"org\"?"]),
            ],
        ),
        (
            "{id: acme,",
            "{id: acme, key: Acme,",
            &[expected(23, "tenant_without_users", 0, &["no user of the source", "acme"])],
        ),
        (
            "writer:hunter2@127.0.0.1",
            "clear:hunter2@127.0.0.2",
            &[expected(51, "login", 1, &["asks for the password in clear text", "set sslmode=verify-full in the URL"])],
        ),
    ] {
        if to.starts_with("clear") {
            scene.run("postgres", "CREATE ROLE clear LOGIN PASSWORD 'hunter2'").await;
        }
        corrects(&mut scene, from, to, all).await;
    }

    // A renamed column: the mapping follows it.
    scene.run("auth", "ALTER TABLE store.users RENAME name TO full_name").await;
    let renamed = ["there is no column \"name\"; did you mean \"full_name\"?"];
    runs(&scene, &["check"]).await.is(&expected(30, "mapping_unfit", 1, &renamed));
    scene.yaml = scene.yaml.replace("name: name", "name: full_name");
    scene.is_clean().await;

    // A slot of another installation is left alone, by `setup` too.
    scene.run("acme", "SELECT pg_create_logical_replication_slot('users_sync', 'pgoutput')").await;
    for (command, words) in
        [("check", "set another source.slot in the configuration"), ("setup", "choose another name for source.slot")]
    {
        let words = ["belongs to database acme", words];
        runs(&scene, &[command]).await.is(&expected(22, "slot_foreign", 1, &words));
    }
    scene.yaml = scene.yaml.replace("source: {", "source: {slot: another, ");
    scene.is_clean().await;

    // Users of a tenant that the file does not have.
    scene.run("auth", "INSERT INTO store.users VALUES (2, 'initech', 'Bea', 'bea@example.com')").await;
    runs(&scene, &["check"]).await.is(&expected(
        24,
        "users_without_tenant",
        0,
        &["users without a tenant: 1 (1 of initech)"],
    ));

    // Rows that are there already.
    write_state(&scene.server, "another").await;
    let rows = users_table("name text, email text,")
        + "; INSERT INTO neon_auth.users_sync (id, raw_json) VALUES ('1', '{}');
           GRANT USAGE ON SCHEMA neon_auth TO writer; GRANT SELECT, INSERT, UPDATE ON neon_auth.users_sync TO writer";
    let foreign = ["has rows that users-sync did not write", "users-sync adopt -c FILE acme"];
    resolves(&mut scene, "acme", &rows, expected(42, "foreign", 1, &foreign)).await;

    // A database that is not there is created by the remedy.
    scene.run("postgres", "ALTER DATABASE acme RENAME TO elsewhere").await;
    let absent = ["database \"acme\" does not exist", "CREATE DATABASE \"acme\";"];
    runs(&scene, &["check"]).await.is(&expected(27, "login", 1, &absent));
    let mut findings = scene.findings().await;
    findings.iter_mut().for_each(|finding| finding.database = "postgres");
    scene.follow(&findings).await;
    let findings = scene.findings().await;
    scene.follow(&findings).await;
    let left: Vec<String> = scene.findings().await.into_iter().map(|finding| finding.message).collect();
    assert!(left.is_empty(), "{left:?}");

    // `setup` before its role exists.
    scene.yaml = scene.yaml.replace("reader:hunter2@", "absent:hunter2@");
    let admin = ["until the role in source.url exists, connect as an administrator: --source-admin URL"];
    runs(&scene, &["setup"]).await.is(&expected(3, "source_login", 1, &admin));
}
