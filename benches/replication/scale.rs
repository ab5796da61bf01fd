//! A thousand tenants: start time, time to add one, and memory while idle.

use super::bed::{Bed, Process};
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use std::time::{Duration, Instant};

/// Initial users of each tenant. `USERS_SYNC_USERS` overrides it.
const USERS: usize = 10;
/// The allocator returns memory that was unused for ten seconds.
const DECAY: Duration = Duration::from_secs(15);

pub async fn a_thousand_tenants(table: &mut Table) {
    let tenants_wanted = sized(1_000) as usize;
    let bed = Bed::with(|options| options.set("max_connections", "1200")).await;
    bed.database("scale", 1).await;
    let each = std::env::var("USERS_SYNC_USERS").ok().and_then(|users| users.parse().ok()).unwrap_or(USERS);
    let users = format!(
        "ALTER TABLE users REPLICA IDENTITY FULL; TRUNCATE users; \
         INSERT INTO users (id, name, created_at) SELECT 'u' || n, 't' || n % {}, now() FROM generate_series(1, {}) n",
        tenants_wanted + 1,
        each * (tenants_wanted + 1)
    );
    bed.source.sql("scale", &users).await.unwrap();
    let mut tenants = Vec::new();
    for n in 0..=tenants_wanted {
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
    let process = bed.ours("scale", &tenants[..tenants_wanted], true);
    bed.following("scale", tenants_wanted).await;
    let seconds = started.elapsed().as_secs_f64();
    let all = format!("{} tenants", grouped(sized(1_000)));
    println!("  with {each} users per tenant:");
    table.add(format!("{all}: start to all up to date"), "s", seconds, None, Goal::AtMost(60.0));
    let times = (rows_read(&bed).await - before) / (each * (tenants_wanted + 1)) as f64;
    let what = format!("{all} that join together: rows read per row of the table");
    table.add(what, "times", times, None, Goal::AtMost(2.0));

    let started = Instant::now();
    std::fs::write(process.file(), bed.configuration("scale", &tenants, true)).unwrap();
    bed.following("scale", tenants_wanted + 1).await;
    let seconds = started.elapsed().as_secs_f64();
    table.add("one more tenant: file written to up to date", "s", seconds, None, Goal::AtMost(2.0));

    // Idle targets have no connection.
    let now = idle(&bed, &process).await;
    process.stop();
    let kilobytes = (now - alone) * 1024.0 / tenants_wanted as f64;
    table.add(format!("{all}: memory of an idle one"), "kB", kilobytes, None, Goal::AtMost(20.0));
    table.add(format!("{all}: resident memory, all idle"), "MB", now, None, Goal::AtMost(40.0));
}

/// Rows read by sequential scans of the users table, which has no index on the tenant.
async fn rows_read(bed: &Bed) -> f64 {
    let client = bed.source.connect("scale").await.unwrap();
    let sql = "SELECT seq_tup_read::float8 FROM pg_stat_user_tables WHERE relname = 'users'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// [`settled`], after the last connection is closed.
async fn idle(bed: &Bed, process: &Process) -> f64 {
    let none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'users-sync'";
    bed.wait(&bed.target, "postgres", none).await;
    settled(process).await
}

/// Resident memory once the allocator has returned what it can.
pub async fn settled(process: &Process) -> f64 {
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
