//! Rows that a target cannot take are set aside alone, by every path; they arrive once they fit.

mod deletes;
mod kinds;

use crate::ops::health::free_port;
use crate::support::http::get;
use crate::support::process::{Log, Process, command, said};
use crate::support::{Bed, DEADLINE, GENERATED, PLAIN, pause};
use kinds::{KINDS, Kind, RELAX_STRICT, STRICT, WORD};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;
use tempfile::NamedTempFile;

const TENANTS: [&str; 4] = ["latin", "ascii", "neon", "strict"];
/// Innocent users of each tenant.
const INNOCENT: usize = 1000;

/// How rows reach a target.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mapping {
    /// The stream carries whole rows, as the table has no key.
    Table,
    /// The stream leaves out large values that do not change.
    Patches,
    /// A query reads the users.
    Query,
}

struct Suite {
    bed: Bed,
    mapping: Mapping,
    file: NamedTempFile,
    admin: SocketAddr,
}

impl Suite {
    async fn start(mapping: Mapping) -> Suite {
        let bed = Bed::start(&TENANTS).await;
        for (tenant, encoding) in [("latin", "LATIN1"), ("ascii", "SQL_ASCII")] {
            let create = format!("CREATE DATABASE {tenant} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0");
            for sql in [format!("DROP DATABASE {tenant}"), create] {
                bed.server.sql("postgres", &sql).await.unwrap();
            }
        }
        bed.server.sql("postgres", "ALTER DATABASE latin SET max_stack_depth = '200kB'").await.unwrap();
        for (tenant, sql) in [
            ("latin", PLAIN),
            ("latin", "CREATE INDEX ON neon_auth.users_sync (email)"),
            ("neon", GENERATED),
            ("strict", PLAIN),
            ("strict", STRICT),
        ] {
            bed.server.sql(tenant, sql).await.unwrap();
        }
        // A document of any depth, as the source's own limit is lower than that.
        bed.auth("CREATE CAST (text AS json) WITHOUT FUNCTION").await;
        bed.auth("ALTER TABLE auth.users ADD extra json, ADD number numeric, ADD float float8, ADD large text").await;
        if mapping == Mapping::Table {
            // A primary key limits an id's size, and allows it only once.
            bed.auth("ALTER TABLE auth.users DROP CONSTRAINT users_pkey; ALTER TABLE auth.users REPLICA IDENTITY FULL")
                .await;
        }
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let file = bed.config_file(&format!("admin: {{listen: '{admin}'}}"));
        if mapping == Mapping::Query {
            let text = std::fs::read_to_string(file.path()).unwrap();
            let query = "tenant: org, query: 'SELECT u.* FROM auth.users u'}";
            std::fs::write(file.path(), text.replace("tenant: org}", query)).unwrap();
        }
        let suite = Suite { bed, mapping, file, admin };
        suite.bed.auth("CREATE TABLE auth.poison AS SELECT * FROM auth.users").await;
        for kind in suite.kinds() {
            let Kind { tenant, set, .. } = kind;
            let id = kind.id();
            // Only the last row has no number yet.
            suite
                .bed
                .auth(&format!(
                    "INSERT INTO auth.poison (id, org, first_name, email, created_at, updated_at, large)
                 SELECT {id}, '{tenant}', left('Ann ' || {id}, 30), left({id}, 30) || '@y.org', now(), now(),
                   (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n);
                 UPDATE auth.poison SET {set} WHERE ctid = (SELECT max(ctid) FROM auth.poison)"
                ))
                .await;
        }
        for tenant in TENANTS {
            suite.bed.auth(&format!(
                "INSERT INTO auth.users (id, org, first_name, email, created_at, updated_at)
                 SELECT 'u' || n, '{tenant}', 'Ann ' || n, n || '@x.org', now(), now() FROM generate_series(1, {INNOCENT}) n"
            )).await;
        }
        // This one has what others want, and keeps it.
        suite.bed.auth(r#"UPDATE auth.users SET extra = '{"nick": "taken", "slot": "taken", "seat": "taken"}' WHERE id = 'u9'"#).await;
        suite
    }

    fn kinds(&self) -> impl Iterator<Item = &'static Kind> {
        let any_id = self.mapping == Mapping::Table;
        KINDS.iter().filter(move |kind| any_id || kind.is_named())
    }

    /// Every poison in one statement.
    async fn add_poison(&self) {
        self.bed.auth("INSERT INTO auth.users SELECT * FROM auth.poison").await;
    }

    /// Removes them, and waits until the targets know.
    async fn remove_poison(&self) {
        self.bed.auth("DELETE FROM auth.users WHERE id !~ '^u[0-9]+$'").await;
        for tenant in TENANTS {
            self.rejects(tenant, Vec::new()).await;
            self.bed.becomes(tenant, LIVE, &INNOCENT.to_string()).await;
        }
    }

    /// Waits until a target has set aside exactly what it cannot take, with its reason, and holds all other users.
    #[track_caller]
    fn settles<'a>(&'a self, tenant: &'a str) -> impl Future<Output = ()> + 'a {
        let mut expected: Vec<String> = Vec::new();
        let mut held = INNOCENT;
        for kind in self.kinds().filter(|kind| kind.tenant == tenant) {
            match kind.refused {
                Some((code, why)) => {
                    let id = match kind.id {
                        kinds::Id::Named(name) => name,
                        kinds::Id::Computed(_) => "computed",
                    };
                    expected.push(format!("{id} {code} {why}"));
                }
                None => held += 1,
            }
        }
        expected.sort();
        // These users were there before their rows became bad.
        let before = self.kinds().filter(|kind| kind.tenant == tenant && kind.refused.is_some()).count();
        held += if self.mapping == Mapping::Patches { before } else { 0 };
        let rejects = self.rejects(tenant, expected);
        async move {
            rejects.await;
            self.bed.becomes(tenant, LIVE, &held.to_string()).await;
        }
    }

    #[track_caller]
    fn rejects<'a>(&'a self, tenant: &'a str, expected: Vec<String>) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + DEADLINE;
            loop {
                let sql = "SELECT to_regclass('users_sync.rejected')";
                let there = self.bed.query(tenant, sql).await[0][0].is_some();
                let rows = if there { self.bed.query(tenant, RECORDED).await } else { Vec::new() };
                let mut found: Vec<String> = rows.into_iter().map(|mut row| row.remove(0).unwrap()).collect();
                found.sort();
                if found == expected {
                    return;
                }
                if Instant::now() > deadline {
                    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).collect();
                    let extra: Vec<_> = found.iter().filter(|line| !expected.contains(line)).collect();
                    let states = self.bed.query("auth", "SELECT tenant, state, reason FROM users_sync.tenant").await;
                    panic!("{caller}: {tenant} lacks {missing:#?}\nand has {extra:#?}\n{states:?}");
                }
                pause().await;
            }
        }
    }

    async fn all_settle(&self) {
        for tenant in TENANTS {
            self.settles(tenant).await;
        }
    }

    /// Each poison in a transaction of its own, between changes of innocent users.
    async fn stream(&self, poison: &str) {
        let client = self.bed.server.connect("auth").await.unwrap();
        for (n, kind) in self.kinds().enumerate() {
            let at =
                format!("(SELECT min(ctid) FROM auth.poison WHERE org = '{}' AND id = {})", kind.tenant, kind.id());
            client.batch_execute(&poison.replace("$at", &at)).await.unwrap();
            let innocent = "first_name = 'Bea ' || substr(id, 2), updated_at = now()";
            let sql = format!("UPDATE auth.users SET {innocent} WHERE id = 'u{}'", n + 20);
            client.batch_execute(&sql).await.unwrap();
        }
    }

    async fn resyncs(&self) {
        for tenant in TENANTS {
            let request = format!(
                "INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', '{tenant}', false)"
            );
            self.bed.auth(&request).await;
        }
        self.bed.becomes("auth", "SELECT count(*) FROM users_sync.request", "0").await;
        self.all_settle().await;
    }

    /// A change of every innocent user but the one that others stand behind, with more bytes than a batch.
    fn innocent_users_become(name: &str) -> String {
        format!(
            "UPDATE auth.users SET updated_at = now(), first_name = '{name} ' || substr(id, 2),
               large = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 130) n) WHERE id ~ '^u[0-9]+$' AND id <> 'u9'"
        )
    }

    /// Waits until that change has arrived.
    async fn innocent_users_are(&self, name: &str) {
        let sql = format!(
            "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL AND name LIKE '{name} %' AND id ~ '^u[0-9]+$'"
        );
        for tenant in TENANTS {
            self.bed.becomes(tenant, &sql, &(INNOCENT - 1).to_string()).await;
        }
    }

    /// The causes go, without a notice to the process. Nothing stays rejected. A sleeping target is not woken for its rejected users,
    /// so a user of each target changes.
    async fn causes_go(&self) {
        self.bed.server.sql("strict", RELAX_STRICT).await.unwrap();
        self.bed
            .auth(
                "UPDATE auth.users SET first_name = 'Ann', email = null, extra = null, updated_at = now()
             WHERE org <> 'strict' AND id !~ '^u[0-9]+$';
             UPDATE auth.users SET first_name = 'Dora ' || substr(id, 2), updated_at = now() WHERE org = 'strict' AND id ~ '^u[1-8]$';
             DELETE FROM auth.users WHERE length(id) > 1000 OR id = chr(8364)",
            )
            .await;
        for tenant in TENANTS {
            self.rejects(tenant, Vec::new()).await;
            let users = INNOCENT + self.kinds().filter(|kind| kind.tenant == tenant && kind.is_named()).count();
            self.bed.becomes(tenant, LIVE, &users.to_string()).await;
        }
    }

    /// No value is in what people and programs read about rejected users.
    async fn shows_no_value(&self) {
        let config = self.file.path().to_str().unwrap();
        for arguments in [
            ["status", "-c", config, "--json"],
            ["rejected", "-c", config, "--json"],
            ["verify", "-c", config, "--json"],
        ] {
            let (text, _) = said(&command(&arguments).await);
            assert!(text.contains("strict") && !text.contains(WORD), "{arguments:?} {text}");
        }
        let of_tenants = TENANTS
            .iter()
            .flat_map(|tenant| [format!("/api/tenants/{tenant}"), format!("/api/tenants/{tenant}/rejected?limit=100")]);
        for path in ["/metrics", "/readyz", "/api/status", "/api/tenants", "/api/jobs"]
            .map(str::to_owned)
            .into_iter()
            .chain(of_tenants)
        {
            let answer = get(self.admin, &path).await;
            assert!(answer.status == 200 && !answer.body.contains(WORD), "{path} {} {}", answer.status, answer.body);
        }
        let tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'users_sync'";
        for database in TENANTS.into_iter().chain(["auth"]) {
            for table in self.bed.query(database, tables).await {
                let rows = format!("SELECT t.*::text FROM users_sync.{} t", table[0].as_deref().unwrap());
                let rows = format!("{:?}", self.bed.query(database, &rows).await);
                assert!(!rows.contains(WORD), "{database} {table:?} {rows}");
            }
        }
    }

    /// No value has reached a text that people or programs read.
    async fn ends_silently(self, process: Process, log: Log) {
        let state = self.bed.query("auth", "SELECT t.*::text FROM users_sync.tenant t").await;
        assert!(!format!("{state:?}").contains(WORD), "{state:?}");
        assert!(process.stop().await.success());
        let text = log.text();
        assert!(!text.contains(WORD) && !text.contains(" parked "), "{text}");
    }
}

const LIVE: &str = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL";
const RECORDED: &str = "SELECT CASE WHEN length(id) > 1000 OR id LIKE '_u{%' THEN 'computed' ELSE id END || ' ' || sqlstate || ' ' || reason
    FROM users_sync.rejected";

/// As rows of a table or of a query.
async fn is_set_aside(mapping: Mapping) {
    let suite = Suite::start(mapping).await;
    suite.add_poison().await;
    let (process, log) = Process::start_logged(&suite.file);
    suite.all_settle().await;
    suite.resyncs().await;
    suite.remove_poison().await;
    suite.stream("INSERT INTO auth.users SELECT * FROM auth.poison WHERE ctid = $at").await;
    suite.all_settle().await;
    suite.remove_poison().await;
    let more = Suite::innocent_users_become("Cleo");
    suite.bed.auth(&format!("BEGIN; {more}; INSERT INTO auth.users SELECT * FROM auth.poison; {more}; COMMIT")).await;
    suite.all_settle().await;
    suite.innocent_users_are("Cleo").await;
    suite.shows_no_value().await;
    suite.causes_go().await;
    suite.ends_silently(process, log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_a_table_is_set_aside_by_every_path() {
    is_set_aside(Mapping::Table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_of_a_query_is_set_aside_by_every_path() {
    is_set_aside(Mapping::Query).await;
}

/// The users are there, each with a large value that does not change, when their rows become bad.
#[tokio::test(flavor = "multi_thread")]
async fn patches_with_poison_are_set_aside() {
    let suite = Suite::start(Mapping::Patches).await;
    let plain =
        "SELECT id, org, 'Ann ' || id, null, id || '@y.org', null, null, now(), now(), null, null, null, null, large";
    suite.bed.auth(&format!("INSERT INTO auth.users {plain} FROM auth.poison")).await;
    let (process, log) = Process::start_logged(&suite.file);
    for tenant in TENANTS {
        let users = INNOCENT + suite.kinds().filter(|kind| kind.tenant == tenant).count();
        suite.bed.becomes(tenant, LIVE, &users.to_string()).await;
    }
    let become_bad =
        "UPDATE auth.users u SET first_name = p.first_name, last_name = p.last_name, email = p.email, extra = p.extra,
        number = p.number, float = p.float, created_at = p.created_at, updated_at = now()
        FROM auth.poison p WHERE p.id = u.id AND p.org = u.org";
    suite.stream(&format!("{become_bad} AND p.ctid = $at")).await;
    suite.all_settle().await;
    suite
        .bed
        .auth(
            "UPDATE auth.users SET first_name = 'Ann ' || id, last_name = null, email = id || '@y.org', extra = null,
           number = null, float = null, created_at = now(), updated_at = now() WHERE id !~ '^u[0-9]+$'",
        )
        .await;
    for tenant in TENANTS {
        suite.rejects(tenant, Vec::new()).await;
    }
    let more = Suite::innocent_users_become("Cleo");
    suite.bed.auth(&format!("BEGIN; {more}; {become_bad}; {more}; COMMIT")).await;
    suite.all_settle().await;
    suite.innocent_users_are("Cleo").await;
    suite.resyncs().await;
    suite.causes_go().await;
    suite.ends_silently(process, log).await;
}
