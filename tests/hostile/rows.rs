//! A row of an end user that is larger than the memory for its tenant is set aside before it is copied.

use crate::support::Bed;
use crate::support::process::{Process, command, said};

/// What the process may take for a row, in its bytes. A frame of the stream is received into a buffer of its size. COPY is
/// received into one that grows by doubling, so that at the last step both sizes exist.
const STREAMED: f64 = 1.25;
const COPIED: f64 = 2.75;
const ROW: u64 = 200 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_200_megabytes_is_not_copied() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('small', 'acme', now())").await;
    let config = bed.config_file("limits: {memory: 64MB, tenant_memory: 4MB}");
    let (process, log) = Process::start_logged(&config);
    arrives(&bed, "first").await;
    let before = process.peak_memory();
    let large = "jsonb_build_object('about', (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 6553600) n))";
    bed.auth(&format!("INSERT INTO auth.users (id, org, profile) VALUES ('large', 'acme', {large})")).await;
    arrives(&bed, "after-the-stream").await;
    log.says("more than limits.tenant_memory").await;
    check("the stream", process.peak_memory() - before, STREAMED);
    assert!(process.stop().await.success(), "{}", log.text());
    let (process, log) = Process::start_logged(&config);
    arrives(&bed, "second").await;
    let before = process.peak_memory();
    let (output, code) = said(&command(&["resync", "-c", config.path().to_str().unwrap(), "acme"]).await);
    assert_eq!(code, Some(0), "{output}");
    arrives(&bed, "after-the-snapshot").await;
    log.says("more than limits.tenant_memory").await;
    check("a snapshot", process.peak_memory() - before, COPIED);
    assert!(process.stop().await.success(), "{}", log.text());
}

fn check(what: &str, taken: u64, times: f64) {
    println!("{what} took {} MB for a row of {} MB", taken >> 20, ROW >> 20);
    assert!((taken as f64) < ROW as f64 * times, "{what}");
}

/// A user that comes later arrives.
async fn arrives(bed: &Bed, id: &str) {
    bed.auth(&format!("INSERT INTO auth.users (id, org, updated_at) VALUES ('{id}', 'acme', now())")).await;
    bed.state_is("acme", "following").await;
    let sql = format!("SELECT count(*) FROM neon_auth.users_sync WHERE id = '{id}'");
    bed.becomes("acme", &sql, "1").await;
}
