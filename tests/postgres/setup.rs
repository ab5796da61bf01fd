//! The output of `setup` is sufficient: everything runs under roles that have exactly those privileges.

use crate::support::majors::at_least;
use crate::support::process::Process;
use crate::support::{Bed, DEADLINE, pause};
use std::io::Write;
use std::process::{Command, Output};
use tempfile::NamedTempFile;
use users_sync::throwaway::Options;

/// A table with row security and a tenant column outside the primary key, and one that a query joins to it.
const STORE: &str = "
    CREATE ROLE store_owner NOLOGIN; CREATE ROLE app LOGIN;
    CREATE SCHEMA \"Store\" AUTHORIZATION store_owner;
    SET ROLE store_owner;
    CREATE TABLE \"Store\".\"User\" (id uuid PRIMARY KEY, org text NOT NULL, name text, password_hash text, created_at timestamptz);
    ALTER TABLE \"Store\".\"User\" ENABLE ROW LEVEL SECURITY;
    CREATE TABLE \"Store\".email (id serial PRIMARY KEY, user_id uuid, address text, secret text);
    INSERT INTO \"Store\".\"User\"
      SELECT gen_random_uuid(), (ARRAY['acme', 'globex'])[1 + n % 2], 'Name ' || n, 'hash', now() FROM generate_series(1, 500) n;
    INSERT INTO \"Store\".email (user_id, address, secret) SELECT id, name || '@x.org', 'secret' FROM \"Store\".\"User\";
    RESET ROLE";

const STREAMED: &str = "table: Store.User, id: id, tenant: org, name: name, created_at: created_at, \
                        allow: [org, created_at]";
const QUERIED: &str = "table: Store.User, id: id, tenant: org, name: name, email: address, allow: [org], \
    query: 'SELECT u.id, u.org, u.name, e.address FROM \"Store\".\"User\" u LEFT JOIN \"Store\".email e ON e.user_id = u.id', \
    watch: [{table: Store.email, key: user_id}]";

struct Store {
    bed: Bed,
    config: NamedTempFile,
}

impl Store {
    async fn start(users: &str, publish: &str) -> Store {
        let options = if publish == "columns" { at_least(15) } else { Options::new() };
        let bed = Bed::start_with(&["acme", "globex"], options).await;
        bed.auth(STORE).await;
        let url = |database: &str| bed.server.url_for("sync", database);
        let yaml = format!(
            "source: {{url: '{}', publish: {publish}}}\nusers: {{{users}}}\ntenants:\n- {{id: acme, target: '{}'}}\n- {{id: globex, target: '{}'}}\n",
            url("auth"),
            url("acme"),
            url("globex")
        );
        let mut config = NamedTempFile::new().unwrap();
        config.write_all(yaml.as_bytes()).unwrap();
        Store { bed, config }
    }

    fn command(&self, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        let Output { status, stdout, stderr } =
            command.args(arguments).arg("-c").arg(self.config.path()).output().unwrap();
        (status.success(), [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat())
    }

    fn setup(&self, more: &[&str]) -> (bool, String) {
        let admin = |tenant: &str| format!("{tenant}={}", self.bed.server.url(tenant));
        let (acme, globex, source) = (admin("acme"), admin("globex"), self.bed.server.url("auth"));
        let mut arguments = vec!["setup", "--application-role", "app", "--source-admin", &source];
        arguments.extend(["--target-admin", &acme, "--target-admin", &globex]);
        arguments.extend(more);
        self.command(&arguments)
    }

    /// Waits until the tenants together equal the source.
    async fn equal(&self, expected: &str) {
        let bed = &self.bed;
        for tenant in &bed.tenants {
            let deadline = std::time::Instant::now() + DEADLINE;
            loop {
                let there = "SELECT to_regclass('users_sync.checkpoint')";
                let held = match bed.query(tenant, there).await[0][0] {
                    Some(_) => {
                        let sql =
                            "SELECT id, name, email FROM neon_auth.users_sync WHERE deleted_at IS NULL ORDER BY 1";
                        bed.query(tenant, sql).await
                    }
                    None => Vec::new(),
                };
                let expected = bed.query("auth", &expected.replace("$1", &format!("'{tenant}'"))).await;
                if held == expected && !held.is_empty() {
                    break;
                }
                assert!(std::time::Instant::now() < deadline, "{tenant} has {} of {}", held.len(), expected.len());
                pause().await;
            }
        }
    }
}

async fn everything_runs(store: Store, expected: &str) {
    let (ok, printed) = store.setup(&[]);
    assert!(ok && printed.contains("CREATE PUBLICATION") && !printed.contains("-- done"), "{printed}");
    assert_eq!(store.bed.query("auth", "SELECT FROM pg_roles WHERE rolname = 'sync'").await.len(), 0, "only printed");
    let (ok, said) = store.setup(&["--apply"]);
    assert!(ok, "{said}");
    let (ok, said) = store.setup(&["--apply"]);
    assert!(ok, "a second time: {said}");

    // The role has no further privileges.
    let rights = "SELECT rolsuper OR rolcreatedb OR rolcreaterole, has_database_privilege('sync', 'auth', 'CREATE'),
                         has_table_privilege('sync', '\"Store\".\"User\"', 'SELECT, INSERT, UPDATE, DELETE'),
                         has_column_privilege('sync', '\"Store\".\"User\"', 'password_hash', 'SELECT')
                  FROM pg_roles WHERE rolname = 'sync'";
    let rights = &store.bed.query("auth", rights).await[0];
    assert!(rights.iter().all(|right| right.as_deref() == Some("f")), "{rights:?}");

    let (ok, said) = store.command(&["check"]);
    assert!(ok, "{said}");
    let service = Process::start(&store.config);
    store.equal(expected).await;
    store.bed.auth("UPDATE \"Store\".\"User\" SET name = name || '!' WHERE org = 'acme'").await;
    store.bed.auth("DELETE FROM \"Store\".\"User\" WHERE name LIKE '%7' OR name LIKE '%7!'").await;
    store.bed.auth("UPDATE \"Store\".email SET address = 'x@x.org'").await;
    store.equal(expected).await;
    service.stop().await;
    // A resync, which merges.
    for tenant in &store.bed.tenants {
        let stale = "UPDATE users_sync.checkpoint SET target_id = '00000000-0000-0000-0000-000000000000', epoch = 0;
             UPDATE neon_auth.users_sync SET name = 'stale'";
        store.bed.server.sql(tenant, stale).await.unwrap();
    }
    let service = Process::start(&store.config);
    store.bed.auth("INSERT INTO \"Store\".\"User\" VALUES (gen_random_uuid(), 'acme', 'new'), (gen_random_uuid(), 'globex', 'new')").await;
    store.equal(expected).await;
    service.stop().await;
    let (ok, said) = store.command(&["status"]);
    assert!(!ok && said.contains("following") && said.contains("failed not_running"), "{said}");

    // The application refers to users.
    let app = users_sync::pg::PgUrl::parse(&store.bed.server.url_for("app", "acme")).unwrap();
    store.bed.server.sql("acme", "CREATE SCHEMA app AUTHORIZATION app").await.unwrap();
    let app = users_sync::pg::connect(&app).await.unwrap();
    app.batch_execute(
        "CREATE TABLE app.todos (id serial PRIMARY KEY, user_id text NOT NULL REFERENCES neon_auth.users_sync(id));
         INSERT INTO app.todos (user_id) SELECT id FROM neon_auth.users_sync LIMIT 1",
    )
    .await
    .unwrap();
    assert!(app.batch_execute("DELETE FROM neon_auth.users_sync").await.is_err(), "the application only reads");
    // It can wait for its users, and sees nothing else of ours.
    let came = "SELECT users_sync.wait_for(id) FROM neon_auth.users_sync WHERE deleted_at IS NULL LIMIT 1";
    assert!(app.query_one(came, &[]).await.unwrap().get::<_, bool>(0));
    for table in ["checkpoint", "rejected"] {
        let closed = app.batch_execute(&format!("SELECT FROM users_sync.{table}")).await.unwrap_err();
        assert_eq!(closed.code().unwrap().code(), "42501", "{table}");
    }
}

const OF_USERS: &str = "SELECT id, name, NULL FROM \"Store\".\"User\" WHERE org = $1 ORDER BY id::text";
const OF_QUERY: &str = "SELECT u.id, u.name, e.address FROM \"Store\".\"User\" u LEFT JOIN \"Store\".email e \
                        ON e.user_id = u.id WHERE org = $1 ORDER BY u.id::text";

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_table_needs_no_more_than_setup_grants() {
    everything_runs(Store::start(STREAMED, "rows").await, OF_USERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_of_columns_needs_no_more_than_setup_grants() {
    let store = Store::start(STREAMED, "columns").await;
    let (ok, printed) = store.setup(&[]);
    assert!(ok && printed.contains("\"User\" (\"id\", \"org\", \"name\", \"created_at\")"), "{printed}");
    assert!(printed.contains("before a migration drops one"), "{printed}");
    everything_runs(store, OF_USERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_needs_no_more_than_setup_grants() {
    everything_runs(Store::start(QUERIED, "rows").await, OF_QUERY).await;
}

/// The owner of a hosted database is seldom a superuser.
#[tokio::test(flavor = "multi_thread")]
async fn a_targets_owner_need_not_be_a_superuser() {
    let store = Store::start(STREAMED, "rows").await;
    let bed = &store.bed;
    bed.auth("CREATE ROLE landlord LOGIN CREATEROLE; ALTER DATABASE acme OWNER TO landlord").await;
    let admin = format!("acme={}", bed.server.url_for("landlord", "acme"));
    let setup = ["setup", "--tenant", "acme", "--application-role", "app", "--target-admin", &admin, "--apply"];
    let source = bed.server.url("auth");
    let setup = [&setup[..], &["--source-admin", &source]].concat();
    // Another role than the source's, created by another administrator.
    let config = std::fs::read_to_string(store.config.path()).unwrap();
    let acme = bed.server.url_for("sync", "acme");
    std::fs::write(store.config.path(), config.replace(&acme, &acme.replace("sync@", "writer@"))).unwrap();
    for _ in 0..2 {
        let (ok, said) = store.command(&setup);
        assert!(ok, "{said}");
    }
    let owner = "SELECT proowner::regrole::text FROM pg_proc WHERE proname = 'wait_for'";
    assert_eq!(bed.query("acme", owner).await[0][0].as_deref(), Some("writer"));
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_refuses_what_would_break_the_stores_own_writes() {
    let store = Store::start(QUERIED, "columns").await;
    let (ok, said) = store.setup(&["--apply"]);
    assert!(!ok && said.contains("the store's own UPDATEs and DELETEs would fail"), "{said}");
    assert_eq!(store.bed.query("auth", "SELECT FROM pg_publication").await.len(), 0);
    // Excluded columns stay in the database: the decoder cannot leak what it never receives.
    let store = Store::start(STREAMED, "columns").await;
    store.bed.auth("ALTER TABLE \"Store\".\"User\" REPLICA IDENTITY FULL").await;
    let (_, said) = store.command(&["check"]);
    assert!(!said.contains("REPLICA IDENTITY FULL and a column list"), "there is no publication yet: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_arguments_are_told_apart() {
    let store = Store::start(STREAMED, "rows").await;
    let (ok, said) = store.command(&["setup", "--apply"]);
    assert!(!ok && said.contains("URL of an administrator"), "{said}");
    let (ok, said) = store.command(&["setup", "--tenant", "unlisted"]);
    assert!(!ok && said.contains("unknown tenant unlisted"), "{said}");
    let (ok, said) = store.command(&["setup"]);
    assert!(!ok && said.contains("--source-admin"), "{said}");
    let wrong = store.bed.server.url_for("unlisted:hunter2", "auth");
    let (ok, said) = store.command(&["setup", "--source-admin", &wrong]);
    assert!(!ok && !said.contains("hunter2"), "{said}");
}

/// A store behind scram-sha-256 whose server logs every statement, and a role with this password in every URL.
async fn store_with_password(password: &str) -> Store {
    let options = Options::new().auth("scram-sha-256").set("log_statement", "all").set("password_encryption", "md5");
    let bed = Bed::start_with(&["acme", "globex"], options).await;
    let store = Store { bed, config: NamedTempFile::new().unwrap() };
    store.bed.auth(STORE).await;
    let url = |database: &str| store.bed.server.url_for(&format!("sync:{password}"), database);
    let yaml = format!(
        "source: {{url: '{}'}}\nusers: {{{STREAMED}}}\ntenants:\n- {{id: acme, target: '{}'}}\n- {{id: globex, target: '{}'}}\n",
        url("auth"),
        url("acme"),
        url("globex")
    );
    std::fs::write(store.config.path(), yaml).unwrap();
    store
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_role_logs_in_with_its_password_which_the_server_never_saw() {
    let store = store_with_password("hunter2%20p%C3%A4ssw%C3%B6rd%27%5C").await;
    let (ok, said) = store.setup(&["--apply"]);
    assert!(ok && !said.contains("hunter2"), "{said}");
    let stored = "SELECT rolpassword LIKE 'SCRAM-SHA-256$4096:%' FROM pg_authid WHERE rolname = 'sync'";
    assert_eq!(store.bed.query("auth", stored).await[0][0].as_deref(), Some("t"), "whatever password_encryption is");
    let (ok, said) = store.command(&["check"]);
    assert!(ok, "it logs in at the source and the targets: {said}");
    let log = std::fs::read_to_string(store.bed.server.data_dir().with_file_name("server.log")).unwrap();
    assert!(
        log.contains("CREATE ROLE \"sync\"") && !log.contains("hunter2"),
        "the log has the password, or lacks the role"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_password_comes_from_the_environment_or_a_file() {
    let store = Store::start(STREAMED, "rows").await;
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "hunter2").unwrap();
    let run = |login: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        let url = store.bed.server.url_for(&format!("postgres:{login}"), "auth");
        command.args(["setup", "--source-admin", &url, "-c"]).arg(store.config.path()).env("ADMIN_PASSWORD", "hunter2");
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        assert!(!said.contains("hunter2"), "{said}");
        (status.success(), said)
    };
    let from_file = format!("${{file:{}}}", file.path().display());
    for login in ["${ADMIN_PASSWORD}", "${env:ADMIN_PASSWORD}", &from_file] {
        let (ok, said) = run(login);
        assert!(ok && !said.contains("warning: the command line"), "{login}: {said}");
    }
    let (ok, said) = run("hunter2");
    assert!(ok && said.contains("warning: the command line holds the password of --source-admin"), "{said}");
    let (ok, said) = run("${UNSET_VARIABLE}");
    assert!(!ok && said.contains("--source-admin: the environment variable UNSET_VARIABLE is not set"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_a_url_or_a_tenants_name_breaks_out_of_a_comment() {
    let store = Store::start(STREAMED, "rows").await;
    let config = std::fs::read_to_string(store.config.path()).unwrap();
    let acme = store.bed.server.url_for("sync", "acme");
    let hostile = acme.replace("/acme", "/x%0A%5C%21%20touch%20owned");
    for (from, to, expected) in [
        (acme.as_str(), hostile.as_str(), "an encoded control character"),
        ("id: acme", "id: \"acme\\n\\\\! touch owned\"", "control character such as a line break"),
        ("id: acme", "id: acme, key: \"a\\eb\"", "control character such as a line break"),
    ] {
        std::fs::write(store.config.path(), config.replace(from, to)).unwrap();
        let (ok, said) = store.setup(&[]);
        assert!(!ok && said.contains(expected) && said.contains(":4:"), "{to}: {said}");
        assert!(!said.contains("\n\\!"), "{said}");
    }
}

/// From PostgreSQL 18 on, a replica identity with a generated column needs a publication that has it.
#[tokio::test(flavor = "multi_thread")]
async fn setup_publishes_the_generated_columns_of_a_replica_identity() {
    let store = Store::start(STREAMED, "rows").await;
    store
        .bed
        .auth(
            "ALTER TABLE \"Store\".\"User\" ADD twice text GENERATED ALWAYS AS (name || name) STORED;
             ALTER TABLE \"Store\".\"User\" REPLICA IDENTITY FULL",
        )
        .await;
    let (ok, said) = store.setup(&["--apply"]);
    assert!(ok, "{said}");
    let (ok, said) = store.command(&["check"]);
    assert!(ok && !said.contains("generated column that"), "{said}");
    // The store's own changes do not fail.
    store
        .bed
        .auth("UPDATE \"Store\".\"User\" SET name = 'Ann'; DELETE FROM \"Store\".\"User\" WHERE org = 'none'")
        .await;
    let version = store.bed.query("auth", "SELECT current_setting('server_version_num')::int >= 180000").await;
    if version[0][0].as_deref() == Some("t") {
        let publication = "SELECT pubgencols FROM pg_publication";
        assert_eq!(store.bed.query("auth", publication).await, [[Some("s".to_owned())]]);
        // No publication has a virtual one.
        let virtual_column = "ALTER TABLE \"Store\".\"User\" ADD thrice text GENERATED ALWAYS AS (name || 'x') VIRTUAL";
        store.bed.auth(virtual_column).await;
        for command in [store.setup(&["--apply"]), store.command(&["check"])] {
            assert!(!command.0 && command.1.contains("virtual"), "{}", command.1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn setup_does_all_or_says_what_it_did_not_do() {
    let store = store_with_password("hunter2").await;
    let bed = &store.bed;
    let scram = "SET password_encryption = 'scram-sha-256'";
    bed.auth(&format!("{scram}; CREATE ROLE boss SUPERUSER LOGIN PASSWORD 's3cret'")).await;
    bed.auth("CREATE TABLE public.keyless (a int)").await;
    bed.server.create_database("state").await.unwrap();
    let url = |database: &str| bed.server.url_for("boss:${file:PASSWORD}", database);
    let mut file = NamedTempFile::new().unwrap();
    write!(file, "s3cret").unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    let url = |database: &str| url(database).replace("PASSWORD", &path);
    let source = url("auth");
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_users-sync"));
        command.args(arguments).arg("-c").arg(store.config.path()).envs(variables.iter().copied());
        let Output { status, stdout, stderr } = command.stdin(std::process::Stdio::null()).output().unwrap();
        let said = [stdout, stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        assert!(!said.contains("s3cret") && !said.contains("hunter2"), "{said}");
        (status.code(), said)
    };
    // Printed only, with what needs more than the tables' owner.
    let (code, said) = run(&["setup", "--source-admin", &source, "--all-tables"], &[]);
    assert!(code == Some(0) && said.contains("-- the next one needs a superuser, or from PostgreSQL 16"), "{said}");
    let all = "CREATE PUBLICATION \"users_sync\" FOR ALL TABLES WITH (publish_via_partition_root = true);  -- these tables have \
               no replica identity and will refuse UPDATE and DELETE: public.keyless";
    assert!(said.contains(all), "{said}");

    let (code, said) = run(&["setup", "--apply", "--source-admin", &source], &[]);
    assert_eq!(code, Some(1), "{said}");
    for tenant in ["acme", "globex"] {
        let left = format!("the target of tenant {tenant}: no administrator was given: --target-admin {tenant}=URL");
        assert!(said.contains(&left), "{said}");
    }
    // The targets from the environment, and a state of its own.
    let yaml = std::fs::read_to_string(store.config.path()).unwrap();
    let state = bed.server.url_for("keeper:hunter2", "state");
    std::fs::write(store.config.path(), format!("{yaml}state: {{url: '{state}'}}\n")).unwrap();
    let (acme, globex, state) = (url("acme"), url("globex"), url("state"));
    let targets =
        [("USERS_SYNC_TARGET_ADMIN_ACME", acme.as_str()), ("USERS_SYNC_TARGET_ADMIN_GLOBEX", globex.as_str())];
    let (code, said) = run(&["setup", "--apply", "--source-admin", &source], &targets);
    assert!(code == Some(1) && said.contains("the state: no administrator was given: --state-admin URL"), "{said}");
    assert!(!said.contains("the target of tenant acme: no"), "{said}");
    let all = [&targets[..], &[("USERS_SYNC_SOURCE_ADMIN", &source), ("USERS_SYNC_STATE_ADMIN", &state)]].concat();
    let (code, said) = run(&["setup", "--apply"], &all);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&["check"], &[]);
    assert_eq!(code, Some(0), "{said}");
    // One role and its password for all.
    for (more, variable) in
        [(vec![], Some(("USERS_SYNC_ADMIN_PASSWORD", "s3cret"))), (vec!["--admin-password-file", &path], None)]
    {
        let arguments = [vec!["setup", "--apply", "--admin-user", "boss"], more].concat();
        let (code, said) = run(&arguments, variable.as_slice());
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, said) = run(&["setup", "--apply", "--admin-user", "boss"], &[("USERS_SYNC_ADMIN_PASSWORD", "wrong")]);
    assert_eq!(code, Some(1), "{said}");
    for place in ["the state", "the source", "the target of tenant acme", "the target of tenant globex"] {
        assert!(said.contains(&format!("{place}: see the error above")), "{said}");
    }
    // An owner learns who may run what it may not, and Amazon RDS has another way.
    bed.auth(&format!("{scram}; CREATE ROLE landlord LOGIN PASSWORD 's3cret'; ALTER ROLE sync NOREPLICATION")).await;
    let owner = source.replace("boss:", "landlord:");
    let (code, said) = run(&["setup", "--apply", "--source-admin", &owner], &[]);
    assert!(code == Some(1) && said.contains("the statement needs a superuser"), "{said}");
    assert!(said.contains("Cloud SQL") && said.contains("Supabase"), "{said}");
    bed.auth("CREATE ROLE rds_replication").await;
    let (_, said) = run(&["setup", "--source-admin", &source], &[]);
    assert!(said.contains("GRANT rds_replication TO \"sync\"") && !said.contains("ALTER ROLE \"sync\" REPL"), "{said}");
}
