//! The binary's own information: its commit, and whether a process is healthy.

use crate::support::process::{Process, command, said};
use crate::support::{Bed, DEADLINE, pause};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits until the process reports that it is ready.
pub async fn is_ready(port: u16) {
    let url = format!("http://127.0.0.1:{port}/readyz");
    let deadline = Instant::now() + DEADLINE;
    loop {
        let (text, code) = said(&command(&["health", "--url", &url]).await);
        if code == Some(0) {
            return assert!(text.contains("\"ready\":true"), "{text}");
        }
        assert!(Instant::now() < deadline, "{text}");
        pause().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_names_the_commit() {
    let (text, code) = said(&command(&["--version"]).await);
    assert_eq!(code, Some(0));
    let commit = text.trim().strip_prefix(concat!("users-sync ", env!("CARGO_PKG_VERSION"), " ("));
    let commit = commit.and_then(|rest| rest.strip_suffix(')')).unwrap_or_else(|| panic!("{text}"));
    let git = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    match git.ok().filter(|output| output.status.success()) {
        Some(output) => assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), commit),
        None => assert_eq!(commit, "unknown"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_of_health_says_whether_a_process_is_healthy() {
    let bed = Bed::start(&["acme"]).await;
    let port = free_port();
    let config = bed.config_file(&format!("admin: {{listen: '127.0.0.1:{port}'}}"));
    let alive = format!("http://127.0.0.1:{port}/healthz");
    let (text, code) = said(&command(&["health", "--url", &alive]).await);
    assert!(code == Some(1) && text.contains("no answer from"), "{text}");
    let process = Process::start(&config);
    is_ready(port).await;
    let (text, code) = said(&command(&["health", "--url", &alive]).await);
    assert!(code == Some(0) && text.contains("alive"), "{text}");
    let (_, code) = said(&command(&["health", "--url", &format!("http://127.0.0.1:{port}/nowhere")]).await);
    assert_eq!(code, Some(1));
    assert!(process.stop().await.success());
}
