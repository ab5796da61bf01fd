//! Twenty tenants, a random workload and faults in random order; at the end every target equals the source.
//! `USERS_SYNC_CHAOS=<seconds>` sets the duration (default 60 s; 10 minutes are sensible by hand), and
//! `USERS_SYNC_SEED=<number>` repeats the same choices.

use crate::support::process::{Process, command, config_file, said};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, let_pass};
use fastrand::Rng;
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use users_sync::throwaway::Options;

const TENANTS: usize = 20;
const USERS: u32 = 60;

/// The faults of the process, the targets and the source.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
    CutTarget,
    TargetAway,
    SlowTarget,
    EndConnections,
    DropSlot,
    TakeOutOfPublication,
    Truncate,
    TruncateTarget,
    DropTargetTable,
    SpoilTarget,
    ForbidName,
    AlterTable,
    Resync,
    HugeTransaction,
}

const FAULTS: [Fault; 16] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::CutTarget,
    Fault::TargetAway,
    Fault::SlowTarget,
    Fault::EndConnections,
    Fault::DropSlot,
    Fault::TakeOutOfPublication,
    Fault::Truncate,
    Fault::TruncateTarget,
    Fault::DropTargetTable,
    Fault::SpoilTarget,
    Fault::ForbidName,
    Fault::AlterTable,
    Fault::Resync,
    Fault::HugeTransaction,
];

struct World {
    bed: Arc<Bed>,
    proxies: Vec<TcpProxy>,
    config: NamedTempFile,
    processes: Vec<Process>,
    rng: Rng,
    columns: u32,
}

impl World {
    async fn start(seed: u64) -> World {
        let names: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bed = Bed::start_with(&names, Options::new().set("max_connections", "300")).await;
        let mut proxies = Vec::new();
        let mut targets = Vec::new();
        for name in &names {
            let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
            let url = bed.server.url(name);
            targets.push((
                (*name).to_owned(),
                url.replace(&format!(":{}/", bed.server.port()), &format!(":{}/", proxy.port())),
            ));
            proxies.push(proxy);
        }
        let limits = "limits: {park_after: 3s, stall: 1s, source_wal: 64MB, max_deletes: 100%}";
        let config = config_file(&bed.server.url("auth"), &targets, limits);
        bed.auth(&format!(
            "INSERT INTO auth.users (id, org, first_name, updated_at)
             SELECT 'u' || n, 't' || n % {TENANTS}, 'Ann', now() FROM generate_series(0, {}) n",
            USERS * TENANTS as u32 - 1
        ))
        .await;
        // One process works, the other is the standby.
        let processes = vec![Process::start(&config), Process::start(&config)];
        World { bed: Arc::new(bed), proxies, config, processes, rng: Rng::with_seed(seed), columns: 0 }
    }

    async fn strike(&mut self, fault: Fault) {
        let which = self.rng.usize(..TENANTS);
        let (tenant, proxy) = (format!("t{which}"), &self.proxies[which]);
        let at_target = |sql: &'static str| {
            let (bed, tenant) = (self.bed.clone(), tenant.clone());
            // The table may be missing at this moment.
            async move { drop(bed.server.sql(&tenant, sql).await) }
        };
        match fault {
            Fault::Kill => {
                let victim = self.rng.usize(..self.processes.len());
                self.processes.remove(victim).kill();
                self.processes.push(Process::start(&self.config));
            }
            Fault::Freeze => {
                let victim = self.rng.usize(..self.processes.len());
                self.processes[victim].signal(Signal::STOP);
                let_pass(Duration::from_secs(self.rng.u64(1..14))).await;
                self.processes[victim].signal(Signal::CONT);
            }
            Fault::CutTarget => proxy.cut(),
            Fault::TargetAway => {
                proxy.refuse(true);
                proxy.cut();
                let_pass(Duration::from_millis(self.rng.u64(200..5_000))).await;
                self.proxies[which].refuse(false);
            }
            Fault::SlowTarget => {
                proxy.set_delay(Duration::from_millis(50));
                let_pass(Duration::from_millis(self.rng.u64(200..2_000))).await;
                self.proxies[which].set_delay(Duration::ZERO);
            }
            Fault::EndConnections => {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'users-sync%'";
                self.bed.query("auth", end).await;
            }
            Fault::DropSlot => {
                // Another process may have taken the slot again; then it stays.
                let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
                self.bed.query("auth", end).await;
                drop(self.bed.server.sql("auth", "SELECT pg_drop_replication_slot('users_sync')").await);
            }
            Fault::TakeOutOfPublication => {
                drop(self.bed.server.sql("auth", "ALTER PUBLICATION users_sync DROP TABLE auth.users").await);
            }
            Fault::Truncate => {
                self.bed.auth("BEGIN; CREATE TEMP TABLE kept AS TABLE auth.users; TRUNCATE auth.users; INSERT INTO auth.users SELECT * FROM kept; COMMIT").await;
            }
            Fault::TruncateTarget => at_target("TRUNCATE neon_auth.users_sync").await,
            Fault::DropTargetTable => at_target("DROP TABLE neon_auth.users_sync").await,
            Fault::SpoilTarget => {
                at_target("UPDATE neon_auth.users_sync SET name = 'Mallory' WHERE random() < 0.1").await
            }
            Fault::ForbidName => {
                at_target(
                    "ALTER TABLE neon_auth.users_sync ADD CONSTRAINT no_eve CHECK (raw_json ->> 'first_name' <> 'n7')",
                )
                .await;
            }
            Fault::AlterTable => {
                self.columns += 1;
                self.bed
                    .auth(&format!("ALTER TABLE auth.users ADD COLUMN extra{} text DEFAULT 'x'", self.columns))
                    .await;
            }
            Fault::Resync => {
                let ask = format!(
                    "INSERT INTO users_sync.request (slot, tenant, allow_deletes) SELECT slot, '{tenant}', true FROM users_sync.source"
                );
                drop(self.bed.server.sql("auth", &ask).await);
            }
            Fault::HugeTransaction => {
                self.bed.auth("UPDATE auth.users SET profile = jsonb_build_object('text', repeat(md5(id), 60)), updated_at = now()").await;
            }
        }
    }

    /// After the last fault everything becomes equal. `verify --repair` repairs the rows that were damaged by hand.
    async fn heal(&mut self) {
        for (n, proxy) in self.proxies.iter().enumerate() {
            proxy.refuse(false);
            proxy.set_delay(Duration::ZERO);
            let drop_constraint = "ALTER TABLE IF EXISTS neon_auth.users_sync DROP CONSTRAINT IF EXISTS no_eve";
            self.bed.server.sql(&format!("t{n}"), drop_constraint).await.unwrap();
        }
        self.bed.auth("UPDATE auth.users SET last_name = 'End', updated_at = now()").await;
        for tenant in &self.bed.tenants {
            self.bed.state_is(tenant, "following").await;
        }
        let path = self.config.path().to_str().unwrap();
        let deadline = Instant::now() + crate::support::DEADLINE;
        loop {
            let (text, code) = said(&command(&["verify", "-c", path, "--repair"]).await);
            if code == Some(0) {
                break;
            }
            // A table missing from the publication is put back within seconds, followed by a resync.
            assert!(Instant::now() < deadline, "{text}");
        }
        self.bed.equal().await;
    }
}

/// Writes until `stop` is set.
async fn work(bed: Arc<Bed>, seed: u64, stop: Arc<AtomicBool>) -> u32 {
    let mut rng = Rng::with_seed(seed);
    let mut client = bed.server.connect("auth").await.unwrap();
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let user = rng.u32(..USERS * TENANTS as u32);
        let sql = match rng.u8(..10) {
            0 => format!("DELETE FROM auth.users WHERE id = 'u{user}'"),
            1..3 => format!(
                "INSERT INTO auth.users (id, org, updated_at) VALUES ('u{user}', 't{}', now()) ON CONFLICT DO NOTHING",
                user % TENANTS as u32
            ),
            3 => format!(
                "UPDATE auth.users SET org = 't{}', updated_at = now() WHERE id = 'u{user}' AND NOT EXISTS (SELECT FROM auth.users o WHERE o.id = 'u{user}' AND o.org <> auth.users.org)",
                rng.usize(..TENANTS)
            ),
            _ => format!(
                "UPDATE auth.users SET first_name = 'n{}', updated_at = now() WHERE id = 'u{user}'",
                rng.u8(..50)
            ),
        };
        match client.batch_execute(&sql).await {
            Ok(()) => done += 1,
            Err(_) if client.is_closed() => client = bed.server.connect("auth").await.unwrap(),
            // A deadlock with a TRUNCATE, for example.
            Err(_) => {}
        }
        if done % 20 == 0 {
            let_pass(Duration::from_millis(10)).await;
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_end_with_equal_targets() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("USERS_SYNC_SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let long = Duration::from_secs(number("USERS_SYNC_CHAOS").unwrap_or(60));
    println!("USERS_SYNC_SEED={seed}");
    let mut world = World::start(seed).await;
    world.bed.state_is("t0", "following").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..2).map(|n| tokio::spawn(work(world.bed.clone(), seed + n, stop.clone()))).collect();
    let (begun, mut faults) = (Instant::now(), 0);
    while begun.elapsed() < long {
        let fault = FAULTS[world.rng.usize(..FAULTS.len())];
        println!("{:?} {fault:?}", begun.elapsed());
        world.strike(fault).await;
        faults += 1;
        let_pass(Duration::from_millis(world.rng.u64(..1_500))).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut writes = 0;
    for writer in writers {
        writes += writer.await.unwrap();
    }
    world.heal().await;
    println!("{faults} faults, {writes} writes, equal after {:?}", begun.elapsed());
    for process in std::mem::take(&mut world.processes) {
        assert!(process.stop().await.success());
    }
}
