//! The first snapshot of a million users.

use super::Table;
use super::bed::{Bed, Process};
use std::time::Instant;

const USERS: u32 = 1_000_000;

pub async fn first_copy(bed: &Bed, table: &mut Table) {
    bed.database("first", USERS).await;
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
    table.add("resync of 1,000,000 users, relative to the first snapshot", "s", again, Some(ours), "<= 2");
    table.add("verify of 1,000,000 users, relative to the first snapshot", "s", compared, Some(ours), "");
    let sql = format!("SELECT count(*) = {USERS} FROM neon_auth.users_sync");
    bed.wait(&bed.target, "first_ours", &sql).await;
    table.add("first snapshot of 1,000,000 users", "s", ours, Some(reference), "<= 1.25");
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
