//! Three processes of `users-sync apply`, a random load and faults in random order. At the end every target equals the source, and
//! triggers in the targets have seen no user that went back in time, no transaction in part, and no checkpoint that fell.
//! `USERS_SYNC_CHAOS=<rounds>` sets the number of faults (default 11: each of them once), `USERS_SYNC_TENANTS=<number>` that of the
//! tenants (default 8), `USERS_SYNC_SEED=<number>` repeats the same choices.

use crate::apply::section;
use crate::broker::{Broker, Settings};
use crate::support::process::{Log, Process, config_file};
use crate::support::{Bed, let_pass};
use fastrand::Rng;
use rustix::process::Signal;
use std::time::Duration;
use tempfile::NamedTempFile;

const USERS: u32 = 40;
/// Users of a transaction that does not fit into one batch of the output.
const LARGE: usize = 12_000;
const WORKERS: usize = 3;

/// Records what must never happen. The two users of a pair always change in one transaction, so that they differ only in a
/// transaction that is visible in part. A target that is restored brings its records along.
const WITNESS: &str = "
    CREATE TABLE public.seen (id text PRIMARY KEY, version bigint NOT NULL);
    CREATE TABLE public.violation (at timestamptz DEFAULT clock_timestamp(), what text);
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE new_version bigint := (NEW.raw_json #>> '{profile,version}')::bigint; old_version bigint;
    BEGIN
      SELECT version INTO old_version FROM public.seen WHERE id = NEW.id;
      IF new_version < old_version THEN
        INSERT INTO public.violation (what) VALUES (format('%s went from %s to %s', NEW.id, old_version, new_version));
      END IF;
      INSERT INTO public.seen VALUES (NEW.id, new_version) ON CONFLICT (id) DO UPDATE SET version = excluded.version;
      RETURN NULL;
    END $$;
    CREATE FUNCTION public.whole() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF (SELECT count(DISTINCT raw_json #>> '{profile,version}') FROM neon_auth.users_sync WHERE id LIKE 'pair-%') > 1 THEN
        INSERT INTO public.violation (what) SELECT 'in part: ' || string_agg(id || ' ' || (raw_json #>> '{profile,version}'), ', ')
          FROM neon_auth.users_sync WHERE id LIKE 'pair-%';
      END IF;
      RETURN NULL;
    END $$;
    CREATE FUNCTION public.rises() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF NEW.generation = OLD.generation AND NEW.position < OLD.position THEN
        INSERT INTO public.violation (what) VALUES (format('the checkpoint fell from %s to %s', OLD.position, NEW.position));
      END IF;
      RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT OR UPDATE ON neon_auth.users_sync FOR EACH ROW EXECUTE FUNCTION public.note();
    CREATE CONSTRAINT TRIGGER whole AFTER INSERT OR UPDATE ON neon_auth.users_sync DEFERRABLE INITIALLY DEFERRED
      FOR EACH ROW EXECUTE FUNCTION public.whole();
    CREATE TRIGGER rises AFTER UPDATE ON users_sync.checkpoint FOR EACH ROW EXECUTE FUNCTION public.rises()";

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillWorker,
    FreezeWorker,
    StopWorker,
    KillPublisher,
    RestartBroker,
    LoseLeaders,
    TargetAway,
    RestoreTarget,
    RemoveTenant,
    AddTenant,
    SplitTransaction,
}

const FAULTS: [Fault; 11] = [
    Fault::KillWorker,
    Fault::FreezeWorker,
    Fault::StopWorker,
    Fault::KillPublisher,
    Fault::RestartBroker,
    Fault::LoseLeaders,
    Fault::TargetAway,
    Fault::RestoreTarget,
    Fault::RemoveTenant,
    Fault::AddTenant,
    Fault::SplitTransaction,
];

/// Each partition has a copy on both nodes, and the other one leads it a few seconds after a node was lost.
const TWO_NODES: [&str; 6] = [
    "default.replication.factor=2",
    "offsets.topic.replication.factor=2",
    "transaction.state.log.replication.factor=2",
    "broker.session.timeout.ms=3000",
    "broker.heartbeat.interval.ms=500",
    "min.insync.replicas=1",
];

struct World {
    bed: Bed,
    broker: Broker,
    /// The second node of the broker's cluster.
    second: Broker,
    file: NamedTempFile,
    publisher: Option<(Process, Log)>,
    workers: Vec<(Process, Log)>,
    /// Tenants of the configuration.
    present: Vec<bool>,
    /// Targets that refuse connections.
    away: Vec<bool>,
    version: u64,
    rng: Rng,
}

fn tenant(number: usize) -> String {
    format!("t{number}")
}

impl World {
    async fn start(seed: u64, tenants: usize) -> World {
        let settings = Settings { lines: TWO_NODES.map(str::to_owned).to_vec(), ..Settings::default() };
        let broker = Broker::start(&settings);
        let second = broker.join(&settings);
        let names: Vec<String> = (0..tenants).map(tenant).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bed = Bed::start(&names).await;
        let file = NamedTempFile::new().unwrap();
        let mut world = World {
            bed,
            broker,
            second,
            file,
            publisher: None,
            workers: Vec::new(),
            present: vec![true; tenants],
            away: vec![false; tenants],
            version: 0,
            rng: Rng::with_seed(seed),
        };
        world.configure();
        world.change().await;
        world.publisher = Some(Process::start_logged(&world.file));
        for _ in 0..WORKERS {
            world.workers.push(Process::apply(&world.file));
        }
        world.bed.equal().await;
        for name in &world.bed.tenants {
            world.bed.server.sql(name, WITNESS).await.unwrap();
        }
        world
    }

    /// Writes the configuration with the present tenants. Processes reload it.
    fn configure(&self) {
        let targets: Vec<(String, String)> = (0..self.tenants())
            .filter(|number| self.present[*number])
            .map(|number| (tenant(number), self.bed.server.url(&tenant(number))))
            .collect();
        let file = config_file(&self.bed.server.url("auth"), &targets, &section(&self.broker, "chaos", "group: chaos"));
        std::fs::write(self.file.path(), std::fs::read(file.path()).unwrap()).unwrap();
    }

    /// One transaction: both users of every pair, and a few others.
    async fn change(&mut self) {
        self.version += 1;
        let (version, tenants, some) = (self.version, self.tenants(), self.rng.u32(..USERS));
        let sql = format!(
            "INSERT INTO auth.users (id, org, profile) \
               SELECT id, 't' || org, '{{\"version\": {version}}}' \
               FROM generate_series(0, {tenants} - 1) org, unnest(ARRAY['pair-a', 'user-{some}', 'pair-b']) id \
             ON CONFLICT (id, org) DO UPDATE SET profile = excluded.profile, updated_at = now(); \
             DELETE FROM auth.users WHERE id = 'user-' || {}",
            self.rng.u32(..USERS)
        );
        self.bed.auth(&sql).await;
    }

    /// More than a batch of the output: it may be published in several Kafka transactions.
    async fn split_transaction(&mut self) {
        self.version += 1;
        let (version, tenants, each) = (self.version, self.tenants(), LARGE / self.tenants());
        let sql = format!(
            "BEGIN; \
             UPDATE auth.users SET profile = '{{\"version\": {version}}}' WHERE id = 'pair-a'; \
             INSERT INTO auth.users (id, org, profile, first_name) \
               SELECT 'large-' || n, 't' || org, '{{\"version\": {version}}}', repeat('x', 1000) \
               FROM generate_series(0, {tenants} - 1) org, generate_series(1, {each}) n \
             ON CONFLICT (id, org) DO UPDATE SET profile = excluded.profile; \
             UPDATE auth.users SET profile = '{{\"version\": {version}}}' WHERE id = 'pair-b'; COMMIT"
        );
        self.bed.auth(&sql).await;
    }

    fn tenants(&self) -> usize {
        self.present.len()
    }

    fn some(&mut self, among: impl Fn(&World, usize) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.tenants()).filter(|number| among(self, *number)).collect();
        (!found.is_empty()).then(|| found[self.rng.usize(..found.len())])
    }

    async fn set_away(&mut self, number: usize, away: bool) {
        self.away[number] = away;
        let name = tenant(number);
        let sql = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", !away);
        self.admin(sql).await;
        if away {
            self.end_sessions(&name).await;
        }
    }

    async fn end_sessions(&self, database: &str) {
        self.admin(format!(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}'"
        ))
        .await;
    }

    async fn admin(&self, sql: String) {
        self.bed.server.sql("postgres", &sql).await.unwrap();
    }

    /// Puts a copy of the target in its place that was made before more changes.
    async fn restore_target(&mut self, number: usize) {
        let name = tenant(number);
        self.set_away(number, true).await;
        self.admin(format!("CREATE DATABASE copy TEMPLATE {name}")).await;
        self.set_away(number, false).await;
        for _ in 0..3 {
            self.change().await;
            let_pass(Duration::from_millis(200)).await;
        }
        self.set_away(number, true).await;
        self.admin(format!("DROP DATABASE {name}")).await;
        self.admin(format!("ALTER DATABASE copy RENAME TO {name}")).await;
        self.set_away(number, false).await;
    }

    async fn inject(&mut self, fault: Fault) {
        let worker = self.rng.usize(..WORKERS);
        match fault {
            Fault::KillWorker => {
                let file = self.file.path().to_owned();
                std::mem::replace(&mut self.workers[worker], Process::apply(file)).0.kill();
            }
            Fault::FreezeWorker => {
                // Longer than the session timeout: the others take its partitions.
                self.workers[worker].0.signal(Signal::STOP);
                for _ in 0..8 {
                    self.change().await;
                    let_pass(Duration::from_secs(1)).await;
                }
                self.workers[worker].0.signal(Signal::CONT);
            }
            Fault::StopWorker => {
                let (process, _log) = self.workers.remove(worker);
                assert!(process.stop().await.success());
                self.change().await;
                self.workers.push(Process::apply(&self.file));
            }
            Fault::KillPublisher => {
                if let Some((publisher, _log)) = self.publisher.take() {
                    publisher.kill();
                }
                self.change().await;
                self.publisher = Some(Process::start_logged(&self.file));
            }
            Fault::RestartBroker => {
                self.broker.kill();
                self.change().await;
                tokio::task::block_in_place(|| self.broker.restart());
            }
            Fault::LoseLeaders => {
                self.second.kill();
                for _ in 0..5 {
                    self.change().await;
                    let_pass(Duration::from_secs(1)).await;
                }
                tokio::task::block_in_place(|| self.second.restart());
            }
            Fault::TargetAway => match self.some(|world, number| world.away[number]) {
                Some(number) => self.set_away(number, false).await,
                None => {
                    let number = self.rng.usize(..self.present.len());
                    self.set_away(number, true).await;
                }
            },
            Fault::RestoreTarget => {
                if let Some(number) = self.some(|world, number| !world.away[number]) {
                    self.restore_target(number).await;
                }
            }
            Fault::RemoveTenant => {
                if let Some(number) = self.some(|world, number| world.present[number]) {
                    self.present[number] = false;
                    self.configure();
                }
            }
            Fault::AddTenant => {
                if let Some(number) = self.some(|world, number| !world.present[number]) {
                    self.present[number] = true;
                    self.configure();
                }
            }
            Fault::SplitTransaction => self.split_transaction().await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_publisher_broker_and_targets_fail_and_every_target_equals_the_source() {
    let seed = std::env::var("USERS_SYNC_SEED").map_or_else(|_| fastrand::u64(..1 << 32), |seed| seed.parse().unwrap());
    println!("USERS_SYNC_SEED={seed}");
    let rounds = std::env::var("USERS_SYNC_CHAOS").map_or(FAULTS.len(), |rounds| rounds.parse().unwrap());
    let tenants = std::env::var("USERS_SYNC_TENANTS").map_or(8, |tenants| tenants.parse().unwrap());
    let mut world = World::start(seed, tenants).await;
    let mut faults = Vec::new();
    for _ in 0..rounds {
        if faults.is_empty() {
            faults = FAULTS.to_vec();
            world.rng.shuffle(&mut faults);
        }
        let fault = faults.pop().unwrap();
        println!("{fault:?}");
        world.inject(fault).await;
        for _ in 0..world.rng.u32(1..6) {
            world.change().await;
            let_pass(Duration::from_millis(world.rng.u64(..300))).await;
        }
    }
    for number in 0..tenants {
        world.set_away(number, false).await;
    }
    world.present = vec![true; tenants];
    world.configure();
    world.change().await;
    world.bed.equal().await;
    for name in &world.bed.tenants {
        let found = world.bed.query(name, "SELECT what FROM public.violation ORDER BY at LIMIT 5").await;
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}
