//! Differences between PostgreSQL majors: source and targets of different ones, and features of newer ones.

use crate::support::majors::binaries;
use crate::support::process::{Log, Process, command, config_file, said};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, DEADLINE, Service, pause};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;
use users_sync::config::Publish;
use users_sync::throwaway::{Options, PostgresServer};

async fn bed(major: u32, tenants: &[&str], options: Options) -> Bed {
    Bed::start_with(tenants, options.binaries(binaries(major))).await
}

/// Waits until the tenant's target equals the source.
#[track_caller]
fn equal<'a>(source: &'a Bed, targets: &'a Bed, tenant: &'a str) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let (expected, held) = (source.expected(tenant).await, targets.held(tenant).await);
            if expected == held && !held.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{caller}: {} of {} users", held.len(), expected.len());
            pause().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn source_and_target_may_be_of_different_majors() {
    for (from, to) in [(14, 18), (18, 14)] {
        let source = bed(from, &[], Options::new()).await;
        let targets = bed(to, &["acme"], Options::new()).await;
        source
            .auth(
                "ALTER TABLE auth.users ADD seen timestamp, ADD score float8, ADD amount numeric, ADD tags text[],
                   ADD since interval, ADD raw bytea, ADD born date;
                 INSERT INTO auth.users (id, org, first_name, profile, seen, score, amount, tags, since, raw, born)
                 SELECT 'u' || n, 'acme', 'Ann', jsonb_build_object('n', n), now(), random(), n / 3.0, ARRAY['a', NULL],
                        '1 year 2 days 03:04:05.6', decode('00ff', 'hex'), 'infinity'
                 FROM generate_series(1, 500) n",
            )
            .await;
        let mut config = targets.config();
        (config.source.url, config.state_url) = (source.url("auth"), source.url("auth"));
        let service = Service::start(config.clone());
        equal(&source, &targets, "acme").await;
        source
            .auth(
                "UPDATE auth.users SET first_name = 'Bob', score = 'NaN', amount = 1e30, updated_at = now() WHERE id LIKE '%3';
                 DELETE FROM auth.users WHERE id LIKE '%7';
                 INSERT INTO auth.users (id, org, score) VALUES ('new', 'acme', '-Infinity')",
            )
            .await;
        equal(&source, &targets, "acme").await;
        service.stop().await;
    }
}

/// From PostgreSQL 18 on, pgoutput can send generated columns. The result must not depend on that.
#[tokio::test(flavor = "multi_thread")]
async fn generated_columns_are_left_out_even_if_published() {
    let bed = bed(18, &["acme"], Options::new()).await;
    bed.auth(
        "ALTER TABLE auth.users ADD full_name text GENERATED ALWAYS AS (first_name || ' ' || last_name) STORED,
           ADD initial text GENERATED ALWAYS AS (left(first_name, 1)) VIRTUAL;
         CREATE PUBLICATION users_sync FOR TABLE auth.users
           WITH (publish_via_partition_root = true, publish_generated_columns = stored);
         INSERT INTO auth.users (id, org, first_name, last_name) VALUES ('ann', 'acme', 'Ann', 'Lee')",
    )
    .await;
    let held = "SELECT raw_json ->> 'first_name', raw_json ? 'full_name' OR raw_json ? 'initial'
                FROM neon_auth.users_sync WHERE id = 'ann' OR id = 'bob' ORDER BY id";
    let service = Service::start(bed.config());
    let becomes = async |expected: &[&str]| {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let there = bed.query("acme", "SELECT to_regclass('neon_auth.users_sync') IS NOT NULL").await;
            let rows = if there[0][0].as_deref() == Some("t") { bed.query("acme", held).await } else { Vec::new() };
            let names: Vec<_> = rows.iter().map(|row| row[0].as_deref().unwrap_or_default()).collect();
            if names == expected {
                assert!(rows.iter().all(|row| row[1].as_deref() == Some("f")), "{rows:?}");
                return;
            }
            assert!(Instant::now() < deadline, "{rows:?}");
            pause().await;
        }
    };
    becomes(&["Ann"]).await;
    bed.auth("UPDATE auth.users SET first_name = 'Anna'; INSERT INTO auth.users (id, org, first_name) VALUES ('bob', 'acme', 'Bob')").await;
    becomes(&["Anna", "Bob"]).await;
    service.stop().await;
}

/// Column lists exist since PostgreSQL 15. Before, whole rows would be sent although the configuration asks for less.
#[tokio::test(flavor = "multi_thread")]
async fn publish_columns_is_refused_before_postgresql_15() {
    let bed = bed(14, &["acme"], Options::new()).await;
    let words = "source.publish: columns needs PostgreSQL 15";
    let mut config = bed.config();
    config.source.publish = Publish::Columns;
    let error = Service::start(config).fails().await.to_string();
    assert!(error.contains(words), "{error}");
    let yaml = "users: {table: auth.users, id: id, tenant: org, allow: [org]}";
    let file = bed.config_file("");
    let text = std::fs::read_to_string(file.path()).unwrap();
    let users = text.lines().find(|line| line.starts_with("users:")).unwrap();
    let text = text.replace(users, yaml).replace("source: {", "source: {publish: columns, ");
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    for name in ["check", "setup", "run"] {
        let (text, code) = said(&command(&[name, "-c", path]).await);
        assert!(text.contains(words) && code == Some(1), "{name}: {text}");
    }
    assert_eq!(bed.query("auth", "SELECT FROM pg_publication").await.len(), 0);
}

/// A primary, a standby that carries the slot over, and a process that reaches whichever is the primary.
struct Failover {
    primary: Bed,
    standby: Option<PostgresServer>,
    targets: Bed,
    proxy: TcpProxy,
    process: Process,
    log: Log,
    _config: tempfile::NamedTempFile,
}

impl Failover {
    async fn start(major: u32) -> Failover {
        let mut primary = bed(major, &[], Options::new()).await;
        let targets = Bed::start(&["acme"]).await;
        primary.auth("SELECT pg_create_physical_replication_slot('standby', true)").await;
        primary
            .auth("INSERT INTO auth.users (id, org, first_name) SELECT 'u' || n, 'acme', 'Ann' FROM generate_series(1, 200) n")
            .await;
        let port = primary.server.port();
        let settings = Options::new()
            .binaries(binaries(major))
            .set("primary_conninfo", &format!("host=127.0.0.1 port={port} user=postgres dbname=postgres"))
            .set("primary_slot_name", "standby")
            .set("hot_standby_feedback", "on")
            .set("sync_replication_slots", "on");
        let standby = primary.server.standby(settings).await.unwrap();
        // Nothing reaches the targets before the standby has it.
        primary.auth("ALTER SYSTEM SET synchronized_standby_slots = 'standby'").await;
        primary.auth("SELECT pg_reload_conf()").await;
        let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.unwrap();
        let url = primary.server.url("auth").replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
        let config = config_file(&url, &[("acme".into(), targets.server.url("acme"))], "");
        let (process, log) = Process::start_logged(&config);
        equal(&primary, &targets, "acme").await;
        Failover { primary, standby: Some(standby), targets, proxy, process, log, _config: config }
    }

    async fn standby_has_the_slot(&self) {
        let client = self.standby.as_ref().unwrap().connect("auth").await.unwrap();
        let ready = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'users_sync' AND synced AND failover AND NOT temporary";
        let deadline = Instant::now() + DEADLINE;
        while client.query_one(ready, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            let log = self.standby.as_ref().unwrap().log_tail();
            assert!(Instant::now() < deadline, "the standby has no slot\n{log}");
            pause().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_slot_survives_the_promotion_of_a_standby() {
    // Run both in parallel: a standby synchronises slots only every half minute.
    tokio::join!(carried_over(17), carried_over(18));
}

async fn carried_over(major: u32) {
    let mut world = Failover::start(major).await;
    world.standby_has_the_slot().await;
    world.primary.auth("UPDATE auth.users SET first_name = 'Bob', updated_at = now() WHERE id LIKE '%5'").await;
    equal(&world.primary, &world.targets, "acme").await;
    let last = world.targets.query("acme", "SELECT pg_current_xact_id()").await[0][0].clone().unwrap();

    world.primary.server.stop_immediate().await.unwrap();
    let standby = world.standby.take().unwrap();
    // The process meets the standby before its promotion, as happens in a failover, and waits.
    world.proxy.lead_to(SocketAddr::from((Ipv4Addr::LOCALHOST, standby.port())));
    world.log.says("a standby that has not been promoted").await;
    standby.sql("postgres", "SELECT pg_promote()").await.unwrap();
    world.primary.server = standby;
    world.primary.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('late', 'acme', 'Late')").await;
    equal(&world.primary, &world.targets, "acme").await;
    world.log.says("its timeline changed").await;
    let log = world.log.text();
    assert_eq!(
        log.matches("creating the replication slot").count(),
        1,
        "the slot that was carried over is used\n{log}"
    );
    // Rows that the target holds already are not written again.
    let written = format!("SELECT count(*) FROM neon_auth.users_sync WHERE xmin::text::bigint > {last}");
    assert_eq!(world.targets.query("acme", &written).await[0][0].as_deref(), Some("1"), "{log}");
    world.primary.auth("DELETE FROM auth.users WHERE id = 'u1'").await;
    equal(&world.primary, &world.targets, "acme").await;
    assert!(world.process.stop().await.success());
}
