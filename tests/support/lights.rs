//! Everything that shows whether users-sync is well: `status` with its exit code, `/readyz`, `/api/status`, the metrics, the
//! log and `check`.

use super::http::get;
use super::process::{Log, Process, command, said};
use super::{DEADLINE, pause};
use serde_json::Value;
use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;
use tempfile::NamedTempFile;

/// A process and its lights.
pub struct Lights {
    pub config: NamedTempFile,
    pub at: SocketAddr,
    log: Option<Log>,
    /// How much of the log was there when all was well.
    read: Cell<usize>,
}

/// What one light shows: the level and the codes.
type Shown = (String, Vec<String>);

/// An address for `admin.listen`.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

impl Lights {
    /// `at`: `admin.listen` of the configuration.
    pub fn new(config: NamedTempFile, at: SocketAddr) -> Lights {
        Lights { config, at, log: None, read: Cell::new(0) }
    }

    /// Starts the process, and waits until it answers.
    pub async fn run(&mut self) -> Process {
        let (process, log) = Process::start_logged(&self.config);
        (self.log, self.read) = (Some(log), Cell::new(0));
        let deadline = Instant::now() + DEADLINE;
        while tokio::net::TcpStream::connect(self.at).await.is_err() {
            assert!(Instant::now() < deadline, "{}", self.log());
            pause().await;
        }
        process
    }

    pub fn log(&self) -> String {
        self.log.as_ref().unwrap().text()
    }

    /// The document that a command prints with `--json`, and its exit code.
    async fn document(&self, name: &str) -> (Value, Option<i32>) {
        let output = command(&[name, "-c", self.config.path().to_str().unwrap(), "--json"]).await;
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let document = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{:?}", said(&output)));
        (document, output.status.code())
    }

    /// What `status` shows. The exit code follows from the level.
    pub async fn status(&self) -> Shown {
        let (document, exit) = self.document("status").await;
        let shown = read(&document["verdict"]);
        let code = match &*shown.0 {
            "ok" => 0,
            "degraded" => 1,
            _ => 3,
        };
        assert_eq!(exit, Some(code), "{document}");
        shown
    }

    /// What the process itself shows.
    async fn of_process(&self) -> [Shown; 3] {
        let status = get(self.at, "/api/status").await.json();
        let ready = get(self.at, "/readyz").await.json();
        let metrics = get(self.at, "/metrics").await.body;
        let level = metrics.lines().find_map(|line| line.strip_prefix("users_sync_verdict "));
        let level = match level.unwrap() {
            "0" => "ok",
            "1" => "degraded",
            _ => "failed",
        };
        let codes = metrics.lines().filter_map(|line| line.strip_prefix("users_sync_verdict_reasons{code=\""));
        let codes = codes.filter_map(|rest| rest.split_once("\"} "));
        let mut codes: Vec<String> =
            codes.filter(|(_, count)| *count != "0").map(|(code, _)| code.to_owned()).collect();
        codes.sort_unstable();
        [read(&status["verdict"]), read(&ready), (level.to_owned(), codes)]
    }

    /// Waits until every light shows the level and, unless it is `ok`, the code: `check` finds it too, and the log has had it
    /// since all was well.
    #[track_caller]
    pub fn show<'a>(&'a self, level: &'a str, code: &'a str) -> impl Future<Output = ()> + 'a {
        let shown = self.show_without_check(level, code);
        let found = self.find(code);
        async move {
            shown.await;
            if level != "ok" {
                found.await;
            }
        }
    }

    /// Waits until `check` finds the code.
    #[track_caller]
    pub fn find<'a>(&'a self, code: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let begun = Instant::now();
            loop {
                let found = self.check().await;
                if found.iter().any(|found| found == code) {
                    println!("{caller}: check {code} after {:?}", begun.elapsed());
                    return;
                }
                assert!(begun.elapsed() < DEADLINE, "{caller}: {code}, but check finds {found:?}");
                pause().await;
            }
        }
    }

    /// As [`Lights::show`], for a fault that the process repairs, so that `check` may come too late.
    #[track_caller]
    pub fn show_without_check<'a>(&'a self, level: &'a str, code: &'a str) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let is_wanted = |shown: &Shown| shown.0 == level && (level == "ok" || shown.1.iter().any(|c| c == code));
            let field = format!("reason_code=\"{code}\"");
            let begun = Instant::now();
            // A parked tenant is tried again within 60 s.
            let deadline = begun + 3 * DEADLINE;
            loop {
                let [status, ready, metrics] = self.of_process().await;
                let shown = [self.status().await, status, ready, metrics];
                let log = self.log();
                let is_logged = level == "ok" || log[self.read.get()..].contains(&field);
                if shown.iter().all(is_wanted) && is_logged {
                    println!("{caller}: {level} {code} after {:?}", begun.elapsed());
                    if level == "ok" {
                        self.read.set(log.len());
                    }
                    return;
                }
                assert!(
                    Instant::now() < deadline,
                    "{caller}: {level} {code}, but {shown:?}; in the log: {is_logged}\n{}",
                    &log[self.read.get()..]
                );
                pause().await;
            }
        }
    }

    /// The text of the reason with this code, as `status` shows it.
    pub async fn reason(&self, code: &str) -> String {
        let (document, _) = self.document("status").await;
        let reasons = document["verdict"]["reasons"].as_array().unwrap();
        let reason = reasons.iter().find(|reason| reason["code"] == code).unwrap_or_else(|| panic!("{document}"));
        reason["text"].as_str().unwrap().to_owned()
    }

    /// The codes of what `check` finds, without notes.
    pub async fn check(&self) -> Vec<String> {
        self.found(|severity| severity != "note").await
    }

    /// The codes of what `check` notes.
    pub async fn notes(&self) -> Vec<String> {
        self.found(|severity| severity == "note").await
    }

    async fn found(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let (document, _) = self.document("check").await;
        let findings = document["findings"].as_array().unwrap_or_else(|| panic!("{document}"));
        let found = findings.iter().filter(|finding| is_wanted(finding["severity"].as_str().unwrap()));
        found.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
    }
}

fn read(verdict: &Value) -> Shown {
    let mut codes: Vec<String> = Vec::new();
    for reason in verdict["reasons"].as_array().unwrap() {
        let code = reason["code"].as_str().unwrap().to_owned();
        assert!(!reason["text"].as_str().unwrap().is_empty(), "{verdict}");
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    codes.sort_unstable();
    (verdict["level"].as_str().unwrap().to_owned(), codes)
}
