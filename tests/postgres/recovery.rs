//! After a fault is removed everything streams again within seconds: pauses stay short, and `resume` ends them.

use crate::support::Bed;
use crate::support::process::{Process, command, config_file, said};
use crate::support::proxy::TcpProxy;
use rustix::process::Signal;
use std::net::{Ipv4Addr, SocketAddr};

/// The pauses in the log lines that contain these words, in seconds.
fn pauses(log: &str, words: &str) -> Vec<f64> {
    let seconds = |line: &str| {
        let wait = line.split_once("wait=")?.1.split_whitespace().next()?;
        let number = |unit: &str| wait.strip_suffix(unit)?.parse::<f64>().ok();
        number("ms").map(|ms| ms / 1e3).or_else(|| number("µs").map(|us| us / 1e6)).or_else(|| number("s"))
    };
    log.lines().filter(|line| line.contains(words)).filter_map(seconds).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_stay_short_and_resume_ends_that_of_a_parked_tenant() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, org FROM generate_series(1, 9) n, unnest('{acme,globex}'::text[]) org").await;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()));
    let (source, target) = (TcpProxy::start(server).await.unwrap(), TcpProxy::start(server).await.unwrap());
    let through = |url: String, port: u16| url.replace(&format!(":{}/", bed.server.port()), &format!(":{port}/"));
    let targets = [
        ("acme".to_owned(), through(bed.server.url("acme"), target.port())),
        ("globex".to_owned(), bed.server.url("globex")),
    ];
    let more = format!("state: {{url: '{}'}}\nlimits: {{park_after: 1s}}", bed.server.url("auth"));
    let file = config_file(&through(bed.server.url("auth"), source.port()), &targets, &more);
    let path = file.path().to_str().unwrap();
    let (process, log) = Process::start_logged(&file);
    bed.equal().await;

    // The source is away for long enough that its pauses do not grow any more.
    source.refuse(true);
    log.says_times("session on the source ended", 7).await;
    source.refuse(false);
    bed.auth("UPDATE auth.users SET first_name = 'Bea', updated_at = now()").await;
    bed.equal().await;
    let of_source = pauses(&log.text(), "session on the source ended");
    assert!(of_source.len() >= 7 && of_source.iter().all(|pause| *pause <= 5.0), "{of_source:?}");

    // A target is away until its tenant is parked and its pauses have grown.
    target.refuse(true);
    bed.auth("UPDATE auth.users SET first_name = 'Eva', updated_at = now()").await;
    bed.state_is("acme", "parked").await;
    log.says_times("parked reason=", 4).await;
    target.refuse(false);
    let (text, code) = said(&command(&["resume", "acme", "-c", path]).await);
    assert!(code == Some(0) && text.contains("acme: was not paused"), "{text}");
    bed.equal().await;
    bed.state_is("acme", "following").await;
    let parked = pauses(&log.text(), "parked reason=");
    assert!(parked.iter().all(|pause| *pause <= 60.0), "{parked:?}");
    assert!(process.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resync_works_beside_no_process_and_makes_no_slot() {
    let bed = Bed::start(&["acme"]).await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'u' || n, 'acme' FROM generate_series(1, 9) n").await;
    let file = bed.config_file("");
    let path = file.path().to_str().unwrap();
    let process = Process::start(&file);
    bed.equal().await;
    // A frozen process still reads the slot, past its lease.
    process.signal(Signal::STOP);
    bed.auth("UPDATE users_sync.source SET lease_until = now() - interval '1 s'").await;
    let (text, code) = said(&command(&["resync", "acme", "-c", path]).await);
    process.signal(Signal::CONT);
    assert!(code == Some(1) && text.contains("reads slot users_sync, but no running process"), "{text}");
    assert!(process.stop().await.success());
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    bed.auth("SELECT pg_drop_replication_slot('users_sync')").await;
    let (text, code) = said(&command(&["resync", "acme", "-c", path]).await);
    assert!(code == Some(1) && text.contains("slot users_sync does not exist"), "{text}");
    assert!(text.contains("start users-sync run"), "{text}");
    assert_eq!(bed.query("auth", "SELECT count(*) FROM pg_replication_slots").await[0][0].as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_works_beside_a_process_without_a_session() {
    let bed = Bed::start(&["acme", "state"]).await;
    bed.auth("INSERT INTO auth.users (id, org, updated_at) VALUES ('a', 'acme', now())").await;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()));
    let proxy = TcpProxy::start(server).await.unwrap();
    let direct = bed.server.url("auth");
    let through = direct.replace(&format!(":{}/", bed.server.port()), &format!(":{}/", proxy.port()));
    let targets = [("acme".to_owned(), bed.server.url("acme"))];
    let more = format!("state: {{url: '{}'}}", bed.server.url("state"));
    let (cut, whole) = (config_file(&through, &targets, &more), config_file(&direct, &targets, &more));
    let path = whole.path().to_str().unwrap();
    let (process, log) = Process::start_logged(&cut);
    bed.becomes("acme", "SELECT to_regclass('neon_auth.users_sync') IS NOT NULL", "t").await;
    bed.becomes("acme", "SELECT count(*) FROM neon_auth.users_sync", "1").await;
    proxy.refuse(true);
    log.says("session on the source ended").await;
    let alive = "SELECT count(*) FROM users_sync.process WHERE process LIKE 'process % on %'";
    bed.becomes("state", alive, "1").await;
    bed.server.sql("state", "UPDATE users_sync.source SET lease_until = now() - interval '1 s'").await.unwrap();
    bed.becomes("auth", "SELECT active FROM pg_replication_slots", "f").await;
    for arguments in [&["resync", "acme"][..], &["adopt", "acme", "--yes"], &["teardown", "--yes"]] {
        let (text, code) = said(&command(&[arguments, &["-c", path]].concat()).await);
        assert!(code == Some(1) && text.contains("process ") && text.contains(" runs"), "{arguments:?}: {text}");
    }
    let (text, code) = said(&command(&["status", "-c", path]).await);
    assert!(code == Some(3) && text.contains("failed source_unreachable"), "{text}");
    assert!(text.contains("runs without replicating: process "), "{text}");
    // One that was killed left its last sign of life behind.
    process.kill();
    let (text, code) = said(&command(&["resync", "acme", "-c", path]).await);
    assert!(code == Some(0) && text.contains("resynced"), "{text}");

    // One that stops takes it back.
    bed.server.sql("state", "DELETE FROM users_sync.process").await.unwrap();
    let (process, log) = Process::start_logged(&cut);
    log.says("session on the source ended").await;
    bed.becomes("state", alive, "1").await;
    assert!(process.stop().await.success());
    assert_eq!(bed.query("state", alive).await[0][0].as_deref(), Some("0"));
    let (text, code) = said(&command(&["teardown", "--yes", "-c", path]).await);
    assert!(code == Some(0) && text.contains("done"), "{text}");
}
