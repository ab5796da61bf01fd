//! How far the limit is: a client that discards everything that a walsender sends.

use super::bed::Bed;
use super::usage::{Meter, Usage};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;
use users_sync::throwaway::Binaries;

/// Its slot holds the same changes as that of users-sync from now on.
pub async fn prepare(bed: &Bed, name: &str) {
    let create = format!("SELECT pg_create_logical_replication_slot('discarded_{name}', 'pgoutput')");
    bed.source.sql(name, &create).await.unwrap();
}

/// Seconds that pg_recvlogical takes to write what waits in the slot to /dev/null, with the publication and the protocol of
/// users-sync. `None` if the program is not installed.
pub async fn discard(bed: &Bed, name: &str) -> Option<(f64, Usage)> {
    let Some(program) = program() else {
        println!("  pg_recvlogical is not installed");
        return None;
    };
    bed.checkpoint().await;
    let client = bed.source.connect(name).await.unwrap();
    let end: String = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    let meter = Meter::start(bed, None).await;
    let started = Instant::now();
    let mut command = tokio::process::Command::new(program);
    command.args(["-d", &bed.source.url(name), "--slot", &format!("discarded_{name}"), "--start", "--no-loop"]);
    command.args(["--endpos", &end, "-f", "/dev/null", "-o", "proto_version=1"]);
    command.args(["-o", &format!("publication_names=ours_{name}")]);
    let status = command.stdin(Stdio::null()).status().await.unwrap();
    assert!(status.success(), "pg_recvlogical failed");
    let seconds = started.elapsed().as_secs_f64();
    meter.others_ended(bed).await;
    Some((seconds, meter.stop(bed, None).await.with_ended_walsender()))
}

/// Beside the server's programs, else in PATH: USERS_SYNC_PG_BIN may hold the server only.
fn program() -> Option<PathBuf> {
    let name = "pg_recvlogical";
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::env::split_paths(&path).map(|dir| dir.join(name));
    let beside = Binaries::find().ok().map(|binaries| binaries.program(name));
    beside.into_iter().chain(paths).find(|path| path.is_file())
}
