//! A thousand tenants: start time, time to add one, and memory while idle.

use super::Table;
use super::bed::{Bed, Process};
use std::time::{Duration, Instant};

const TENANTS: usize = 1_000;
/// Initial users of each tenant. `USERS_SYNC_USERS` overrides it.
const USERS: usize = 10;
/// The allocator returns memory that was unused for ten seconds.
const DECAY: Duration = Duration::from_secs(15);

pub async fn a_thousand_tenants(table: &mut Table) {
    let bed = Bed::for_connections("1200").await;
    bed.database("scale", 1).await;
    let each = std::env::var("USERS_SYNC_USERS").ok().and_then(|users| users.parse().ok()).unwrap_or(USERS);
    let users = format!(
        "ALTER TABLE users REPLICA IDENTITY FULL; TRUNCATE users; \
         INSERT INTO users (id, name, created_at) SELECT 'u' || n, 't' || n % {}, now() FROM generate_series(1, {}) n",
        TENANTS + 1,
        each * (TENANTS + 1)
    );
    bed.source.sql("scale", &users).await.unwrap();
    let mut tenants = Vec::new();
    for n in 0..=TENANTS {
        let database = format!("scale_{n}");
        bed.target.create_database(&database).await.unwrap();
        tenants.push((format!("t{n}"), bed.target.url(&database)));
    }
    let one = bed.ours("scale", &tenants[..1], true);
    bed.following("scale", 1).await;
    let alone = idle(&bed, &one).await;
    one.stop();

    let before = rows_read(&bed).await;
    let started = Instant::now();
    let process = bed.ours("scale", &tenants[..TENANTS], true);
    bed.following("scale", TENANTS).await;
    println!("  with {each} users per tenant:");
    table.add("1,000 tenants: start to all up to date", "s", started.elapsed().as_secs_f64(), None, "<= 60 s");
    let times = (rows_read(&bed).await - before) / (each * (TENANTS + 1)) as f64;
    table.add("1,000 tenants that join together: rows read per row of the table", "times", times, None, "<= 2");

    let started = Instant::now();
    std::fs::write(process.file(), bed.configuration("scale", &tenants, true)).unwrap();
    bed.following("scale", TENANTS + 1).await;
    table.add("one more tenant: file written to up to date", "s", started.elapsed().as_secs_f64(), None, "<= 2 s");

    // Idle targets have no connection.
    let now = idle(&bed, &process).await;
    process.stop();
    let kilobytes = (now - alone) * 1024.0 / TENANTS as f64;
    table.add("memory of an idle tenant among 1,000", "kB", kilobytes, None, "<= 20 kB");
}

/// Rows read by sequential scans of the users table, which has no index on the tenant.
async fn rows_read(bed: &Bed) -> f64 {
    let client = bed.source.connect("scale").await.unwrap();
    let sql = "SELECT seq_tup_read::float8 FROM pg_stat_user_tables WHERE relname = 'users'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// Resident memory after the last connection is closed and the allocator has returned what it can.
async fn idle(bed: &Bed, process: &Process) -> f64 {
    let none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'users-sync'";
    bed.wait(&bed.target, "postgres", none).await;
    let mut resident = process.resident().now;
    loop {
        tokio::time::sleep(DECAY).await;
        let now = process.resident().now;
        if now > resident * 0.99 {
            return now;
        }
        resident = now;
    }
}
