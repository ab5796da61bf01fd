//! Two processes with one configuration: one works, the other is a standby. It takes over, and a first process that
//! wakes up again does not disturb it.

use crate::support::process::Process;
use crate::support::{Bed, DEADLINE, pause};
use rustix::process::Signal;
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
    bed.query("auth", "SELECT epoch FROM users_sync.source").await[0][0].as_deref().unwrap().parse().unwrap()
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
    use crate::support::process::config_file;
    use crate::support::proxy::TcpProxy;
    use std::net::{Ipv4Addr, SocketAddr};
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
