//! The console in headless Chromium against a running users-sync and real servers. Node runs `tests/console/*.test.js`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use crate::support::proxy::TcpProxy;
use axum::Router;
use axum::extract::{Path as At, State};
use axum::http::StatusCode;
use axum::routing::post;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::demo::Demo;
use support::process::{Process, config_file};
use support::{Bed, DEADLINE};
use tempfile::NamedTempFile;
use tokio::process::Command;
use users_sync::throwaway::PostgresServer;

/// Time limit for one file of browser tests. Includes Chromium's start and waits on a slow machine.
const TESTS_WITHIN: Duration = Duration::from_secs(900);
const TOKEN: &str = "open-sesame-open-sesame";
/// The users of the largest tenant.
const USERS: u32 = 1_000_000;
const TENANTS: usize = 1_000;
/// Tenants with a database of their own. The targets of the other tenants are unreachable.
const FOLLOWING: usize = 20;

/// A running users-sync, and the HTTP address at which the browser tests control it and its servers.
struct Scene {
    console: String,
    control: String,
}

impl Scene {
    async fn start(bed: Bed, targets: Vec<(String, String)>, proxies: HashMap<String, TcpProxy>, more: &str) -> Scene {
        let port = free_port();
        let token = if more.contains("token") { "" } else { "admin: {listen: '127.0.0.1:PORT'}\n" };
        let more = format!("{token}{more}").replace("PORT", &port.to_string());
        let config = config_file(&bed.server.url("auth"), &targets, &more);
        let process = Mutex::new(Some(Process::start(&config)));
        let control = control(Hands { server: bed.server, proxies, config, process }).await;
        Scene { console: format!("http://127.0.0.1:{port}"), control }
    }

    async fn passes(&self, file: &str) {
        passes(file, &self.console, &self.control).await;
    }
}

/// Runs one file of browser tests to its end.
async fn passes(file: &str, console: &str, control: &str) {
    let directory = installed();
    let mut node = Command::new("node");
    node.arg("--test-reporter=spec").arg(file).current_dir(directory);
    node.env("CONSOLE_URL", console).env("CONTROL_URL", control).env("TOKEN", TOKEN);
    let running = node.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(TESTS_WITHIN, running).await.expect("the browser's tests go on").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{file} failed");
    assert!(said.contains("pass") && !said.contains("pass 0"), "{file} held no test");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_pages_show_changes_and_work_by_keyboard_and_mouse() {
    let bed = Bed::start(&["acme", "globex", "hooli"]).await;
    add(&bed, "acme", "u", 130).await;
    add(&bed, "globex", "g", 3).await;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()));
    let proxy = TcpProxy::start(server).await.unwrap();
    let direct = format!(":{}/globex", bed.server.port());
    let targets = bed.tenants.iter().map(|tenant| (tenant.clone(), bed.server.url(tenant)));
    let targets = targets.map(|(tenant, url)| (tenant, url.replace(&direct, &format!(":{}/globex", proxy.port()))));
    let targets = targets.collect();
    let scene = Scene::start(bed, targets, [("globex".to_owned(), proxy)].into(), "limits: {park_after: 2s}").await;
    for file in ["live.test.js", "keyboard.test.js", "sound.test.js"] {
        scene.passes(file).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_asks_for_the_token_and_keeps_it_in_the_tab() {
    let bed = Bed::start(&["acme"]).await;
    let targets = vec![("acme".to_owned(), bed.server.url("acme"))];
    let more = format!("admin: {{listen: '127.0.0.1:PORT', token: {TOKEN}}}");
    Scene::start(bed, targets, HashMap::new(), &more).await.passes("token.test.js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_the_demo_takes_changes_and_shows_both_sides() {
    let demo = Demo::start(&["--seconds", "1", "--listen", "127.0.0.1:0"]).await;
    passes("demo.test.js", &format!("http://{}", demo.at), "").await;
    assert_eq!(demo.process.stop().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_shows_with_a_thousand_tenants_and_a_million_users() {
    let names: Vec<String> = (0..FOLLOWING).map(|n| format!("tenant-{n}")).chain(["large".to_owned()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bed = Bed::start(&names).await;
    add(&bed, "large", "u", USERS).await;
    let mut targets: Vec<_> = names.iter().map(|name| ((*name).to_owned(), bed.server.url(name))).collect();
    let nowhere = format!("postgresql://postgres@127.0.0.1:{}/app", free_port());
    let away = (FOLLOWING..TENANTS - 1).map(|n| (format!("tenant-{n}"), format!("{nowhere}-{n}")));
    targets.extend(away);
    let url = bed.server.url("large");
    let scene = Scene::start(bed, targets, HashMap::new(), "limits: {park_after: 1h}").await;
    holds(&url, USERS).await;
    scene.passes("scale.test.js").await;
}

async fn add(bed: &Bed, tenant: &str, prefix: &str, users: u32) {
    bed.auth(&format!(
        "INSERT INTO auth.users (id, org, first_name, last_name, email, profile, created_at)
         SELECT '{prefix}' || n, '{tenant}', 'Ann', n, 'ann.' || n || '@example.com',
                jsonb_build_object('locale', 'de-DE', 'theme', 'dark'), timestamptz '2026-01-01' + n * interval '1 minute'
         FROM generate_series(1, {users}) n"
    ))
    .await;
}

/// Waits until the target has this many users. A million users take longer than any other wait here.
async fn holds(url: &str, users: u32) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let deadline = std::time::Instant::now() + 10 * DEADLINE;
    let there = "SELECT to_regclass('neon_auth.users_sync') IS NOT NULL";
    let count = "SELECT count(*) FROM neon_auth.users_sync";
    loop {
        let is_there: bool = client.query_one(there, &[]).await.unwrap().get(0);
        if is_there && client.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == i64::from(users) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "the snapshot does not come");
        support::pause().await;
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// What the browser tests can control.
struct Hands {
    server: PostgresServer,
    proxies: HashMap<String, TcpProxy>,
    config: NamedTempFile,
    process: Mutex<Option<Process>>,
}

/// Serves the control API: run SQL, disconnect and reconnect a target, stop and start the process. Returns its URL.
async fn control(hands: Hands) -> String {
    type Held = State<Arc<Hands>>;
    let refuse = |refuse: bool| {
        post(async move |State(hands): Held, At(tenant): At<String>| hands.proxies[&tenant].refuse(refuse))
    };
    let sql = async |State(hands): Held, At(database): At<String>, sql: String| {
        let done = hands.server.sql(&database, &sql).await;
        done.map_err(|error| (StatusCode::BAD_REQUEST, format!("{error:?}")))
    };
    let stop = async |State(hands): Held| hands.process.lock().unwrap().take().unwrap().kill();
    let start = async |State(hands): Held| {
        let started = Process::start(&hands.config);
        *hands.process.lock().unwrap() = Some(started);
    };
    let router = Router::new()
        .route("/sql/{database}", post(sql))
        .route("/away/{tenant}", refuse(true))
        .route("/back/{tenant}", refuse(false))
        .route("/stop", post(stop))
        .route("/start", post(start))
        .with_state(Arc::new(hands));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// Installs the tests and their packages below the target directory. Nothing is installed elsewhere.
fn installed() -> PathBuf {
    // Tests of one process run in parallel.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console");
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    let _turn = ONE_AT_A_TIME.lock();
    std::fs::create_dir_all(&work).unwrap();
    for entry in std::fs::read_dir(&here).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && path.file_name().unwrap() != "package-lock.json" {
            std::fs::copy(&path, work.join(path.file_name().unwrap())).unwrap();
        }
    }
    let lock = std::fs::read_to_string(here.join("package-lock.json")).unwrap();
    let (kept, modules) = (work.join("package-lock.json"), work.join("node_modules"));
    if std::fs::read_to_string(&kept).ok().as_deref() != Some(&lock) || !modules.exists() {
        // The error names what is missing: npm or node.
        let _ = std::fs::remove_file(&kept);
        std::fs::write(work.join("package-lock.json"), &lock).unwrap();
        let mut npm = std::process::Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund", "--no-progress", "--loglevel=error"]).current_dir(&work);
        let done =
            npm.output().expect("npm is missing: install Debian's packages nodejs and npm (Node.js 20 or later)");
        if !done.status.success() {
            std::fs::remove_file(&kept).unwrap();
            panic!("npm could not install what the browser's tests need: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
    work
}
