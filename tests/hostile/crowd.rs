//! Fifty tenants under load, ten of them hostile at the same time. The other forty do not notice.

use super::fake::{Fake, When};
use super::owners::{DEEDS, Deed, LOCKS, Then};
use super::wires::{Wire, wires};
use crate::support::http::{get, post};
use crate::support::process::{Log, Process, config_file};
use crate::support::{Bed, DEADLINE, let_pass, pause};
use futures_util::future::join_all;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use users_sync::throwaway::{Options, PostgresServer};

const HONEST: usize = 40;
/// Small, so that memory beyond it shows.
const MEMORY: &str = "limits: {memory: 64MB, tenant_memory: 4MB, park_after: 3s, stall: 2s}\n\
                      admin: {listen: '127.0.0.1:0'}\n";
/// What the whole process may take: `limits.memory` and 64 MB.
const PEAK: u64 = (64 + 64) << 20;
/// Sign-ups whose way is measured before the first hostile act.
const UNDISTURBED: usize = 100;

/// A hostile tenant.
struct Hostile {
    id: String,
    kind: Kind,
}

enum Kind {
    Owner(&'static [Deed]),
    Wire(Fake, Vec<Wire>),
}

/// The row of a tenant in the state.
#[derive(Debug, Default)]
struct State {
    state: String,
    code: String,
    rejected: u64,
}

impl State {
    /// Whether the tenant is parked, or tried again for a reason of its target.
    fn has_stopped(&self) -> bool {
        const RETRIED: [&str; 8] = [
            "target_unreachable",
            "target_no_answer",
            "target_locked",
            "target_error",
            "target_too_slow",
            "checkpoint_moved",
            "row_refused",
            "snapshot_failed",
        ];
        self.state == "parked" || RETRIED.contains(&&*self.code)
    }

    fn follows(&self) -> bool {
        self.state == "following" && self.code.is_empty()
    }
}

struct Crowd {
    /// The source, and the targets of the honest tenants.
    bed: Bed,
    /// The databases of the hostile tenants.
    theirs: PostgresServer,
    hostile: Vec<Hostile>,
    at: SocketAddr,
    process: Process,
    log: Log,
    _config: NamedTempFile,
}

impl Crowd {
    async fn start() -> Crowd {
        let names: Vec<String> = (0..HONEST).map(|number| format!("t{number:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let fast = Options::new;
        let (bed, theirs) = tokio::join!(Bed::start_with(&names, fast()), PostgresServer::start(fast()));
        let theirs = theirs.unwrap();
        let mut hostile = Vec::new();
        for (number, deeds) in DEEDS.into_iter().enumerate() {
            hostile.push(Hostile { id: format!("owner{number}"), kind: Kind::Owner(deeds) });
        }
        for (number, wires) in wires().into_iter().enumerate() {
            let fake = Fake::start(theirs.port()).await;
            hostile.push(Hostile { id: format!("wire{number}"), kind: Kind::Wire(fake, wires) });
        }
        let mut targets: Vec<_> = names.iter().map(|name| ((*name).to_owned(), bed.server.url(name))).collect();
        for Hostile { id, kind } in &hostile {
            theirs.sql("postgres", &format!("CREATE ROLE {id} LOGIN")).await.unwrap();
            theirs.create_database(id).await.unwrap();
            theirs.sql("postgres", &format!("GRANT ALL ON DATABASE {id} TO {id}")).await.unwrap();
            let port = match kind {
                Kind::Owner(_) => theirs.port(),
                Kind::Wire(fake, _) => fake.port(),
            };
            let url = format!("postgres://{id}@127.0.0.1:{port}/{id}?sslmode=prefer&connect_timeout=3");
            targets.push((id.clone(), url));
        }
        let all = targets.iter().map(|(id, _)| format!("'{id}'")).collect::<Vec<_>>().join(", ");
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, profile, updated_at)
             SELECT org || '-' || n, org, jsonb_build_object('about', repeat('x', 300)), now()
             FROM unnest(ARRAY[{all}]) org, generate_series(1, 40) n"
        ))
        .await;
        let config = config_file(&bed.server.url("auth"), &targets, MEMORY);
        let (process, log) = Process::start_logged(&config);
        log.says("admin API listening").await;
        let text = log.text();
        let at = text.split("listen=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        let crowd = Crowd { bed, theirs, hostile, at, process, log, _config: config };
        for (id, _) in &targets {
            crowd.bed.state_is(id, "following").await;
        }
        crowd
    }

    async fn state(&self, tenant: &str) -> State {
        let sql = format!("SELECT state, reason_code, rejected FROM users_sync.tenant WHERE tenant = '{tenant}'");
        let rows = self.bed.query("auth", &sql).await;
        let Some(row) = rows.first() else { return State::default() };
        let text = |column: usize| row[column].clone().unwrap_or_default();
        State { state: text(0), code: text(1), rejected: text(2).parse().unwrap() }
    }

    async fn becomes(&self, tenant: &str, what: &str, is_met: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let state = self.state(tenant).await;
            if is_met(&state) {
                return;
            }
            assert!(Instant::now() < deadline, "{tenant}, {what}: {state:?}\n{}", self.lines_of(tenant));
            pause().await;
        }
    }

    /// The last lines of the log about a tenant.
    fn lines_of(&self, tenant: &str) -> String {
        let text = self.log.text();
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&format!("{{id={tenant}}}"))).collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Asks for a resync, which also ends the pause of a parked tenant. A job may be running.
    async fn resync(&self, tenant: &str) {
        let status = post(self.at, &format!("/api/tenants/{tenant}/resync"), "{}").await.status;
        assert!([202, 409, 503].contains(&status), "{tenant}: {status}");
    }

    /// Every request about a hostile target is answered, and every job ends.
    async fn asks_the_api(&self, tenant: &str) {
        let users = get(self.at, &format!("/api/tenants/{tenant}/users?limit=200")).await;
        let user = get(self.at, &format!("/api/tenants/{tenant}/users/{tenant}-1")).await;
        assert!(
            [200, 404, 503].contains(&users.status) && [200, 404, 503].contains(&user.status),
            "{users:?} {user:?}"
        );
        let started = post(self.at, &format!("/api/tenants/{tenant}/verify"), "{}").await;
        if started.status != 202 {
            assert!([409, 503].contains(&started.status), "{started:?}");
            return;
        }
        let job = started.json()["job"].as_str().unwrap().to_owned();
        let deadline = Instant::now() + DEADLINE;
        loop {
            let shown: Value = get(self.at, &format!("/api/jobs/{job}")).await.json();
            if shown["state"] != "running" {
                return;
            }
            assert!(Instant::now() < deadline, "{tenant}: {shown}");
            let_pass(Duration::from_millis(200)).await;
        }
    }

    /// The tenant follows, from empty schemas.
    async fn recovers(&self, tenant: &str) {
        empty(&self.theirs, tenant).await;
        self.resync(tenant).await;
        self.holds(tenant, "true", "without what its owner did").await;
        self.becomes(tenant, "without what its owner did", State::follows).await;
    }

    /// Waits until the target of a hostile tenant has such a user.
    async fn holds(&self, tenant: &str, condition: &str, what: &str) {
        let sql = format!("SELECT FROM neon_auth.users_sync WHERE {condition} LIMIT 1");
        let deadline = Instant::now() + DEADLINE;
        while !self.finds(tenant, &sql).await {
            assert!(Instant::now() < deadline, "{tenant}, {what}:\n{}", self.lines_of(tenant));
            pause().await;
        }
    }

    /// Whether a query of a hostile tenant's database finds a row. The table may be missing.
    async fn finds(&self, tenant: &str, sql: &str) -> bool {
        let client = self.theirs.connect(tenant).await.unwrap();
        client.query(sql, &[]).await.is_ok_and(|rows| !rows.is_empty())
    }

    async fn does(&self, hostile: &Hostile) -> usize {
        let id = &*hostile.id;
        match &hostile.kind {
            Kind::Owner(deeds) => {
                for (name, sql, then) in *deeds {
                    println!("{id} {name}, peak {} MB", self.process.peak_memory() >> 20);
                    self.recovers(id).await;
                    let sql = sql.replace("DATABASE DATABASE", &format!("DATABASE {id}"));
                    self.owner_does(id, &sql.replace("ROLE ROLE", &format!("ROLE {id}"))).await;
                    tokio::join!(self.suffers(id, name, *then), self.asks_the_api(id));
                }
                deeds.len()
            }
            Kind::Wire(fake, wires) => {
                for (name, when, act) in wires {
                    println!("{id} answers with {name}, peak {} MB", self.process.peak_memory() >> 20);
                    fake.relay();
                    self.recovers(id).await;
                    fake.follow(*when, act.clone());
                    // So that it is fenced and filled again.
                    empty(&self.theirs, id).await;
                    self.resync(id).await;
                    let met = self.meets(id, name, fake);
                    tokio::join!(met, self.asks_the_api(id));
                    // A client with sslmode=prefer goes on without TLS.
                    let may_follow = matches!(when, When::AskedForTls);
                    let is_over = |state: &State| state.has_stopped() || may_follow && state.follows();
                    self.becomes(id, &format!("which answers with {name}"), is_over).await;
                }
                wires.len()
            }
        }
    }

    async fn owner_does(&self, id: &str, sql: &str) {
        if sql == LOCKS {
            let holder = self.theirs.connect(id).await.unwrap();
            // Ends with the database.
            tokio::spawn(async move { holder.batch_execute(LOCKS).await });
        } else {
            // What depends on a session applies to new ones.
            let sessions = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{id}'");
            self.theirs.sql(id, &format!("{sql}; {sessions}")).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    async fn suffers(&self, id: &str, name: &str, then: Then) {
        let what = format!("whose owner {name}");
        match then {
            Then::Stops => self.becomes(id, &what, State::has_stopped).await,
            Then::Rejects => self.becomes(id, &what, |state| state.rejected > 0 || state.has_stopped()).await,
            Then::Follows => {
                let user = format!("{id}-after-{}", name.replace(' ', "-"));
                let insert = format!("INSERT INTO auth.users (id, org, updated_at) VALUES ('{user}', '{id}', now())");
                self.bed.auth(&insert).await;
                self.holds(id, &format!("id = '{user}'"), &what).await;
            }
        }
    }

    /// The script has run, and the process has left.
    async fn meets(&self, id: &str, name: &str, fake: &Fake) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (begun, ended) = fake.counts();
            if begun > 0 && ended > 0 {
                break;
            }
            let lines = self.lines_of(id);
            assert!(Instant::now() < deadline, "{id} answers with {name}: begun {begun}, ended {ended}\n{lines}");
            pause().await;
        }
    }
}

/// Removes from a hostile tenant's database, and from its role, what its owner did. That takes much less than another database.
async fn empty(server: &PostgresServer, id: &str) {
    for (database, sql) in [
        ("postgres", format!("ALTER DATABASE {id} CONNECTION LIMIT -1; ALTER DATABASE {id} RESET ALL")),
        ("postgres", format!("ALTER ROLE {id} LOGIN; ALTER ROLE {id} RESET ALL")),
        ("postgres", format!("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = '{id}'")),
        (id, "DROP SCHEMA IF EXISTS users_sync, neon_auth, evil, public CASCADE; CREATE SCHEMA public".to_owned()),
    ] {
        server.sql(database, &sql).await.unwrap();
    }
}

/// Sign-ups, updates and deletes of all tenants, until it is stopped.
fn load(source: tokio_postgres::Client, tenants: Vec<String>, stop: CancellationToken) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut changes = 0;
        while !stop.is_cancelled() {
            for _ in 0..3 {
                let org = &tenants[fastrand::usize(..tenants.len())];
                let number = fastrand::usize(1..200);
                let sql = match fastrand::u8(..4) {
                    0 => format!("DELETE FROM auth.users WHERE org = '{org}' AND id = '{org}-{number}'"),
                    1 => format!(
                        "UPDATE auth.users SET email = 'e{changes}', updated_at = now() WHERE id = '{org}-{number}'"
                    ),
                    _ => format!(
                        "INSERT INTO auth.users (id, org, first_name, profile, updated_at)
                         VALUES ('{org}-{number}', '{org}', 'n{changes}', '{{\"a\": [1, 2, 3]}}', now())
                         ON CONFLICT (id, org) DO UPDATE SET first_name = excluded.first_name, updated_at = now()"
                    ),
                };
                source.batch_execute(&sql).await.unwrap();
                changes += 1;
            }
            pause().await;
        }
        changes
    })
}

/// Signs users up for honest tenants, one after another, and measures the way to their target, until it is stopped or
/// `limit` is reached.
async fn measure(bed: &Bed, prefix: &str, limit: usize, stop: &CancellationToken) -> Vec<Duration> {
    let source = bed.server.connect("auth").await.unwrap();
    let targets = join_all(bed.tenants.iter().map(|tenant| bed.server.connect(tenant))).await;
    let mut took = Vec::new();
    while took.len() < limit && !stop.is_cancelled() {
        let place = fastrand::usize(..bed.tenants.len());
        let (org, target) = (&bed.tenants[place], targets[place].as_ref().unwrap());
        let id = format!("{org}-{prefix}-{}", took.len());
        source
            .batch_execute(&format!("INSERT INTO auth.users (id, org, updated_at) VALUES ('{id}', '{org}', now())"))
            .await
            .unwrap();
        let begun = Instant::now();
        while target.query("SELECT FROM neon_auth.users_sync WHERE id = $1", &[&id]).await.unwrap().is_empty() {
            assert!(begun.elapsed() < DEADLINE, "{id} does not arrive");
        }
        took.push(begun.elapsed());
        pause().await;
    }
    took
}

fn show(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    println!("{what}: {} sign-ups, p50 {:?}, p99 {:?}", took.len(), at(50), at(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_hostile_targets_of_fifty_affect_no_other_tenant() {
    let mut crowd = Crowd::start().await;
    let (stop, measured) = (CancellationToken::new(), CancellationToken::new());
    let tenants = crowd.bed.tenants.iter().cloned().chain(crowd.hostile.iter().map(|hostile| hostile.id.clone()));
    let changes = load(crowd.bed.server.connect("auth").await.unwrap(), tenants.collect(), stop.clone());
    let mut undisturbed = measure(&crowd.bed, "before", UNDISTURBED, &measured).await;
    println!("memory before: {} MB", crowd.process.peak_memory() >> 20);
    let hostile = async {
        let behaviours = join_all(crowd.hostile.iter().map(|hostile| crowd.does(hostile))).await;
        measured.cancel();
        behaviours.into_iter().sum::<usize>()
    };
    let (behaviours, mut disturbed) = tokio::join!(hostile, measure(&crowd.bed, "during", usize::MAX, &measured));
    stop.cancel();
    println!("{behaviours} behaviours, {} changes", changes.await.unwrap());
    show("undisturbed", &mut undisturbed);
    show("with ten hostile targets", &mut disturbed);
    assert!(behaviours >= 30, "{behaviours}");
    crowd.bed.equal().await;
    crowd.no_other_tenant_was_affected().await;
    let peak = crowd.process.peak_memory();
    println!("peak memory: {} MB", peak >> 20);
    assert!(peak <= PEAK, "{} MB", peak >> 20);
    assert!(crowd.process.is_running());
    assert!(crowd.process.stop().await.success(), "{}", crowd.log.text());
}

impl Crowd {
    async fn no_other_tenant_was_affected(&mut self) {
        let text = self.log.text();
        assert!(self.process.is_running());
        assert_eq!(text.matches(" streaming slot=").count(), 1, "a session has ended");
        let generation = self.bed.query("auth", "SELECT generation FROM users_sync.source").await;
        assert_eq!(generation[0][0].as_deref(), Some("1"));
        for tenant in &self.bed.tenants {
            let state = self.state(tenant).await;
            assert!(state.follows() && state.rejected == 0, "{tenant}: {state:?}\n{}", self.lines_of(tenant));
            let snapshots = format!("tenant{{id={tenant}}}: snapshot requested");
            assert_eq!(text.matches(&snapshots).count(), 1, "{}", self.lines_of(tenant));
            let foreign = format!("SELECT count(*) FROM neon_auth.users_sync WHERE id NOT LIKE '{tenant}-%'");
            assert_eq!(self.bed.query(tenant, &foreign).await[0][0].as_deref(), Some("0"), "{tenant}");
        }
        for Hostile { id, .. } in &self.hostile {
            // Another attempt to join may be under way.
            self.becomes(id, "in the end", |state: &State| state.follows() || state.has_stopped()).await;
        }
        assert!(!text.contains("internal error"), "a panic");
        let longest = text.lines().map(str::len).max().unwrap();
        assert!(longest < 4000, "a line of {longest} bytes");
        let kept = "SELECT max(octet_length(t::text)) < 4000 FROM users_sync.tenant t";
        assert_eq!(self.bed.query("auth", kept).await[0][0].as_deref(), Some("t"));
    }
}
