//! The commands `check`, `status` and `teardown` against real servers, through the built binary.

use std::io::Write;
use std::process::{Command, Stdio};
use users_sync::model::{Generation, Lsn, ParkCause, Reason, TenantId};
use users_sync::pg::{self, PgUrl};
use users_sync::state::{StateStore, TenantRow, TenantState};
use users_sync::throwaway::{Options, PostgresServer};

const USERS: &str = "
    CREATE TABLE public.users (id bigint NOT NULL PRIMARY KEY, org text NOT NULL, name text, email text);
    CREATE UNIQUE INDEX identity ON public.users (id, org);
    ALTER TABLE public.users REPLICA IDENTITY USING INDEX identity;
    INSERT INTO public.users VALUES (1, 'acme', 'Ann', 'ann@example.com'), (2, 'globex', 'Bob', 'bob@example.com')";

/// A server with an auth database and the databases of two tenants.
async fn server(options: Options) -> PostgresServer {
    let server = PostgresServer::start(options).await.unwrap();
    for database in ["auth", "acme", "globex"] {
        server.create_database(database).await.unwrap();
    }
    server.sql("auth", USERS).await.unwrap();
    server
}

fn yaml(server: &PostgresServer, source_role: &str) -> String {
    format!(
        "source: {{url: '{}'}}\n\
         users: {{table: public.users, id: id, name: name, email: email, tenant: org}}\n\
         tenants:\n- {{id: acme, target: '{}'}}\n- {{id: globex, target: '{}'}}\n",
        server.url_for(source_role, "auth"),
        server.url("acme"),
        server.url("globex")
    )
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary with a configuration file that is deleted afterwards.
async fn users_sync(arguments: &[&str], yaml: &str) -> Said {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_users-sync"));
    process.args(arguments).arg("-c").arg(file.path()).stdin(Stdio::null());
    let output = tokio::process::Command::from(process).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs `check` on a file that `run` cannot use either: it fails with the same message on stderr.
async fn both(yaml: &str) -> Said {
    let (checked, run) = (users_sync(&["check"], yaml).await, users_sync(&["run"], yaml).await);
    assert_eq!(run.code, Some(1), "{}{}", run.out, run.err);
    for error in checked.out.lines().filter(|line| line.starts_with("error: source")) {
        assert!(run.err.contains(error), "`run` does not say {error}\n{}", run.err);
    }
    checked
}

/// `check` finds exactly this many errors, one of them with this message and remedy, and changes nothing.
#[track_caller]
fn has_error(said: &Said, errors: usize, message: &str, remedy: &str) {
    let Said { code, out, err } = said;
    assert_eq!(*code, Some(1), "{out}{err}");
    assert!(out.contains(message), "{out} does not say\n{message}");
    assert!(out.contains(remedy), "{out} does not say\n{remedy}");
    assert!(!out.contains("hunter2") && !err.contains("hunter2"), "{out}{err}");
    assert_eq!(out.lines().filter(|line| line.starts_with("error: ")).count(), errors, "{out}");
}

/// Everything that one of the commands could leave behind.
async fn traces(server: &PostgresServer) -> String {
    let mut traces = String::new();
    for database in ["auth", "acme", "globex"] {
        let client = server.connect(database).await.unwrap();
        let sql = "SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM (
                SELECT 'schema ' || nspname AS name FROM pg_namespace
                  WHERE nspname <> 'public' AND nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
                UNION ALL SELECT 'publication ' || pubname FROM pg_publication
                UNION ALL SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database()
                UNION ALL SELECT 'table ' || relname FROM pg_class WHERE relkind = 'r' AND oid >= 16384) AS t";
        let found: String = client.query_one(sql, &[]).await.unwrap().get(0);
        traces.push_str(&format!("{database}: {found}\n"));
    }
    traces
}

#[tokio::test]
async fn check_finds_nothing_in_fresh_databases_and_leaves_nothing() {
    let server = server(Options::new().set("max_slot_wal_keep_size", "8GB")).await;
    let before = traces(&server).await;
    let said = users_sync(&["check"], &yaml(&server, "postgres")).await;
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains("0 errors, 1 warning;"), "{}", said.out);
    assert!(said.out.contains("note: source: publication users_sync does not exist yet"), "{}", said.out);
    assert_eq!(traces(&server).await, before);
}

/// After an upgrade an operator sees which columns stay because of their names.
#[tokio::test]
async fn check_lists_the_columns_that_leave_and_those_that_stay() {
    let server = server(Options::new()).await;
    let columns =
        "ALTER TABLE public.users ADD passhash text, ADD session_id text, ADD user_pin text, ADD api_key text,
        ADD passport_number text, ADD referral_code text, ADD country_code text";
    server.sql("auth", columns).await.unwrap();
    let said = users_sync(&["check"], &yaml(&server, "postgres")).await;
    let line = |out: &str, name: &str| {
        let found = out.lines().find(|line| line.trim_start().split(' ').next() == Some(name) && line.contains("  "));
        found.unwrap_or_else(|| panic!("{name}: {out}")).trim_start()[name.len()..].trim().to_owned()
    };
    let explained = users_sync(&["explain"], &yaml(&server, "postgres")).await;
    assert_eq!(explained.code, Some(0), "{}", explained.err);
    for out in [&said.out, &explained.out] {
        for name in ["passhash", "session_id", "user_pin", "api_key"] {
            assert_eq!(line(out, name), "stays: its name looks like a secret");
        }
        for name in ["passport_number", "referral_code", "country_code"] {
            assert_eq!(line(out, name), format!("leaves as raw_json.{name}"));
        }
        assert_eq!(line(out, "org"), "leaves as tenant key, raw_json.org");
        assert_eq!(line(out, "email"), "leaves as email, raw_json.primary_email, raw_json.email");
    }
    let json = users_sync(&["explain", "--json"], &yaml(&server, "postgres")).await.out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["of"], "public.users");
    // An explicit list wins.
    let allowed = yaml(&server, "postgres").replace("tenant: org}", "tenant: org, allow: [passhash]}");
    let said = users_sync(&["check"], &allowed).await;
    assert_eq!(line(&said.out, "passhash"), "leaves as raw_json.passhash");
    assert_eq!(line(&said.out, "referral_code"), "stays: users.allow does not list it");
}

#[tokio::test]
async fn check_reports_source_problems_with_remedies_and_changes_nothing() {
    let server = server(Options::new().auth("scram-sha-256")).await;
    let before = traces(&server).await;
    let good = yaml(&server, "postgres");
    let found = |yaml: String| async move { both(&yaml).await };

    let said = found(good.replace("public.users", "public.user")).await;
    has_error(&said, 1, "no table public.user in database auth", "table: public.users");
    let said = found(good.replace("name: name", "name: nmae")).await;
    has_error(&said, 1, "users.name: there is no column \"nmae\"; did you mean \"name\"?", "configuration");
    let said = found(good.replace("/auth?", "/aut?")).await;
    has_error(&said, 1, "database \"aut\" does not exist", "CREATE DATABASE \"aut\";");

    server.sql("auth", "ALTER TABLE public.users REPLICA IDENTITY DEFAULT").await.unwrap();
    has_error(
        &found(good.clone()).await,
        1,
        "lacks org",
        "ALTER TABLE \"public\".\"users\" REPLICA IDENTITY USING INDEX \"identity\";",
    );
    server.sql("auth", "ALTER TABLE public.users REPLICA IDENTITY USING INDEX identity").await.unwrap();

    server.sql("auth", "CREATE ROLE guest LOGIN PASSWORD 'hunter2'").await.unwrap();
    let said = found(yaml(&server, "guest:wrong")).await;
    has_error(&said, 1, "password authentication failed", "ALTER ROLE \"guest\" PASSWORD");
    // No REPLICATION, no SELECT, no publication, no schema for the state: all reported at once.
    let said = found(yaml(&server, "guest:hunter2")).await;
    has_error(&said, 4, "no REPLICATION privilege", "ALTER ROLE \"guest\" REPLICATION;");
    has_error(
        &said,
        4,
        "cannot read public.users",
        "GRANT SELECT (\"id\", \"org\", \"name\", \"email\") ON \"public\".\"users\" TO \"guest\";",
    );
    has_error(&said, 4, "cannot create it", "CREATE PUBLICATION \"users_sync\" FOR TABLE \"public\".\"users\";");
    has_error(&said, 4, "cannot create the schema", "GRANT CREATE ON DATABASE \"auth\" TO \"guest\";");
    assert_eq!(traces(&server).await, before);

    // Following the remedies is sufficient.
    let remedies = "ALTER ROLE guest REPLICATION; GRANT SELECT ON public.users TO guest; \
        CREATE PUBLICATION users_sync FOR TABLE public.users; GRANT CREATE ON DATABASE auth TO guest";
    server.sql("auth", remedies).await.unwrap();
    let said = users_sync(&["check"], &yaml(&server, "guest:hunter2")).await;
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    server.sql("auth", "ALTER TABLE public.users ENABLE ROW LEVEL SECURITY").await.unwrap();
    has_error(&found(yaml(&server, "guest:hunter2")).await, 1, "row security", "ALTER ROLE \"guest\" BYPASSRLS;");
}

#[tokio::test]
async fn a_server_without_logical_decoding_is_reported() {
    let server = server(Options::new().set("wal_level", "replica")).await;
    let before = traces(&server).await;
    let said = both(&yaml(&server, "postgres")).await;
    has_error(&said, 1, "wal_level is replica", "ALTER SYSTEM SET wal_level = 'logical'; then restart");
    assert_eq!(traces(&server).await, before);
}

#[tokio::test]
async fn each_target_has_its_own_findings() {
    let server = server(Options::new()).await;
    let rows =
        "CREATE SCHEMA neon_auth; CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL,
        name text, email text, created_at timestamptz, deleted_at timestamptz, updated_at timestamptz);
        INSERT INTO neon_auth.users_sync VALUES ('1', '{}')";
    server.sql("acme", rows).await.unwrap();
    server.sql("globex", "ALTER DATABASE globex SET default_transaction_read_only = on").await.unwrap();
    let said = users_sync(&["check"], &yaml(&server, "postgres")).await;
    has_error(&said, 2, "tenant acme: neon_auth.users_sync has rows that users-sync did not write", "users-sync adopt");
    has_error(&said, 2, "tenant globex: database globex is read-only", "default_transaction_read_only = off");
    let gone = yaml(&server, "postgres").replace("/acme?", "/gone?");
    has_error(&users_sync(&["check"], &gone).await, 2, "tenant acme: ", "CREATE DATABASE \"gone\"");
    server.sql("acme", "ALTER TABLE neon_auth.users_sync DROP COLUMN email").await.unwrap();
    let said = users_sync(&["check"], &yaml(&server, "postgres")).await;
    has_error(&said, 3, "tenant acme: neon_auth.users_sync has no column email", "ADD COLUMN email text;");
}

#[tokio::test]
async fn a_key_that_no_user_has_is_reported_with_the_nearest_one() {
    const ID: &str = "7b1d3f52-0c1e-4f6a-9b57-2f1f0a9f6c11";
    let server = server(Options::new()).await;
    let tables = format!(
        "CREATE TABLE public.org (id uuid PRIMARY KEY, name text);
         INSERT INTO public.org VALUES ('{ID}', 'Acme'), ('11111111-0c1e-4f6a-9b57-2f1f0a9f6c11', 'Empty');
         CREATE TABLE public.members (id int PRIMARY KEY, org_id uuid NOT NULL);
         INSERT INTO public.members VALUES (1, '{ID}');
         CREATE TABLE public.links (user_id int PRIMARY KEY, org char(40) NOT NULL);
         INSERT INTO public.links VALUES (1, '{ID}')"
    );
    server.sql("auth", &tables).await.unwrap();
    let target = server.url("acme");
    let check = async |users: &str, key: &str| {
        let source = server.url("auth");
        let yaml = format!(
            "source: {{url: '{source}'}}\nusers: {users}\ntenants: [{{id: acme, key: '{key}', target: '{target}'}}]\n"
        );
        users_sync(&["check"], &yaml).await.out
    };
    let column = "{table: public.members, id: id, tenant: org_id}";
    let joined = "{table: public.members, id: id, tenant: org, query: 'SELECT m.id, l.org FROM public.members m \
        JOIN public.links l ON l.user_id = m.id', watch: [{table: public.links, key: user_id}]}";
    let constant = "{table: public.members, id: id, tenant: {constant: 'one'}}";
    for (users, key, expected) in [
        (column, ID, ""),
        (column, &*ID.to_uppercase(), ID),
        (column, "7b1d3f52-0c1e-4f6a-9b57-2f1f0a9f6c1", ID),
        (column, "acme", "public.org has this key for that name"),
        (column, "empty", "key: '11111111-"),
        (column, "something", "unless it has no users yet"),
        (joined, ID, ""),
        (joined, &*ID.to_uppercase(), ID),
        (constant, "one", ""),
        (constant, "One", "key: 'one'"),
    ] {
        let out = check(users, key).await;
        let from = |line: &&str| !line.contains("no user of the source has the key");
        let lines: Vec<&str> = out.lines().skip_while(from).collect();
        match expected {
            "" => assert!(lines.is_empty(), "{users} {key}: {out}"),
            expected => assert!(lines[0].contains(key) && lines[1].contains(expected), "{users} {key}: {out}"),
        }
    }
    // Without users there is nothing to compare with.
    server.sql("auth", "DELETE FROM public.members").await.unwrap();
    let out = check(column, "acme").await;
    assert!(!out.contains("no user of the source"), "{out}");
}

/// The line of `check` about users without a tenant; empty without one.
fn without_tenant(out: &str) -> String {
    let line = out.lines().find(|line| line.contains("users without a tenant"));
    let shown =
        line.map(|line| line.split_once("tenant: ").unwrap().1.strip_suffix(" [users_without_tenant]").unwrap());
    shown.unwrap_or_default().to_owned()
}

#[tokio::test]
async fn users_without_a_tenant_are_counted_by_key_for_every_kind_of_mapping() {
    let server = server(Options::new()).await;
    let tables = "
        CREATE TABLE public.people (id text PRIMARY KEY, org text, kind text, banned boolean, meta jsonb);
        INSERT INTO public.people SELECT 'a' || n, 'acme', 'human', false, '{\"org\": {\"id\": \"acme\"}}' FROM generate_series(1, 5) n;
        INSERT INTO public.people SELECT 'i' || n, 'initech', 'human', false, '{\"org\": {\"id\": 7}}' FROM generate_series(1, 3) n;
        INSERT INTO public.people SELECT 'n' || n, NULL, 'human', n = 1, NULL FROM generate_series(1, 2) n;
        INSERT INTO public.people VALUES ('e', '', 'human', NULL, '{}'), ('r', E'\\x1b[2Jx', 'robot', true, '{}');
        CREATE TABLE public.membership (user_id text REFERENCES public.people, org_id text, PRIMARY KEY (user_id, org_id));
        INSERT INTO public.membership SELECT id, 'acme' FROM public.people WHERE id LIKE 'a%' OR id LIKE 'n%';
        INSERT INTO public.membership VALUES ('i1', 'acme'), ('i1', 'initech'), ('i2', 'initech');
        ALTER TABLE public.membership REPLICA IDENTITY FULL;";
    server.sql("auth", tables).await.unwrap();
    let (source, target) = (server.url("auth"), server.url("acme"));
    let check = async |users: &str| {
        let yaml =
            format!("source: {{url: '{source}'}}\nusers: {users}\ntenants: [{{id: acme, target: '{target}'}}]\n");
        users_sync(&["check"], &yaml).await.out
    };
    let robot = "\\u001b[2Jx";
    for (users, expected) in [
        (
            "{table: public.people, id: id, tenant: org}".to_owned(),
            format!("7 (3 without a key, 3 of initech, 1 of {robot})"),
        ),
        (
            "{table: public.people, id: id, tenant: org, where: \"kind = 'human'\"}".to_owned(),
            "6 (3 without a key, 3 of initech)".to_owned(),
        ),
        (
            "{table: public.people, id: id, tenant: org, where: banned <> true}".to_owned(),
            "4 (1 without a key, 3 of initech)".to_owned(),
        ),
        ("{table: public.people, id: id, tenant: meta.org.id}".to_owned(), "7 (4 without a key, 3 of 7)".to_owned()),
        ("{table: public.people, id: id, tenant: {constant: acme}}".to_owned(), String::new()),
        ("{table: public.people, id: id}".to_owned(), String::new()),
        (
            "{table: public.people, id: id, fan_out: {table: public.membership, id: user_id, tenant: org_id}}"
                .to_owned(),
            "5 (3 without a key, 2 of initech)".to_owned(),
        ),
        (
            "{table: public.people, id: id, tenant: org_id, query: 'SELECT p.id, m.org_id FROM public.people p JOIN \
             public.membership m ON m.user_id = p.id', watch: [{table: public.membership, key: user_id}]}"
                .to_owned(),
            "2 (2 of initech)".to_owned(),
        ),
    ] {
        let out = check(&users).await;
        assert_eq!(without_tenant(&out), if expected.is_empty() { String::new() } else { expected }, "{users}\n{out}");
    }
    // Only the keys with the most users are listed, and long ones are cut.
    let more = "INSERT INTO public.people (id, org) SELECT 'm' || n, 'k' || n || repeat('x', 500) FROM generate_series(1, 30) n";
    server.sql("auth", more).await.unwrap();
    let shown = without_tenant(&check("{table: public.people, id: id, tenant: org}").await);
    assert!(
        shown.starts_with("37 (3 without a key, 3 of initech, ") && shown.ends_with(", 12 of other keys)"),
        "{shown}"
    );
    assert!(shown.len() < 3_000, "{}", shown.len());
}

#[tokio::test]
async fn ids_that_are_unique_only_among_live_rows_are_reported_with_the_missing_index() {
    let server = server(Options::new()).await;
    let table = "
        DROP TABLE public.users;
        CREATE TABLE public.users (row bigserial PRIMARY KEY, id bigint NOT NULL, org text NOT NULL, name text, email text, deleted_at timestamptz);
        CREATE UNIQUE INDEX live ON public.users (id, org) INCLUDE (name) WHERE deleted_at IS NULL;
        ALTER TABLE public.users REPLICA IDENTITY FULL";
    server.sql("auth", table).await.unwrap();
    let check = async || users_sync(&["check"], &yaml(&server, "postgres")).await.out;
    let out = check().await;
    assert!(out.contains("the unique index live leaves rows out (WHERE (deleted_at IS NULL))"), "{out}");
    let start = out.find("CREATE UNIQUE INDEX CONCURRENTLY").unwrap();
    let statement = &out[start..][..out[start..].find(';').unwrap()];
    server.sql("auth", "DROP INDEX public.live").await.unwrap();
    let out = check().await;
    assert!(out.contains("there is no unique index on it") && out.contains(statement), "{out}");
    server.sql("auth", statement).await.unwrap();
    let out = check().await;
    assert!(!out.contains("can have the same id"), "{out}");
}

#[tokio::test]
async fn status_shows_the_recorded_state() {
    let server = server(Options::new()).await;
    let yaml = yaml(&server, "postgres");
    let said = users_sync(&["status"], &yaml).await;
    assert_eq!(said.code, Some(3));
    assert!(said.err.contains("no state for slot users_sync") && said.err.contains("users-sync run"), "{}", said.err);

    write_state(&server).await;
    let said = users_sync(&["status"], &yaml).await;
    assert_eq!(said.code, Some(3), "{}{}", said.out, said.err);
    let reasons = ["failed slot_gone: slot users_sync no longer exists", "degraded other globex: it is full"];
    assert!(reasons.iter().all(|reason| said.out.contains(reason)), "{}", said.out);
    let line = |tenant: &str| said.out.lines().find(|line| line.starts_with(tenant)).unwrap().to_owned();
    assert!(line("acme").contains("following") && line("acme").contains("0/1000000"), "{}", said.out);
    assert!(line("globex").contains("parked") && line("globex").contains("it is full"), "{}", said.out);
    let said = users_sync(&["status", "--json"], &yaml).await;
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["tenants"][0]["state"], "following");
    assert!(json["tenants"][0]["lag_bytes"].as_u64().unwrap() > 0, "{json}");
    assert_eq!(json["tenants"][1]["remedy"], "make room");
}

#[tokio::test]
async fn teardown_asks_first_and_leaves_nothing() {
    let server = server(Options::new()).await;
    let yaml = yaml(&server, "postgres");
    let before = traces(&server).await;
    write_state(&server).await;
    let made = "CREATE PUBLICATION users_sync FOR TABLE public.users";
    server.sql("auth", made).await.unwrap();
    server.sql("auth", "SELECT pg_create_logical_replication_slot('users_sync', 'pgoutput')").await.unwrap();
    let full = traces(&server).await;

    let said = users_sync(&["teardown"], &yaml).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.out.contains("replication slot users_sync") && said.err.contains("--yes"), "{}{}", said.out, said.err);
    assert_eq!(traces(&server).await, full);

    let url = users_sync::pg::PgUrl::parse(&server.url("auth")).unwrap();
    let reader = users_sync::capture::ReplicationConnection::connect(&url).await.unwrap();
    let pid = reader.backend_pid();
    let stream = reader.start_replication("users_sync", Lsn::ZERO, &["users_sync"]).await.unwrap();
    let said = users_sync(&["teardown", "--yes"], &yaml).await;
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains(&format!("in use by process {pid}")), "{}", said.err);
    assert_eq!(traces(&server).await, full);
    drop(stream);
    wait_until_free(&server).await;

    let said = users_sync(&["teardown", "--yes"], &yaml).await;
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert_eq!(traces(&server).await, before);
    let said = users_sync(&["teardown", "--yes"], &yaml).await;
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    assert!(said.out.contains("nothing to drop"), "{}", said.out);
}

/// Writes a following and a parked tenant into the state, as a running process does.
async fn write_state(server: &PostgresServer) {
    let client = pg::connect(&PgUrl::parse(&server.url("auth")).unwrap()).await.unwrap();
    let store = StateStore::acquire(client, "users_sync", "test", Lsn::ZERO).await.unwrap();
    store.begin_generation(Generation(1), "1", 1, Lsn(0x100_0000)).await.unwrap();
    let row = |state, reason: Option<&str>| TenantRow {
        state,
        reason_code: reason.map(|_| Reason::Park(ParkCause::Other)),
        reason: reason.map(str::to_owned),
        remedy: reason.map(|_| "make room".to_owned()),
        target: "h:5432/d".to_owned(),
        target_id: None,
        generation: Generation(1),
        position: Lsn(0x100_0000),
        since_seconds: 0.0,
        rejected: 0,
        relation: None,
        signed: false,
        failures: 0,
        failing_seconds: None,
        opened_as: None,
        purge_due: None,
    };
    store.put_tenant(&TenantId::new("acme"), &row(TenantState::Following, None)).await.unwrap();
    store.put_tenant(&TenantId::new("globex"), &row(TenantState::Parked, Some("it is full"))).await.unwrap();
}

async fn wait_until_free(server: &PostgresServer) {
    let client = server.connect("auth").await.unwrap();
    let sql = "DO $$ BEGIN FOR i IN 1..3000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE active);
        PERFORM pg_sleep(0.01); END LOOP; END $$";
    client.batch_execute(sql).await.unwrap();
}
