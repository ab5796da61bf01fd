//! The first snapshot: of a million users beside `COPY | COPY`, of 50,000 beside the initial copy of PostgreSQL's
//! subscription.

use super::bed::{Bed, Process, USERS};
use super::size::{grouped, sized};
use super::table::{Goal, Table};
use std::time::Instant;

pub async fn first_copy(bed: &Bed, table: &mut Table) {
    of_many(bed, table).await;
    of_few(bed, table).await;
}

async fn of_many(bed: &Bed, table: &mut Table) {
    let users = sized(1_000_000);
    bed.database("first", users).await;
    bed.target.create_database("first_native").await.unwrap();
    let reference = copy_by_psql(bed).await;
    bed.target.sql("postgres", "CHECKPOINT").await.unwrap();
    let started = Instant::now();
    let process = bed.ours("first", &bed.one_tenant("first"), false);
    bed.following("first", 1).await;
    let ours = started.elapsed().as_secs_f64();
    let peak = process.resident().peak;
    println!("  peak resident memory {peak:.0} MB");
    let started = Instant::now();
    run(&process, &["resync", "--all"]).await;
    let again = started.elapsed().as_secs_f64();
    let started = Instant::now();
    run(&process, &["verify"]).await;
    let compared = started.elapsed().as_secs_f64();
    process.stop();
    let n = grouped(users);
    table.add(format!("resync of {n} users beside the first snapshot"), "s", again, ours, Goal::TimesAtMost(2.0));
    table.add(format!("verify of {n} users beside the first snapshot"), "s", compared, ours, Goal::None);
    bed.wait(&bed.target, "first_ours", &holds(users, "neon_auth.users_sync")).await;
    let goal = Goal::TimesAtMost(1.0);
    table.add(format!("first snapshot of {n} users, COPY | COPY"), "s", ours, reference, goal);
    bed.clear("first").await;
}

/// Both are timed from their start until all rows are visible.
async fn of_few(bed: &Bed, table: &mut Table) {
    let users = sized(50_000);
    bed.database("few", users).await;
    bed.target.create_database("few_native").await.unwrap();
    bed.target.sql("few_native", USERS).await.unwrap();
    bed.publish("few").await;
    bed.checkpoint().await;
    let subscribe = format!("CREATE SUBSCRIPTION few CONNECTION '{}' PUBLICATION native", bed.source.url("few"));
    let visible = bed.watch(&bed.target, "few_native", &holds(users, "users")).await;
    let started = Instant::now();
    bed.target.sql("few_native", &subscribe).await.unwrap();
    visible.until_true().await;
    let reference = started.elapsed().as_secs_f64();
    bed.wait(&bed.target, "few_native", "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel").await;
    println!("  native's table is synchronized after {:.2} s", started.elapsed().as_secs_f64());

    bed.checkpoint().await;
    let visible = bed.watch(&bed.target, "few_ours", &holds(users, "neon_auth.users_sync")).await;
    let started = Instant::now();
    let process = bed.ours("few", &bed.one_tenant("few"), false);
    visible.until_true().await;
    let ours = started.elapsed().as_secs_f64();
    bed.following("few", 1).await;
    println!("  the tenant of users-sync follows after {:.2} s", started.elapsed().as_secs_f64());
    process.stop();
    let what = format!("first snapshot of {} users, native's initial copy", grouped(users));
    table.add(what, "s", ours, reference, Goal::TimesAtMost(1.2));
    bed.clear("few").await;
}

fn holds(users: u32, table: &str) -> String {
    format!("SELECT count(*) = {users} FROM {table}")
}

/// Runs another command with the process's configuration.
async fn run(process: &Process, arguments: &[&str]) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_users-sync"));
    let output = command.args(arguments).arg("-c").arg(process.file()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The reference: `COPY (SELECT ... to_jsonb ...) TO STDOUT | COPY users_sync FROM STDIN` with two psql processes.
async fn copy_by_psql(bed: &Bed) -> f64 {
    bed.target
        .sql(
            "first_native",
            "CREATE TABLE users_sync (id text PRIMARY KEY, raw_json jsonb NOT NULL, name text, email text, \
             created_at timestamptz, deleted_at timestamptz, updated_at timestamptz); \
             CREATE INDEX ON users_sync (deleted_at)",
        )
        .await
        .unwrap();
    let (from, to) = (bed.source.url("first"), bed.target.url("first_native"));
    let started = Instant::now();
    let script = format!(
        "psql -qX '{from}' -c \"COPY (SELECT id, to_jsonb(u) || jsonb_build_object('display_name', name, \
         'primary_email', email, 'signed_up_at_millis', floor(extract(epoch FROM created_at) * 1000)::bigint), name, \
         email, created_at, deleted_at, updated_at FROM users u) TO STDOUT\" | \
         psql -qX '{to}' -c 'COPY users_sync FROM STDIN'"
    );
    let status = tokio::process::Command::new("sh").arg("-c").arg(script).status().await.unwrap();
    assert!(status.success());
    started.elapsed().as_secs_f64()
}
