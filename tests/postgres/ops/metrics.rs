//! Alert rules and board query only existing metrics and labels of a process with tenants and a tee.
//! promtool tests the rules themselves if it is available.

use super::health::{free_port, is_ready};
use super::{read, yaml};
use crate::support::Bed;
use crate::support::process::Process;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PREFIX: &str = "users_sync_";
/// Labels that Prometheus adds to every series.
const ADDED: [&str; 3] = ["job", "instance", "le"];

fn rules() -> Vec<Value> {
    yaml(&read("docker/prometheus/rules.yml"))["groups"][0]["rules"].as_array().unwrap().clone()
}

/// All queries of the board, including those of its variables.
fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match (&**name, value) {
                ("expr" | "definition", Value::String(query)) => found.push(query.clone()),
                _ => collect(value, found),
            }),
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&read("docker/grafana/board.json")).unwrap(), &mut found);
    assert!(found.len() > 30, "{found:?}");
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The metrics in a query, each with the labels it selects by.
fn asked(query: &str) -> Vec<(String, Vec<String>)> {
    let places = query.match_indices(PREFIX).filter(|(at, _)| !query[..*at].ends_with(is_name));
    let metrics = places.map(|(at, _)| {
        let name: String = query[at..].chars().take_while(|c| is_name(*c)).collect();
        let selector = query[at + name.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next());
        let labels = selector.unwrap_or_default().split(',').filter_map(|matcher| {
            let label = matcher.split(['=', '!']).next()?.trim();
            (!label.is_empty()).then(|| label.to_owned())
        });
        (name, labels.collect())
    });
    metrics.collect()
}

/// The labels that a query groups by.
fn grouped(query: &str) -> Vec<String> {
    let groups = query.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap());
    groups.flat_map(|group| group.split(',').map(|label| label.trim().to_owned())).collect()
}

/// Every exposed series: its name and labels.
fn shown(exposition: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let name: String = line.chars().take_while(|c| is_name(*c)).collect();
        let labels = line.strip_prefix(&format!("{name}{{")).and_then(|rest| rest.split('}').next());
        let labels = labels.unwrap_or_default().split(',').filter_map(|label| label.split_once('='));
        shown.entry(name).or_default().extend(labels.map(|(label, _)| label.to_owned()));
    }
    shown
}

async fn exposition(port: u16) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_board_query_existing_metrics() {
    let cluster = MockCluster::<'static, DefaultProducerContext>::new(1).unwrap();
    for topic in ["ops.acme", "ops.positions"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let bed = Bed::start(&["acme"]).await;
    let port = free_port();
    let config = bed.config_file(&format!(
        "admin: {{listen: '127.0.0.1:{port}'}}\n\
         kafka: {{brokers: '{}', topic: 'ops.{{tenant}}', positions_topic: ops.positions, create_topics: false}}",
        cluster.bootstrap_servers()
    ));
    let process = Process::start(&config);
    is_ready(port).await;
    bed.state_is("acme", "following").await;
    bed.becomes("auth", "SELECT state FROM users_sync.tee", "following").await;
    // The sampler has read the source's slots, and something was published.
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('u', 'acme')").await;
    bed.equal().await;
    let deadline = std::time::Instant::now() + crate::support::DEADLINE;
    let shown = loop {
        let text = exposition(port).await;
        let shown = shown(&text);
        if ["users_sync_wal_held_bytes", "users_sync_tee_lag_bytes"].iter().all(|name| shown.contains_key(*name)) {
            break shown;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
        crate::support::pause().await;
    };
    assert!(process.stop().await.success());

    let queries = rules().into_iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).chain(queries());
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for query in queries {
        let asked = asked(&query);
        assert!(!asked.is_empty() || query.starts_with("label_values"), "{query} asks for nothing of ours");
        for (name, labels) in &asked {
            used.insert(name.clone());
            match shown.get(name) {
                None => faults.push(format!("{name} is not shown: {query}")),
                Some(there) => faults.extend(
                    labels
                        .iter()
                        .chain(&grouped(&query))
                        .filter(|label| !there.contains(*label) && !ADDED.contains(&&***label))
                        .map(|label| format!("{name} has no label {label}: {query}")),
                ),
            }
        }
    }
    assert!(faults.is_empty(), "{}\nthere are {shown:#?}", faults.join("\n"));
    // Conversely, every exposed metric is on the board or in an alert.
    let family = |name: &String| {
        let name = name.strip_suffix("_bucket").or(name.strip_suffix("_sum")).or(name.strip_suffix("_count"));
        name.map(|name| format!("{name}_bucket"))
    };
    let unused: Vec<_> = shown.keys().filter(|name| name.starts_with(PREFIX) && !used.contains(*name)).collect();
    let unused: Vec<_> =
        unused.into_iter().filter(|name| family(name).is_none_or(|name| !used.contains(&name))).collect();
    assert!(unused.is_empty(), "unused: {unused:?}");
}

#[test]
fn every_rule_has_a_test_and_a_runbook_chapter() {
    let (tests, runbook) = (read("docker/prometheus/rules_test.yml"), read("docs/RUNBOOK.md"));
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts")), "{name} is never seen to fire");
        assert!(runbook.contains(&format!("\n### {name}\n")), "{name} has no chapter in docs/RUNBOOK.md");
        let anchor = format!("docs/RUNBOOK.md#{}", name.to_ascii_lowercase());
        assert_eq!(rule["annotations"]["runbook"], anchor.as_str());
        assert!(["page", "ticket"].map(Value::from).contains(&rule["labels"]["severity"]), "{rule}");
    }
}

/// The path of promtool. `None` if it is unavailable, which the CI does not accept.
fn promtool() -> Option<String> {
    let output = Command::new(".ci/promtool").current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    if output.status.success() {
        return Some(String::from_utf8(output.stdout).unwrap().trim().to_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(std::env::var_os("CI").is_none(), "promtool cannot be had: {why}");
    eprintln!("promtool cannot be had, the rules are not tested: {why}");
    None
}

#[track_caller]
fn run(promtool: &str, arguments: &[&str]) {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/prometheus");
    let output = Command::new(promtool).args(arguments).current_dir(directory).output().unwrap();
    let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success(), "{arguments:?}: {said}");
}

#[test]
fn promtool_accepts_all_rules_and_queries() {
    let Some(promtool) = promtool() else { return };
    run(&promtool, &["check", "config", "--syntax-only", "prometheus.yml"]);
    run(&promtool, &["check", "rules", "rules.yml"]);
    run(&promtool, &["test", "rules", "rules_test.yml"]);
    // promtool also parses the board's queries, as rules with values for Grafana's variables.
    let queries = queries().into_iter().filter(|query| !query.starts_with("label_values"));
    let rules = queries.enumerate().map(|(n, query)| {
        let query = query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$tenant", ".*");
        serde_json::json!({"record": format!("board:{n}"), "expr": query})
    });
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    let group = serde_json::json!({"groups": [{"name": "board", "rules": rules.collect::<Vec<_>>()}]});
    // JSON is YAML.
    std::fs::write(file.path(), group.to_string()).unwrap();
    run(&promtool, &["check", "rules", file.path().to_str().unwrap()]);
}
