//! A hundred tenants on one slot, beside a hundred filtered subscriptions with a slot and a worker each: a backlog that
//! waits, and a live burst. All are connected and idle before.
//!
//! Each side has a source database of its own, and the other side is off meanwhile.

use super::bed::{Bed, Process, Watch, Writer, rows};
use super::settings;
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use super::usage::{Meter, Usage};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Instant;
use tokio_postgres::Client;

const TENANTS: u32 = 100;

#[derive(Clone, Copy)]
enum Kind {
    Ours,
    Native,
}

impl Kind {
    /// Of its database at the source, and the start of those at the target.
    fn name(self) -> &'static str {
        match self {
            Kind::Ours => "hundred_ours",
            Kind::Native => "hundred_native",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Ours => "users-sync",
            Kind::Native => "100 filtered subscriptions",
        }
    }

    fn users(self) -> &'static str {
        match self {
            Kind::Ours => "neon_auth.users_sync",
            Kind::Native => "users",
        }
    }

    fn target(self, tenant: u32) -> String {
        format!("{}_{tenant}", self.name())
    }
}

pub async fn spread(table: &mut Table) {
    let bed = Bed::with(|options| {
        let options = options.set("max_connections", "450").set("max_worker_processes", "250");
        // A stopped walsender must not be ended.
        let options = options.set("max_logical_replication_workers", "220").set("wal_sender_timeout", "0");
        options.set("wal_receiver_timeout", "0")
    })
    .await;
    settings::print(&bed).await;
    let transactions = sized(200_000);
    let native = measure(&bed, Kind::Native, transactions).await;
    let ours = measure(&bed, Kind::Ours, transactions).await;
    for (work, native, ours, times, cpu) in [
        ("backlog", &native.backlog, &ours.backlog, 10.0, Goal::TimesAtMost(1.0)),
        ("live burst", &native.burst, &ours.burst, 5.0, Goal::None),
    ] {
        let work = format!("100 tenants, {} changes, {work}", grouped(transactions));
        let rate = |work: &Work| f64::from(transactions) / work.seconds;
        table.add(work.clone(), "1/s", rate(ours), rate(native), Goal::TimesAtLeast(times));
        let each = |work: &Work| work.usage.per_change(transactions);
        table.add(format!("{work}, CPU per change"), "us", each(ours), each(native), cpu);
        let batch = |work: &Work| f64::from(transactions) / work.transactions;
        table.add(format!("{work}, per target transaction"), "changes", batch(ours), batch(native), Goal::None);
    }
}

struct Measured {
    backlog: Work,
    burst: Work,
}

struct Work {
    seconds: f64,
    usage: Usage,
    /// Of all targets that wrote something.
    transactions: f64,
}

async fn measure(bed: &Bed, kind: Kind, transactions: u32) -> Measured {
    source(bed, kind, transactions).await;
    let process = match kind {
        Kind::Ours => Some(start_ours(bed).await),
        Kind::Native => {
            start_native(bed, transactions).await;
            None
        }
    };
    let writer = bed.writer(kind.name()).await;
    // Opens connections and prepares plans.
    let warm = watches(bed, kind, "warm", TENANTS).await;
    writer.change("email = 'warm'", 1, TENANTS).await;
    all(&warm).await;
    drop(warm);
    let backlog = backlog(bed, kind, &writer, process.as_ref(), transactions).await;
    let burst = burst(bed, kind, writer, process.as_ref(), transactions).await;
    if let Some(process) = process {
        println!("  peak resident memory {:.0} MB", process.resident().peak);
        process.stop();
    }
    bed.end(kind.name()).await;
    Measured { backlog, burst }
}

/// The users of all tenants. A row filter of UPDATE must be part of the replica identity, and so must the tenant of users-sync
/// be: a small index instead of the whole row.
async fn source(bed: &Bed, kind: Kind, users: u32) {
    let name = kind.name();
    bed.source.create_database(name).await.unwrap();
    let fill = format!(
        "{users_table}; ALTER TABLE users ALTER name SET NOT NULL; INSERT INTO users {all}; \
         CREATE UNIQUE INDEX by_tenant ON users (name, id); ALTER TABLE users REPLICA IDENTITY USING INDEX by_tenant",
        users_table = super::bed::USERS,
        all = rows(&format!("1, {users}"), &format!("'t' || n % {TENANTS}")),
    );
    bed.source.sql(name, &fill).await.unwrap();
    bed.source.sql(name, "VACUUM ANALYZE users").await.unwrap();
    for tenant in 0..TENANTS {
        bed.target.create_database(&kind.target(tenant)).await.unwrap();
    }
}

async fn start_ours(bed: &Bed) -> Process {
    let name = Kind::Ours.name();
    let tenants = (0..TENANTS).map(|n| (format!("t{n}"), bed.target.url(&Kind::Ours.target(n))));
    let process = bed.ours(name, &tenants.collect::<Vec<_>>(), true);
    bed.following(name, TENANTS as usize).await;
    process
}

/// The targets are filled from here instead of by a hundred initial copies.
async fn start_native(bed: &Bed, users: u32) {
    let name = Kind::Native.name();
    let publications = bed.source.connect(name).await.unwrap();
    for tenant in 0..TENANTS {
        let target = Kind::Native.target(tenant);
        let publish = format!("CREATE PUBLICATION p{tenant} FOR TABLE users WHERE (name = 't{tenant}')");
        publications.batch_execute(&publish).await.unwrap();
        let client = bed.target.connect(&target).await.unwrap();
        let first = if tenant == 0 { TENANTS } else { tenant };
        let fill = rows(&format!("{first}, {users}, {TENANTS}"), &format!("'t{tenant}'"));
        client.batch_execute(&format!("{}; INSERT INTO users {fill}", super::bed::USERS)).await.unwrap();
        let subscribe = format!(
            "CREATE SUBSCRIPTION {target} CONNECTION '{}' PUBLICATION p{tenant} WITH (copy_data = false)",
            bed.source.url(name)
        );
        client.batch_execute(&subscribe).await.unwrap();
    }
    let streaming = format!(
        "SELECT count(*) = {TENANTS} FROM pg_stat_replication WHERE state = 'streaming' AND application_name ^@ '{name}'"
    );
    bed.wait(&bed.source, "postgres", &streaming).await;
}

/// A session for each tenant, which waits until its last user has the value. The users 1 to `last` change in order.
async fn watches(bed: &Bed, kind: Kind, value: &str, last: u32) -> Vec<Watch> {
    let mut watches = Vec::new();
    for n in last - TENANTS + 1..=last {
        let sql = format!("SELECT true FROM {} WHERE id = 'user-{n}' AND email = '{value}'", kind.users());
        watches.push(bed.watch(&bed.target, &kind.target(n % TENANTS), &sql).await);
    }
    watches
}

/// One after the other: the last of them decides.
async fn all(watches: &[Watch]) {
    for watch in watches {
        watch.until_true().await;
    }
}

/// The walsenders are stopped while the changes are made, so that all of them wait in the slots.
async fn backlog(bed: &Bed, kind: Kind, writer: &Writer, process: Option<&Process>, transactions: u32) -> Work {
    let watches = watches(bed, kind, "backlog", transactions).await;
    let walsenders = walsenders(bed).await;
    signal(&walsenders, Signal::STOP);
    writer.change("email = 'backlog'", 1, transactions).await;
    assert!(!watches[0].is_true().await, "a walsender that is stopped has sent changes");
    let target = bed.target.connect("postgres").await.unwrap();
    let before = assigned(&target).await;
    let meter = Meter::start(bed, process).await;
    let started = Instant::now();
    signal(&walsenders, Signal::CONT);
    all(&watches).await;
    let seconds = started.elapsed().as_secs_f64();
    let usage = meter.stop(bed, process).await;
    usage.print(&format!("backlog, {}", kind.title()), transactions);
    Work { seconds, usage, transactions: assigned(&target).await - before }
}

/// A session changes the users as fast as it can.
async fn burst(bed: &Bed, kind: Kind, writer: Writer, process: Option<&Process>, transactions: u32) -> Work {
    let watches = watches(bed, kind, "burst", transactions).await;
    let target = bed.target.connect("postgres").await.unwrap();
    let before = assigned(&target).await;
    let meter = Meter::start(bed, process).await;
    let started = Instant::now();
    let writing = tokio::spawn(async move {
        writer.change("email = 'burst'", 1, transactions).await;
        (started.elapsed(), writer)
    });
    all(&watches).await;
    let seconds = started.elapsed().as_secs_f64();
    let usage = meter.stop(bed, process).await;
    // Its session ends after the measurement, so that its CPU is known not to count.
    let (written, _writer) = writing.await.unwrap();
    usage.print(&format!("live burst, {}", kind.title()), transactions);
    println!("  written within {:.1} s, applied within {seconds:.1} s", written.as_secs_f64());
    Work { seconds, usage, transactions: assigned(&target).await - before }
}

async fn walsenders(bed: &Bed) -> Vec<Pid> {
    let client = bed.source.connect("postgres").await.unwrap();
    let rows = client.query("SELECT pid FROM pg_stat_replication", &[]).await.unwrap();
    let pids: Vec<Pid> = rows.iter().map(|row| Pid::from_raw(row.get(0)).unwrap()).collect();
    assert!(!pids.is_empty(), "no walsender runs");
    pids
}

fn signal(processes: &[Pid], signal: Signal) {
    for process in processes {
        kill_process(*process, signal).unwrap();
    }
}

/// The number of transaction ids that the server has assigned: only transactions that write get one.
async fn assigned(client: &Client) -> f64 {
    let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::float8";
    client.query_one(sql, &[]).await.unwrap().get(0)
}
