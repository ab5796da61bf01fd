//! Logging: one JSON object per line if configured, and no row value or secret at any level and under any fault.
//! `USERS_SYNC_CHAOS=<seconds>` extends the faults beyond 15 s.

use crate::support::process::{Log, Process, command, config_file, said};
use crate::support::proxy::TcpProxy;
use crate::support::{Bed, let_pass};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use users_sync::throwaway::Options;

/// Part of every value and every password, and of nothing else.
const MARK: &str = "Zq7Mark";
const TENANTS: usize = 3;
/// A level without a target applies to users-sync only; this one applies to every crate.
const EVERYTHING: &str = "trace,users_sync=trace";

struct World {
    bed: Bed,
    proxies: Vec<TcpProxy>,
    config: NamedTempFile,
    logs: Vec<Log>,
    process: Option<Process>,
}

impl World {
    async fn start() -> World {
        let names: Vec<String> = (0..TENANTS).map(|n| format!("t{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let bed = Bed::start_with(&names, Options::new().auth("scram-sha-256")).await;
        bed.auth(&format!("CREATE ROLE sync SUPERUSER LOGIN PASSWORD '{MARK}'")).await;
        let url = |database: &str| bed.server.url_for(&format!("sync:{MARK}"), database);
        let (mut proxies, mut targets) = (Vec::new(), Vec::new());
        for name in &names {
            let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
            let through = url(name).replace(&format!(":{}/", bed.server.port()), &format!(":{}/", proxy.port()));
            targets.push(((*name).to_owned(), through));
            proxies.push(proxy);
        }
        // One tenant has a wrong password, another one a missing database.
        targets.push(("locked".to_owned(), bed.server.url_for(&format!("sync:not{MARK}"), "t0")));
        targets.push(("absent".to_owned(), url("absent")));
        let more = "log: json\nnotify: true\nlimits: {park_after: 2s, stall: 1s, max_deletes: 100%}";
        let kafka = format!(
            "\nkafka: {{brokers: '127.0.0.1:1', properties: {{security.protocol: SASL_PLAINTEXT, \
             sasl.mechanism: PLAIN, sasl.username: u, sasl.password: {MARK}}}}}"
        );
        let more = if cfg!(feature = "kafka") { format!("{more}{kafka}") } else { more.to_owned() };
        let config = config_file(&url("auth"), &targets, &more);
        let mut world = World { bed, proxies, config, logs: Vec::new(), process: None };
        world.write(0).await;
        world.run();
        world
    }

    fn run(&mut self) {
        let (process, log) = Process::start_logged_at(&self.config, EVERYTHING);
        self.process = Some(process);
        self.logs.push(log);
    }

    /// Inserts, changes and deletes users, also of an unknown tenant.
    async fn write(&self, round: usize) {
        let tenants = TENANTS + 1;
        self.bed
            .auth(&format!(
                "INSERT INTO auth.users (id, org, first_name, last_name, email, encrypted_password, profile, updated_at)
                 SELECT '{MARK}id' || {round} || '-' || n, CASE n % {tenants} WHEN {TENANTS} THEN '{MARK}' ELSE 't' || n % {tenants} END,
                        '{MARK}first', '{MARK}last', '{MARK}@mail', '{MARK}hash',
                        jsonb_build_object('{MARK}key', repeat('{MARK}', 400)), now()
                 FROM generate_series(1, 40) n;
                 UPDATE auth.users SET first_name = '{MARK}' || {round}, updated_at = now() WHERE id LIKE '%7';
                 UPDATE auth.users SET encrypted_password = '{MARK}' || {round} WHERE id LIKE '%5';
                 DELETE FROM auth.users WHERE id LIKE '%3'"
            ))
            .await;
    }

    /// Runs a statement that is allowed to fail.
    async fn strike(&mut self, round: usize) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'users-sync%'";
        let target = format!("t{}", round % TENANTS);
        // The table may be missing at this moment.
        let at_target = async |sql: &str| drop(self.bed.server.sql(&target, sql).await);
        match round % 10 {
            0 => self.proxies[0].cut(),
            1 => at_target("ALTER TABLE neon_auth.users_sync ADD CHECK (id NOT LIKE '%9') NOT VALID").await,
            2 => {
                // Its messages contain values.
                let trigger = "CREATE OR REPLACE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                         RAISE WARNING 'looks at %', NEW; IF NEW.id LIKE '%4' THEN RAISE EXCEPTION 'not %', NEW; END IF;
                         RETURN NEW; END $$;
                     CREATE OR REPLACE TRIGGER spoil BEFORE INSERT OR UPDATE ON neon_auth.users_sync
                         FOR EACH ROW EXECUTE FUNCTION spoil()";
                at_target(trigger).await;
            }
            3 => drop(self.bed.query("auth", end).await),
            4 => self.bed.auth(&format!("ALTER TABLE auth.users ADD COLUMN extra{round} text DEFAULT '{MARK}'")).await,
            5 => at_target("DROP TABLE neon_auth.users_sync").await,
            6 => {
                self.process.take().unwrap().kill();
                self.run();
            }
            7 => self
                .bed
                .auth(&format!(
                    "INSERT INTO auth.users (id, org, first_name) VALUES ('', 't1', '{MARK}') ON CONFLICT DO NOTHING"
                ))
                .await,
            8 => {
                self.proxies[1].refuse(true);
                self.proxies[1].cut();
                let_pass(Duration::from_secs(3)).await;
                self.proxies[1].refuse(false);
            }
            _ => {
                let slot = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
                drop(self.bed.query("auth", slot).await);
                drop(self.bed.server.sql("auth", "SELECT pg_drop_replication_slot('users_sync')").await);
            }
        }
    }
}

/// The lines that contain a mark, shortened.
fn marked(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.to_lowercase().contains(&MARK.to_lowercase()));
    lines.map(|line| line.chars().take(600).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_log_no_row_value_and_no_secret() {
    let seconds = std::env::var("USERS_SYNC_CHAOS").ok().and_then(|text| text.parse().ok()).unwrap_or(15);
    let mut world = World::start().await;
    world.bed.state_is("t0", "following").await;
    let (begun, mut round) = (Instant::now(), 1);
    while begun.elapsed() < Duration::from_secs(seconds) || round < 12 {
        world.strike(round).await;
        world.write(round).await;
        let_pass(Duration::from_millis(400)).await;
        round += 1;
    }
    let path = world.config.path().to_str().unwrap().to_owned();
    for arguments in [["check", "-c", &path], ["status", "-c", &path]] {
        let output = command(&[&arguments[..], &["--log-level", EVERYTHING]].concat()).await;
        let (text, _) = said(&output);
        assert!(text.contains("t0"), "{text}");
        // The keys of users without a tenant are shown.
        let marked = marked(&text).into_iter().filter(|line| !line.contains("users without a tenant: "));
        assert_eq!(marked.collect::<Vec<_>>(), Vec::<String>::new(), "{arguments:?}");
    }
    assert!(world.process.take().unwrap().stop().await.success());
    let text: String = world.logs.iter().map(Log::text).collect();
    assert_eq!(marked(&text), Vec::<String>::new());
    events_are_facts(&text);
    println!("{round} rounds, {} lines", text.lines().count());
}

/// The spans of a line about a tenant, each with its fields.
const TENANT: &[(&str, &str)] = &[("session", "epoch"), ("session", "generation"), ("tenant", "id")];

/// The field of the span that the line was logged in.
fn in_span<'a>(event: &'a Value, span: &str, field: &str) -> &'a Value {
    let spans = event["spans"].as_array().map_or(&[][..], Vec::as_slice);
    spans.iter().find(|found| found["name"] == span).map_or(&Value::Null, |found| &found[field])
}

/// Every line is one object. Lines about a tenant name it, and lines that need a person have a remedy.
fn events_are_facts(text: &str) {
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let of = |message: &str| -> Vec<&Value> { events.iter().filter(|event| event["message"] == message).collect() };
    for (message, spans, fields) in [
        ("streaming", &[][..], &["slot", "position", "generation", "epoch"][..]),
        ("snapshot requested", TENANT, &["reason"]),
        ("up to date, streaming", TENANT, &["position", "users"]),
        ("parked", TENANT, &["reason", "remedy"]),
        ("retrying target", TENANT, &["reason"]),
        ("the target rejects users: they are skipped, see users_sync.rejected there", TENANT, &["count", "sqlstate"]),
        ("creating a new slot: resyncing every tenant", &[], &["slot", "reason"]),
    ] {
        assert!(!of(message).is_empty(), "no line says {message:?}");
        for event in of(message) {
            assert!(fields.iter().all(|field| !event[field].is_null()), "{fields:?} of {event}");
            for (span, field) in spans {
                assert!(!in_span(event, span, field).is_null(), "{field} of span {span} in {event}");
            }
        }
    }
    // A line of a connection names its tenant, too. Which connections end is random.
    let ended = of("connection ended");
    let names_its_target = |event: &&Value| {
        let tenant = in_span(event, "tenant", "id").as_str();
        tenant.is_some_and(|tenant| event["at"].as_str().is_some_and(|at| at.ends_with(&format!("/{tenant}"))))
    };
    assert!(ended.iter().any(names_its_target), "{ended:?}");
    assert!(events.iter().all(|event| event["timestamp"].is_string() && event["level"].is_string()));
    assert!(events.iter().any(|event| event["level"] == "TRACE" || event["level"] == "DEBUG"), "no more than usual");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_option_overrides_the_file() {
    let bed = Bed::start(&["acme"]).await;
    for (more, arguments, is_json) in [
        ("log: json", &[][..], true),
        ("", &[], false),
        ("log: json", &["--log", "text"], false),
        ("", &["--log", "json"], true),
    ] {
        let config = bed.config_file(more);
        let (process, log) = Process::start_logged_with(&config, arguments, "users_sync=info");
        log.says("streaming").await;
        assert!(process.stop().await.success());
        let first = log.text().lines().next().unwrap().to_owned();
        assert_eq!(serde_json::from_str::<Value>(&first).is_ok(), is_json, "{more} {arguments:?}: {first}");
    }
}
