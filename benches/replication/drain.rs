//! The rate at which changes that wait in a slot reach the target.

use super::Table;
use super::bed::Bed;
use users_sync::throwaway::PostgresServer;

const TRANSACTIONS: u32 = 200_000;
const ROWS: u32 = 1_000_000;

/// The same changes wait in both slots. Each slot is drained on its own, timed from the start to the last user.
pub async fn single_row_transactions(bed: &Bed, table: &mut Table) {
    bed.database("drain", TRANSACTIONS).await;
    bed.subscribe("drain").await;
    let ours = bed.ours("drain", &bed.one_tenant("drain"), false);
    bed.following("drain", 1).await;
    ours.stop();
    bed.renames("drain", 1, TRANSACTIONS).await;
    let Drained { native, ours } =
        drain(bed, "drain", &format!("id = 'user-{TRANSACTIONS}' AND name = 'Changed'")).await;
    let rate = |seconds: f64| f64::from(TRANSACTIONS) / seconds;
    table.add("200,000 single-row transactions drained", "1/s", rate(ours), Some(rate(native)), ">= 1.2, goal 1.5");
}

pub async fn one_large_transaction(bed: &Bed, table: &mut Table) {
    bed.database("large", ROWS).await;
    bed.subscribe("large").await;
    let ours = bed.ours("large", &bed.one_tenant("large"), false);
    bed.following("large", 1).await;
    ours.stop();
    bed.source.sql("large", "UPDATE users SET name = 'Changed', updated_at = now()").await.unwrap();
    let changed = format!("id = 'user-{ROWS}' AND name = 'Changed'");
    let Drained { native, ours } = drain(bed, "large", &changed).await;
    let rate = |seconds: f64| f64::from(ROWS) / seconds;
    table.add("one transaction of 1,000,000 updates drained", "rows/s", rate(ours), Some(rate(native)), ">= 1");
}

/// Seconds that a drain takes.
struct Drained {
    native: f64,
    ours: f64,
}

async fn drain(bed: &Bed, name: &str, done: &str) -> Drained {
    checkpoint(&bed.source).await;
    checkpoint(&bed.target).await;
    bed.native(name, true).await;
    let sql = format!("SELECT true FROM users WHERE {done}");
    let native = bed.wait(&bed.target, &format!("{name}_native"), &sql).await;
    bed.native(name, false).await;
    checkpoint(&bed.target).await;
    let started = std::time::Instant::now();
    let process = bed.ours(name, &bed.one_tenant(name), false);
    let sql = format!("SELECT true FROM neon_auth.users_sync WHERE {done}");
    bed.wait(&bed.target, &format!("{name}_ours"), &sql).await;
    let ours = started.elapsed();
    let peak = process.resident().peak;
    println!("  peak resident memory {peak:.0} MB");
    process.stop();
    Drained { native: native.as_secs_f64(), ours: ours.as_secs_f64() }
}

/// Writes all dirty pages, so that no measured time includes it.
async fn checkpoint(server: &PostgresServer) {
    server.sql("postgres", "CHECKPOINT").await.unwrap();
}
