//! A million rows: memory stays small, the target sees all or nothing, and the application does not wait.

use crate::support::process::Process;
use crate::support::{Bed, DEADLINE, GENERATED, pause};
use std::time::{Duration, Instant};
use tokio_postgres::Client;
use users_sync::throwaway::Options;

const ROWS: u32 = 1_000_000;
/// An insert that waits for one of our locks fails by this timeout. The locks of an open transaction last for seconds.
const WAITS_FOR_NO_LOCK: &str = "SET lock_timeout = '500ms'";
const MEMORY: u64 = 100_000_000;

const TODOS: &str = "
    CREATE TABLE todos (id serial PRIMARY KEY, task text NOT NULL,
      user_id text NOT NULL REFERENCES neon_auth.users_sync(id) ON DELETE CASCADE,
      created_at timestamptz DEFAULT current_timestamp)";

/// Serialises these tests: each uses the whole machine.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// These tests examine locks, not disks.
async fn bed(tenants: &[&str]) -> Bed {
    let options = Options::new().set("fsync", "off").set("max_wal_size", "8GB").set("shared_buffers", "512MB");
    let bed = Bed::start_with(tenants, options).await;
    let tenants = tenants.iter().map(|tenant| format!("'{tenant}'")).collect::<Vec<_>>();
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, email, updated_at)
         SELECT 'u' || n, (ARRAY[{}])[1 + n % {}], 'Ann', n || '@x.org', now() FROM generate_series(1, {ROWS}) n",
        tenants.join(", "),
        tenants.len()
    ))
    .await;
    bed
}

/// Whether users-sync has had a transaction that writes users open in this database for a while.
async fn is_open(monitor: &Client, tenant: &str) -> bool {
    let sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'users-sync%' AND datname = $1
               AND backend_xid IS NOT NULL AND xact_start < now() - interval '200 ms'";
    monitor.query_one(sql, &[&tenant]).await.unwrap().get(0)
}

/// Inserts todos for users that the open transaction changes, as long as it is open. Returns each duration.
async fn time_inserts(bed: &Bed, tenant: &str) -> Vec<Duration> {
    let (app, monitor) = (bed.server.connect(tenant).await.unwrap(), bed.server.connect("postgres").await.unwrap());
    app.batch_execute(WAITS_FOR_NO_LOCK).await.unwrap();
    let deadline = Instant::now() + 5 * DEADLINE;
    let mut times: Vec<Duration> = Vec::new();
    let place = bed.tenants.iter().position(|known| known == tenant).unwrap();
    while Instant::now() < deadline {
        if !is_open(&monitor, tenant).await {
            if !times.is_empty() {
                return times;
            }
            pause().await;
            continue;
        }
        // Spread over the table, so that some are changed already and others are not.
        let number = (times.len() * 7919 % 100_000) * bed.tenants.len() + place;
        let user = format!("u{}", if number == 0 { bed.tenants.len() } else { number });
        let begun = Instant::now();
        app.execute("INSERT INTO todos (task, user_id) VALUES ('do not wait', $1)", &[&user]).await.unwrap();
        times.push(begun.elapsed());
        pause().await;
    }
    panic!("no transaction of {tenant} was ever seen open, or it never ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_in_one_transaction_take_little_memory_and_are_seen_at_once() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let bed = bed(&["acme"]).await;
    let config = bed.config_file("");
    let process = Process::start(&config);
    bed.state_is("acme", "following").await;
    let reader = bed.server.connect("acme").await.unwrap();
    let changing = tokio::spawn({
        let client = bed.server.connect("auth").await.unwrap();
        async move { client.batch_execute("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await.unwrap() }
    });
    let deadline = Instant::now() + 5 * DEADLINE;
    loop {
        let sql = "SELECT count(*) FILTER (WHERE name = 'Bea'), count(*) FROM neon_auth.users_sync";
        let row = reader.query_one(sql, &[]).await.unwrap();
        match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
            (0, all) if all == i64::from(ROWS) => assert!(Instant::now() < deadline, "nothing arrived"),
            (changed, all) => {
                assert_eq!((changed, all), (i64::from(ROWS), i64::from(ROWS)));
                break;
            }
        }
        pause().await;
    }
    changing.await.unwrap();
    let peak = process.peak_memory();
    println!("resident memory: {:.1} MB at most", peak as f64 / 1e6);
    assert!(peak < MEMORY, "{peak} bytes");
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_waits_neither_for_a_chunked_transaction_nor_for_a_merge() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let bed = bed(&["plain", "neon"]).await;
    bed.server.sql("neon", GENERATED).await.unwrap();
    let config = bed.config_file("limits: {stall: 300s}");
    let process = Process::start(&config);
    for tenant in ["plain", "neon"] {
        bed.state_is(tenant, "following").await;
        bed.server.sql(tenant, TODOS).await.unwrap();
    }
    for tenant in ["plain", "neon"] {
        bed.auth(&format!("UPDATE auth.users SET first_name = 'Bea', updated_at = now() WHERE org = '{tenant}'")).await;
        check(&bed, tenant, "chunked transaction").await;
        bed.becomes(tenant, "SELECT count(*) FROM neon_auth.users_sync WHERE name LIKE 'Ann%'", "0").await;
    }
    assert!(process.stop().await.success());

    // As after a parking: all users differ, so that a merge changes every row.
    for tenant in ["plain", "neon"] {
        bed.auth(&format!("UPDATE users_sync.tenant SET state = 'parked' WHERE tenant = '{tenant}'")).await;
        bed.auth(&format!("UPDATE auth.users SET first_name = 'Cid', updated_at = now() WHERE org = '{tenant}'")).await;
        let process = Process::start(&config);
        check(&bed, tenant, "merge").await;
        bed.becomes(tenant, "SELECT count(*) FROM neon_auth.users_sync WHERE name LIKE 'Bea%'", "0").await;
        assert!(process.stop().await.success());
    }
}

async fn check(bed: &Bed, tenant: &str, what: &str) {
    let mut times = time_inserts(bed, tenant).await;
    times.sort();
    let (inserts, p99, longest) = (times.len(), times[times.len() * 99 / 100 - 1], times[times.len() - 1]);
    println!("{what}, {tenant}: {inserts} inserts, p99 {p99:?}, the longest took {longest:?}");
    assert!(inserts >= 100, "{what}, {tenant}: {inserts} inserts while it was open");
}
