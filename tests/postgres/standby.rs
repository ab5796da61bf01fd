//! Two processes with one configuration: one works, the other is a standby. It takes over, and a first process that
//! wakes up again does not disturb it.

use crate::support::process::{Process, config_file};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, DEADLINE, pause};
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The epochs that have written to the target, in order.
const HISTORY: &str = "
    CREATE SCHEMA history;
    CREATE TABLE history.writers (n bigserial, epoch bigint);
    CREATE FUNCTION history.written() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      INSERT INTO history.writers (epoch) VALUES (NEW.epoch); RETURN NULL; END $$;
    CREATE TRIGGER seen AFTER INSERT OR UPDATE ON users_sync.checkpoint FOR EACH ROW EXECUTE FUNCTION history.written()";
const BACKWARDS: &str = "SELECT count(*) FROM (SELECT epoch < lag(epoch) OVER (ORDER BY n) AS back
                         FROM history.writers) h WHERE back";
const USERS: u32 = 20_000;

async fn epoch(bed: &Bed) -> i64 {
    bed.query("auth", "SELECT epoch FROM users_sync.source WHERE slot = 'users_sync'").await[0][0]
        .as_deref()
        .unwrap()
        .parse()
        .unwrap()
}

/// A working process and a standby.
async fn pair(bed: &Bed, file: &tempfile::NamedTempFile) -> (Process, Process) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, updated_at)
         SELECT 'u' || n, 'acme', 'Ann', now() FROM generate_series(1, {USERS}) n"
    ))
    .await;
    let first = Process::start(file);
    bed.equal().await;
    bed.server.sql("acme", HISTORY).await.unwrap();
    let second = Process::start(file);
    // It has read the state: it holds a replication connection that does not use the slot.
    bed.becomes("auth", "SELECT count(*) > 1 FROM pg_stat_activity WHERE backend_type = 'walsender'", "t").await;
    (first, second)
}

/// Waits until the second process holds the slot. Returns how long that took.
async fn taken_over(bed: &Bed, before: i64) -> Duration {
    let begun = Instant::now();
    while epoch(bed).await == before {
        assert!(begun.elapsed() < DEADLINE, "no process took over");
        pause().await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_process() {
    let bed = Bed::start(&["acme"]).await;
    let file = bed.config_file("");
    let (first, second) = pair(&bed, &file).await;
    let before = epoch(&bed).await;
    first.kill();
    let took = taken_over(&bed, before).await;
    println!("taken over {took:?} after kill -9");
    let events = "SELECT count(*) FROM users_sync.event WHERE kind = 'failed_over' AND text ~ 'process \\d+ .* took over from process \\d+ '";
    assert_eq!(bed.query("auth", events).await[0][0].as_deref(), Some("1"));
    bed.auth("UPDATE auth.users SET first_name = 'Bea' WHERE id = 'u1'").await;
    bed.equal().await;
    assert!(second.stop().await.success());
}

/// Freezes the first process while its statement waits for a lock at the target, and resumes it much later.
async fn frozen_in(change: &str, bed: &Bed, first: &Process, second: Process) {
    let before = epoch(bed).await;
    let blocker = bed.server.connect("acme").await.unwrap();
    // A table lock takes no transaction id, which the creation of a snapshot would wait for.
    blocker.batch_execute("BEGIN; LOCK TABLE neon_auth.users_sync IN SHARE MODE").await.unwrap();
    bed.auth(change).await;
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = 'acme' AND wait_event_type = 'Lock'";
    bed.becomes("acme", waits, "t").await;
    first.signal(Signal::STOP);
    let frozen = Instant::now();
    blocker.batch_execute("ROLLBACK").await.unwrap();
    taken_over(bed, before).await;
    bed.equal().await;
    let took = frozen.elapsed();
    println!("taken over and equal {took:?} after SIGSTOP");
    first.signal(Signal::CONT);
    // It wakes up and finds its successor.
    bed.becomes("auth", "SELECT count(*) > 1 FROM pg_stat_activity WHERE backend_type = 'walsender'", "t").await;
    bed.auth("UPDATE auth.users SET last_name = 'Zed', updated_at = now() WHERE id IN ('u1', 'u20000')").await;
    bed.equal().await;
    assert_eq!(bed.query("acme", BACKWARDS).await[0][0].as_deref(), Some("0"));
    // Only the second process has begun a session since.
    assert_eq!(bed.query("auth", "SELECT count(*) FROM users_sync.epoch").await[0][0].as_deref(), Some("2"));
    assert!(second.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_frozen_in_a_batch_writes_nothing_when_it_wakes_up() {
    let bed = Bed::start(&["acme"]).await;
    let file = bed.config_file("");
    let (first, second) = pair(&bed, &file).await;
    frozen_in("UPDATE auth.users SET first_name = 'Bea' WHERE id = 'u20000'", &bed, &first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_frozen_in_a_chunked_transaction_writes_nothing_when_it_wakes_up() {
    let bed = Bed::start(&["acme"]).await;
    let file = bed.config_file("");
    let (first, second) = pair(&bed, &file).await;
    frozen_in("UPDATE auth.users SET first_name = 'Bea', updated_at = now()", &bed, &first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_frozen_in_a_merge_writes_nothing_when_it_wakes_up() {
    let bed = Bed::start(&["acme"]).await;
    let file = bed.config_file("");
    let (first, second) = pair(&bed, &file).await;
    // A resync whose merge has to write the locked row.
    bed.server.sql("acme", "UPDATE neon_auth.users_sync SET name = 'Mallory' WHERE id = 'u20000'").await.unwrap();
    let ask = "INSERT INTO users_sync.request (slot, tenant, allow_deletes) VALUES ('users_sync', 'acme', false)";
    frozen_in(ask, &bed, &first, second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_replaces_a_process_that_lost_its_network() {
    let bed = Bed::start(&["acme"]).await;
    let through = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let mut source = bed.url("auth");
    source.port = through.port();
    let cut_off = bed.server.url("auth").replace(&format!(":{}", bed.server.port()), &format!(":{}", through.port()));
    let first_file = config_file(&cut_off, &[("acme".into(), bed.server.url("acme"))], "");
    bed.auth("INSERT INTO auth.users (id, org, first_name, updated_at) VALUES ('u1', 'acme', 'Ann', now())").await;
    let first = Process::start(&first_file);
    bed.equal().await;
    let second_file = bed.config_file("");
    let second = Process::start(&second_file);
    bed.becomes("auth", "SELECT count(*) > 1 FROM pg_stat_activity WHERE backend_type = 'walsender'", "t").await;
    let before = epoch(&bed).await;
    // Nothing passes any more, and neither side is informed.
    through.freeze(true);
    let took = taken_over(&bed, before).await;
    println!("taken over {took:?} after the network was cut");
    bed.auth("UPDATE auth.users SET first_name = 'Bea' WHERE id = 'u1'").await;
    bed.equal().await;
    first.kill();
    assert!(second.stop().await.success());
}

/// The pids of sessions with this mark in their application_name.
async fn marked(bed: &Bed, mark: &str) -> Vec<String> {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE application_name LIKE '%{mark}%' ORDER BY pid");
    bed.query("auth", &sql).await.into_iter().filter_map(|row| row[0].clone()).collect()
}

/// A frozen process cannot end its COPY, its snapshot and its locks: the next one does.
#[tokio::test(flavor = "multi_thread")]
async fn a_takeover_ends_every_session_of_the_frozen_process_and_no_other() {
    let bed = Bed::start(&["acme", "globex"]).await;
    let url = |tenant: &str| (tenant.to_owned(), bed.server.url(tenant));
    let source = bed.server.url("auth");
    // Another installation with the same role and database.
    let other_file = config_file(&source, &[url("globex")], "");
    let text = std::fs::read_to_string(other_file.path()).unwrap();
    std::fs::write(other_file.path(), text.replacen("source: {", "source: {slot: users_sync_2, ", 1)).unwrap();
    bed.auth("INSERT INTO auth.users (id, org, first_name) VALUES ('g1', 'globex', 'Gil')").await;
    let (other, other_log) = Process::start_logged(&other_file);
    other_log.says("up to date, streaming").await;
    bed.auth(
        "INSERT INTO auth.users (id, org, profile) SELECT 'u' || n, 'acme', to_jsonb(repeat('x', 2000))
         FROM generate_series(1, 40000) n",
    )
    .await;
    let others = marked(&bed, " users_sync_2@").await;
    assert!(!others.is_empty());
    // While another target is being opened, the scan waits a second for further tenants.
    let unreachable = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    unreachable.freeze(true);
    let slow = bed.server.url("slow").replace(&bed.server.port().to_string(), &unreachable.port().to_string());
    let file = config_file(&source, &[url("acme"), ("slow".into(), slow)], "");
    let (observer, locker) = tokio::join!(bed.server.connect("auth"), bed.server.connect("auth"));
    let (observer, locker) = (observer.unwrap(), locker.unwrap());
    let first = Process::start(&file);
    let joins = "SELECT count(*) > 0 FROM users_sync.tenant WHERE slot = 'users_sync' AND tenant = 'acme'";
    let deadline = Instant::now() + DEADLINE;
    while !observer.query_one(joins, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < deadline, "acme does not join");
        pause().await;
    }
    locker.batch_execute("BEGIN; LOCK TABLE auth.users IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE '% users_sync@%'
                 AND wait_event_type = 'Lock' AND (query LIKE 'EXPLAIN%' OR query LIKE 'COPY (SELECT%')";
    bed.becomes("auth", waits, "t").await;
    first.signal(Signal::STOP);
    locker.batch_execute("ROLLBACK").await.unwrap();
    let before = epoch(&bed).await;
    let mark = format!(" users_sync@{before}");
    // Reader, state, holder of the snapshot, COPY.
    let held = marked(&bed, &mark).await;
    assert!(held.len() >= 4, "{:?}", bed.query("auth", "SELECT application_name, query FROM pg_stat_activity").await);
    let second = Process::start(&file);
    taken_over(&bed, before).await;
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%{mark}%'");
    bed.becomes("auth", &left, "0").await;
    bed.state_is("acme", "following").await;
    bed.becomes("auth", "SELECT count(*) FROM pg_replication_slots WHERE temporary", "0").await;
    let now = marked(&bed, " users_sync_2@").await;
    let kept = others.iter().filter(|pid| now.contains(pid)).count();
    assert!(kept >= 2, "{others:?} became {now:?}");
    assert!(!other_log.text().contains("session on the source ended"), "{}", other_log.text());
    bed.auth("UPDATE auth.users SET first_name = 'Eve' WHERE id IN ('g1', 'u1')").await;
    bed.becomes("globex", "SELECT name FROM neon_auth.users_sync WHERE id = 'g1'", "Eve").await;
    bed.becomes("acme", "SELECT name FROM neon_auth.users_sync WHERE id = 'u1'", "Eve").await;
    first.signal(Signal::CONT);
    bed.becomes("auth", "SELECT count(*) FROM users_sync.epoch WHERE slot = 'users_sync'", "2").await;
    assert!(second.stop().await.success());
    assert!(other.stop().await.success());
}
