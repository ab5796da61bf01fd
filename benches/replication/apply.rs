//! Many tenants through Kafka: a backlog that waits in the topic for one process of `users-sync apply`, beside the same changes that
//! wait in the slot for `users-sync run`; and the time from a commit until a target has it.
//!
//! The targets are the same: `apply` takes them over from `run`.

use super::bed::{Bed, Process, USERS, Watch, rows};
use super::latency::measure;
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use crate::broker::{Broker, Settings};
use crate::connect::jdbc_sink;
use std::process::{Child, Stdio};
use std::time::Instant;

const TENANTS: u32 = 200;
const NAME: &str = "fleet";
/// Of the topic.
pub const PARTITIONS: usize = 8;

pub async fn from_the_topic(table: &mut Table) {
    let bed = Bed::with(|options| options.set("max_connections", "700")).await;
    let broker = Broker::start(&Settings::default());
    // At least one change for each tenant.
    let transactions = sized(200_000).max(TENANTS);
    prepare(&bed, transactions).await;
    let alone = bed.configuration(NAME, &tenants(&bed), true);
    let process = Process::start(&alone);
    bed.following(NAME, TENANTS as usize).await;
    process.stop();
    let run = drain(&bed, "run", transactions, async || {}, || Process::start(&alone)).await;

    let distributed = distributed(&alone, NAME, &broker);
    let publisher = published(&bed, NAME, &distributed).await;
    let worker = Process::apply(&distributed);
    bed.wait(
        &bed.source,
        NAME,
        &format!("SELECT count(*) = {PARTITIONS} FROM users_sync.source WHERE slot LIKE '%/%'"),
    )
    .await;
    let warm = watches(&bed, "warm", TENANTS).await;
    bed.changes(NAME, "email = 'warm'", 1, TENANTS).await;
    all(&warm).await;
    drop(warm);
    let name = format!("{NAME}-latency");
    let insert = "INSERT INTO users (id, name, email, created_at) VALUES ($1, 't1', 'new@example.com', now())";
    let latency = measure(&bed, NAME, &bed.target, &target(1), "neon_auth.users_sync", (&name, insert)).await;
    worker.stop();
    let apply =
        drain(&bed, "apply", transactions, async || published_all(&bed).await, || Process::apply(&distributed)).await;
    publisher.stop();
    let rate = |seconds: f64| f64::from(transactions) / seconds;
    let what = format!("{TENANTS} tenants, {} changes from the topic, run from the slot", grouped(transactions));
    table.add(what, "1/s", rate(apply), rate(run), Goal::TimesAtLeast(0.8));
    table.add("latency p50 at 100 commits/s through Kafka", "ms", latency.p50, None, Goal::AtMost(15.0));
    table.add("latency p99 at 100 commits/s through Kafka", "ms", latency.p99, None, Goal::AtMost(60.0));
}

/// The same backlog in one topic, for one process of `apply` and its targets, and for Debezium's JDBC sink, which writes all of it to one
/// table. The rate of the sink counts from its first visible change, because its JVM takes seconds to start; that of `apply` from its
/// start.
pub async fn beside_a_sink(table: &mut Table) {
    let bed = Bed::with(|options| options.set("max_connections", "700")).await;
    let broker = Broker::start(&Settings::default());
    let transactions = sized(200_000).max(TENANTS);
    prepare(&bed, transactions).await;
    bed.target.create_database("sink").await.unwrap();
    bed.target.sql("sink", "CREATE SCHEMA neon_auth").await.unwrap();
    let alone = bed.configuration(NAME, &tenants(&bed), true);
    let configuration = distributed(&alone, NAME, &broker).replace("kafka: {", "kafka: {schemas: true, ");
    let publisher = published(&bed, NAME, &configuration).await;
    let worker = Process::apply(&configuration);
    bed.following(NAME, TENANTS as usize).await;
    worker.stop();
    let directory = tempfile::TempDir::new().unwrap();
    let sink = || {
        let port = bed.target.port();
        let mut command = jdbc_sink(directory.path(), &broker.address(), NAME, port, &["-Xmx1g"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Sink(command.spawn().unwrap())
    };
    let whole = format!("SELECT count(*) >= {transactions} FROM neon_auth.users_sync");
    let first = sink();
    bed.wait(&bed.target, "sink", &whole).await;
    drop(first);

    let apply =
        drain(&bed, "both", transactions, async || published_all(&bed).await, || Process::apply(&configuration)).await;
    // By the primary key: the look must not cost the target much.
    let changed = |from: u32, which: &str| {
        let ids: Vec<String> = (from..from + TENANTS).map(|n| format!("'user-{n}'")).collect();
        format!("SELECT {which} FROM neon_auth.users_sync WHERE id IN ({}) AND email = 'both'", ids.join(", "))
    };
    let begun = bed.watch(&bed.target, "sink", &changed(1, "count(*) > 0")).await;
    let all_done = changed(transactions - TENANTS + 1, &format!("count(*) = {TENANTS}"));
    let done = bed.watch(&bed.target, "sink", &all_done).await;
    bed.checkpoint().await;
    let sink = sink();
    begun.until_true().await;
    let started = Instant::now();
    done.until_true().await;
    let seconds = started.elapsed().as_secs_f64();
    println!("  sink: {seconds:.1} s");
    drop(sink);
    publisher.stop();
    let rate = |seconds: f64| f64::from(transactions) / seconds;
    let what = format!("{TENANTS} tenants, {} changes from the topic, Debezium's JDBC sink", grouped(transactions));
    table.add(what, "1/s", rate(apply), rate(seconds), Goal::TimesAtLeast(5.0));
}

/// Kafka Connect, killed when dropped.
struct Sink(Child);

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until Kafka has everything that the source has.
async fn published_all(bed: &Bed) {
    bed.source.sql(NAME, "CREATE TABLE IF NOT EXISTS last AS SELECT pg_current_wal_insert_lsn() AS lsn").await.unwrap();
    bed.changes(NAME, "email = 'last'", 0, 0).await;
    let done = "SELECT confirmed_flush_lsn >= lsn FROM pg_replication_slots, last WHERE slot_name = ";
    bed.wait(&bed.source, NAME, &format!("{done}'{NAME}_kafka'")).await;
}

/// A configuration for a publisher and its workers.
pub fn distributed(alone: &str, name: &str, broker: &Broker) -> String {
    format!(
        "{alone}kafka: {{brokers: '{}', topic: {name}, positions_topic: {name}.positions, snapshots_topic: {name}.snapshots, \
         slot: {name}_kafka, partition_by: tenant, partitions: {PARTITIONS}, group: {name}}}\n",
        broker.address()
    )
}

/// Starts the publisher, and waits until it has published all users.
pub async fn published(bed: &Bed, name: &str, configuration: &str) -> Process {
    let publisher = Process::start(configuration);
    bed.wait(&bed.source, name, "SELECT to_regclass('users_sync.tee') IS NOT NULL").await;
    bed.wait(&bed.source, name, "SELECT state = 'following' FROM users_sync.tee").await;
    publisher
}

fn target(tenant: u32) -> String {
    format!("{NAME}_{tenant}")
}

fn tenants(bed: &Bed) -> Vec<(String, String)> {
    (0..TENANTS).map(|n| (format!("t{n}"), bed.target.url(&target(n)))).collect()
}

/// As for a hundred tenants on one slot: the replica identity has the tenant.
async fn prepare(bed: &Bed, users: u32) {
    bed.source.create_database(NAME).await.unwrap();
    let fill = format!(
        "{USERS}; ALTER TABLE users ALTER name SET NOT NULL; INSERT INTO users {all}; \
         CREATE UNIQUE INDEX by_tenant ON users (name, id); ALTER TABLE users REPLICA IDENTITY USING INDEX by_tenant",
        all = rows(&format!("0, {users}"), &format!("'t' || n % {TENANTS}")),
    );
    bed.source.sql(NAME, &fill).await.unwrap();
    bed.source.sql(NAME, "VACUUM ANALYZE users").await.unwrap();
    for tenant in 0..TENANTS {
        bed.target.create_database(&target(tenant)).await.unwrap();
    }
}

/// Seconds from the start of a process until every target has the changes that wait. `published`: they wait where it reads.
async fn drain(
    bed: &Bed,
    value: &str,
    transactions: u32,
    published: impl AsyncFn(),
    start: impl FnOnce() -> Process,
) -> f64 {
    let watches = watches(bed, value, transactions).await;
    bed.changes(NAME, &format!("email = '{value}'"), 1, transactions).await;
    published().await;
    bed.checkpoint().await;
    let started = Instant::now();
    let process = start();
    all(&watches).await;
    let seconds = started.elapsed().as_secs_f64();
    println!("  {value}: {seconds:.1} s, peak resident memory {:.0} MB", process.resident().peak);
    process.stop();
    seconds
}

/// A session for each tenant, which waits until its last user has the value. The users 1 to `last` change in order.
async fn watches(bed: &Bed, value: &str, last: u32) -> Vec<Watch> {
    let mut watches = Vec::new();
    for n in last - TENANTS + 1..=last {
        let sql = format!("SELECT true FROM neon_auth.users_sync WHERE id = 'user-{n}' AND email = '{value}'");
        watches.push(bed.watch(&bed.target, &target(n % TENANTS), &sql).await);
    }
    watches
}

/// One after the other: the last of them decides.
async fn all(watches: &[Watch]) {
    for watch in watches {
        watch.until_true().await;
    }
}
