//! Random DDL on the mapped table, its partitions, its types and the publication, under load, with kills and resyncs: after
//! each round every target equals the source, or the process refuses with a remedy that then works. The harm meter prints
//! the longest wait of a login and of a DDL statement, while a target hangs.
//!
//! `USERS_SYNC_DDL=<minutes>` sets the time for starting rounds (default one minute, with the same seeds each time), and
//! `USERS_SYNC_SEED=<number>` repeats the choices of that round first. `HARM_LIMIT_MS`, which `make bench` sets, bounds the waits.

mod load;
mod steps;

use crate::remedies::statements;
use crate::support::process::{Log, Process, command, said};
use crate::support::{Bed, DEADLINE, Row, let_pass, pause};
use fastrand::Rng;
use load::{Harm, Load};
use std::sync::Arc;
use std::time::{Duration, Instant};
use steps::{QUERY, Scene, Step};
use tempfile::{NamedTempFile, TempDir};
use users_sync::throwaway::Options;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// A tenant whose target hangs during a round.
const HANGING: &str = "slow";
const STEPS: usize = 14;
/// Far above the time that a process needs to retry what it refused.
const REPAIR_DEADLINE: Duration = Duration::from_secs(180);

/// The expected content of a target. `$2`: a table's generated columns are never sent, those of a query's result are ordinary.
const EXPECTED: &str = "
    SELECT id, (to_jsonb(u) - 'encrypted_password'
             - ARRAY(SELECT attname::text FROM pg_attribute
                     WHERE attrelid = 'auth.users'::regclass AND attgenerated <> '' AND NOT $2)
             || jsonb_build_object('id', id,
             'display_name', nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), ''),
             'primary_email', nullif(email::text, ''),
             'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint))::text,
           nullif(concat_ws(' ', nullif(first_name, ''), nullif(last_name, '')), ''), nullif(email::text, ''),
           created_at::text, updated_at::text, deleted_at::text
    FROM (SELECT u.*{address} FROM auth.users u) u WHERE org = $1 ORDER BY id COLLATE \"C\"";

/// Inserts hang while a session holds the lock.
const HANG: &str = "
    CREATE FUNCTION public.hang() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(42); RETURN NEW; END $$;
    CREATE TRIGGER hang BEFORE INSERT ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION public.hang()";

struct Round {
    seed: u64,
    bed: Arc<Bed>,
    config: NamedTempFile,
    has_query: bool,
    /// Of the spool.
    _directory: TempDir,
    process: Process,
    log: Log,
    done: Vec<String>,
}

impl Round {
    async fn start(seed: u64, scene: &mut Scene, bed: Arc<Bed>) -> Round {
        for sql in scene.tables() {
            bed.auth(&sql).await;
        }
        bed.server.sql(HANGING, &[crate::support::PLAIN, HANG].join(";")).await.unwrap();
        let directory = TempDir::new().unwrap();
        let config = bed.config_file(&format!(
            "limits: {{max_deletes: 100%}}\nspool: {{directory: '{}'}}",
            directory.path().display()
        ));
        if scene.has_query() {
            let text = std::fs::read_to_string(config.path()).unwrap();
            let query = format!("tenant: org, query: '{QUERY}', watch: [{{table: auth.emails, key: user_id}}]}}");
            std::fs::write(config.path(), text.replace("tenant: org}", &query)).unwrap();
        }
        let (process, log) = Process::start_logged(&config);
        let (has_query, done) = (scene.has_query(), Vec::new());
        Round { seed, bed, config, has_query, _directory: directory, process, log, done }
    }

    fn path(&self) -> &str {
        self.config.path().to_str().unwrap()
    }

    fn note(&mut self, what: &str) {
        println!("  {what}");
        self.done.push(what.to_owned());
    }

    fn restart(&mut self) {
        let (process, log) = Process::start_logged(&self.config);
        std::mem::replace(&mut self.process, process).kill();
        self.log = log;
    }

    async fn take(&mut self, step: Step, harm: &Harm) {
        match step {
            Step::Restart => {
                self.note("kill -9 and restart");
                self.restart();
            }
            Step::Resync(tenant) => {
                self.note(&format!("resync {tenant}"));
                let sql = format!(
                    "INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', '{tenant}', true)"
                );
                // Before the first session there is no such table.
                drop(self.bed.server.sql("auth", &sql).await);
            }
            Step::Sql(sql) => {
                let begun = Instant::now();
                let outcome = tokio::time::timeout(DEADLINE, self.bed.server.sql("auth", &sql)).await;
                let outcome = outcome.unwrap_or_else(|_| panic!("seed {}: {sql} hangs", self.seed));
                harm.ddl.note(begun.elapsed(), &sql);
                let outcome = outcome.err().map(|error| format!(" -- {error}")).unwrap_or_default();
                self.note(&format!("{sql}{outcome}"));
            }
        }
    }

    /// Follows every remedy that `check` and the tenants' state print, until every target equals the source.
    async fn heal(&mut self, scene: &Scene) {
        let deadline = Instant::now() + REPAIR_DEADLINE;
        for sql in scene.undo() {
            let outcome = self.bed.server.sql("auth", sql).await;
            self.note(&format!("undo: {sql}{}", outcome.err().map(|error| format!(" -- {error}")).unwrap_or_default()));
        }
        loop {
            if !self.process.is_running() {
                self.note("it has ended: restart");
                self.restart();
            }
            self.follow_remedies().await;
            self.permit_deletes().await;
            let Some(difference) = self.difference().await else { break };
            if Instant::now() > deadline {
                let (checked, _) = said(&command(&["check", "-c", self.path()]).await);
                let states = self.bed.query("auth", "SELECT * FROM users_sync.tenant").await;
                let (seed, log) = (self.seed, self.log.text());
                let (from, steps) = (log.len().saturating_sub(6_000), self.done.join("\n  "));
                let log = String::from_utf8_lossy(&log.as_bytes()[from..]);
                panic!("seed {seed}: {difference}\nsteps\n  {steps}\nstates {states:?}\ncheck {checked}\nlog {log}");
            }
            let_pass(Duration::from_millis(200)).await;
        }
    }

    /// Runs the statements that `check` prints for its errors.
    async fn follow_remedies(&mut self) {
        let (text, code) = said(&command(&["check", "-c", self.path()]).await);
        if code == Some(0) {
            return;
        }
        let mut is_error = false;
        let mut remedies: Vec<String> = Vec::new();
        for line in text.lines() {
            match line.trim_start().strip_prefix("-> ") {
                _ if !line.starts_with(' ') => is_error = line.starts_with("error: source"),
                Some(remedy) if is_error => remedies.push(remedy.to_owned()),
                None if is_error && line.starts_with("    ") => {
                    if let Some(last) = remedies.last_mut() {
                        last.push(' ');
                        last.push_str(line.trim());
                    }
                }
                _ => {}
            }
        }
        for remedy in remedies {
            for sql in statements(&remedy) {
                let outcome = self.bed.server.sql("auth", &sql).await;
                let outcome = outcome.err().map(|error| format!(" -- {error}")).unwrap_or_default();
                self.note(&format!("remedy: {sql}{outcome}"));
            }
        }
    }

    /// Confirms the deletes of tenants that are parked for them, with the printed command.
    async fn permit_deletes(&mut self) {
        let parked = "SELECT tenant FROM users_sync.tenant WHERE state = 'parked' AND remedy LIKE '%--allow-deletes%'";
        let Ok(client) = self.bed.server.connect("auth").await else { return };
        let Ok(rows) = client.query(parked, &[]).await else { return };
        for tenant in rows.iter().map(|row| row.get::<_, String>(0)) {
            let (text, _) = said(&command(&["resync", "-c", self.path(), &tenant, "--allow-deletes"]).await);
            self.note(&format!("remedy: resync {tenant} --allow-deletes: {}", text.lines().next().unwrap_or_default()));
        }
    }

    /// What a target holds that the source does not have, or the reverse.
    async fn difference(&self) -> Option<String> {
        let client = self.bed.server.connect("auth").await.unwrap();
        let address = ", (SELECT max(e.address) FROM auth.emails e WHERE e.user_id = u.id) AS address";
        let expected = EXPECTED.replace("{address}", if self.has_query { address } else { "" });
        for tenant in &self.bed.tenants {
            let rows = match client.query(&expected, &[tenant, &self.has_query]).await {
                Ok(rows) => rows,
                Err(error) => return Some(format!("the source cannot be read: {error}")),
            };
            let expected: Vec<Row> =
                rows.iter().map(|row| std::array::from_fn(|column| row.get::<_, Option<String>>(column))).collect();
            let held = self.bed.held(tenant).await;
            if expected != held {
                let only = |rows: &[Row], others: &[Row]| {
                    let rows: Vec<_> = rows.iter().filter(|row| !others.contains(row)).take(2).collect();
                    format!("{rows:?}").chars().take(1500).collect::<String>()
                };
                let (missing, extra) = (only(&expected, &held), only(&held, &expected));
                let (held, expected) = (held.len(), expected.len());
                return Some(format!("{tenant} holds {held} users of {expected}\nmissing {missing}\nextra {extra}"));
            }
        }
        None
    }
}

async fn round(seed: u64, harm: &Arc<Harm>) {
    let mut rng = Rng::with_seed(seed);
    let tenants = [&TENANTS[..], &[HANGING]].concat();
    let bed = Arc::new(Bed::start_with(&tenants, Options::new().measured()).await);
    let major = bed.query("auth", "SELECT current_setting('server_version_num')::int / 10000").await;
    let major = major[0][0].as_deref().and_then(|text| text.parse().ok()).unwrap();
    let mut scene = Scene::new(rng.fork(), major);
    println!("USERS_SYNC_SEED={seed} {}", scene.describe());
    let mut round = Round::start(seed, &mut scene, bed).await;
    round.heal(&scene).await;
    let gate = round.bed.server.connect(HANGING).await.unwrap();
    gate.batch_execute("SELECT pg_advisory_lock(42)").await.unwrap();
    let load = Load::start(&round.bed, &mut rng, &scene, harm);
    for _ in 0..STEPS {
        let step = scene.next();
        round.take(step, harm).await;
        let_pass(Duration::from_millis(rng.u64(..600) * rng.u64(..3))).await;
    }
    gate.batch_execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    let writes = load.stop().await;
    round.heal(&scene).await;
    // What is followed from now on is followed without a resync, too.
    round.bed.auth("UPDATE auth.users SET first_name = 'last', updated_at = now()").await;
    round.heal(&scene).await;
    println!("  equal after {writes} writes");
    assert!(round.process.stop().await.success(), "seed {seed}: {}", round.log.text());
    pause().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_ddl_ends_with_equal_targets() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    // A short run repeats the same rounds, a long one tries others.
    let first = || if number("USERS_SYNC_DDL").is_some() { fastrand::u64(..1 << 40) } else { 1 };
    let mut seed = number("USERS_SYNC_SEED").unwrap_or_else(first);
    let budget = Duration::from_secs(60 * number("USERS_SYNC_DDL").unwrap_or(1));
    let (begun, harm) = (Instant::now(), Arc::new(Harm::default()));
    let mut rounds = 0;
    while rounds == 0 || begun.elapsed() < budget {
        round(seed, &harm).await;
        (rounds, seed) = (rounds + 1, seed + 1);
    }
    println!("{rounds} rounds in {:?}", begun.elapsed());
    harm.report(number("HARM_LIMIT_MS").map(Duration::from_millis));
}
