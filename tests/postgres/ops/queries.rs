//! Alert rules and board query only existing metrics, labels and values of a process with tenants and a tee, and query
//! each metric that it has. The metric of the verdict's reasons has every code.

use super::health::{free_port, is_ready};
use super::metrics::{queries, rules};
use super::read;
use crate::support::Bed;
use crate::support::process::Process;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use std::collections::{BTreeMap, BTreeSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PREFIX: &str = "users_sync_";
/// Labels that Prometheus adds to every series.
const ADDED: [&str; 3] = ["job", "instance", "le"];

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// A label that a query selects by, and the value if it is one value.
type Matcher = (String, Option<String>);

/// The metrics in a query, each with the labels it selects by.
fn asked(query: &str) -> Vec<(String, Vec<Matcher>)> {
    let places = query.match_indices(PREFIX).filter(|(at, _)| !query[..*at].ends_with(is_name));
    let metrics = places.map(|(at, _)| {
        let name: String = query[at..].chars().take_while(|c| is_name(*c)).collect();
        let selector = query[at + name.len()..].strip_prefix('{').and_then(|rest| rest.split('}').next());
        let labels = selector.unwrap_or_default().split(',').filter_map(|matcher| {
            let label = matcher.split(['=', '!']).next()?.trim();
            let value = matcher.trim().strip_prefix(label)?.strip_prefix("=\"").and_then(|rest| rest.strip_suffix('"'));
            (!label.is_empty()).then(|| (label.to_owned(), value.map(str::to_owned)))
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

/// The labels of a metric, each with its values.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// Every exposed series: its name and labels.
fn shown(exposition: &str) -> BTreeMap<String, Labels> {
    let mut shown: BTreeMap<String, Labels> = BTreeMap::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let name: String = line.chars().take_while(|c| is_name(*c)).collect();
        let labels = line.strip_prefix(&format!("{name}{{")).and_then(|rest| rest.split('}').next());
        let labels = labels.unwrap_or_default().split(',').filter_map(|label| label.split_once('='));
        let of_metric = shown.entry(name).or_default();
        for (label, value) in labels {
            of_metric.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
        }
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

    let board = queries();
    let queries = rules().into_iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).chain(board.clone());
    let mut faults = Vec::new();
    let mut used = BTreeSet::new();
    for query in queries {
        let asked = asked(&query);
        assert!(!asked.is_empty() || query.starts_with("label_values"), "{query} asks for nothing of ours");
        for (name, labels) in &asked {
            used.insert(name.clone());
            match shown.get(name) {
                None => faults.push(format!("{name} is not shown: {query}")),
                Some(there) => {
                    let by = grouped(&query).into_iter().map(|label| (label, None));
                    let faulty = labels.iter().cloned().chain(by).filter(|(label, value)| {
                        let values = there.get(label);
                        let is_there = value.as_ref().is_none_or(|value| values.is_some_and(|all| all.contains(value)));
                        !ADDED.contains(&&**label) && (values.is_none() || !is_there)
                    });
                    faults.extend(faulty.map(|matcher| format!("{name} has no {matcher:?}: {query}")));
                }
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

    // Each code that a reason of the verdict can have is a series, also while its count is 0, and the board shows them all.
    let codes: BTreeSet<String> = verdict_codes(&read("docs/errors/README.md"));
    assert!(codes.len() > 40, "{codes:?}");
    assert_eq!(shown["users_sync_verdict_reasons"]["code"], codes);
    let shows_all = |query: &String| {
        let selects = |(name, labels): (String, Vec<Matcher>)| {
            name == "users_sync_verdict_reasons" && labels.iter().all(|(label, _)| label != "code")
        };
        grouped(query).iter().any(|label| label == "code") && asked(query).into_iter().any(selects)
    };
    assert!(board.iter().any(shows_all), "no query of the board shows all codes of the verdict");
}

/// The codes of docs/errors/README.md that a reason of the verdict can have.
fn verdict_codes(index: &str) -> BTreeSet<String> {
    let others = [
        "Why a tenant takes a snapshot",
        "Why a new generation begins",
        "Why the Kafka output starts over",
        "What check finds",
        "Why a command failed",
    ];
    let sections: Vec<(&str, &str)> = index.split("\n## ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    for other in others {
        assert!(sections.iter().any(|(title, _)| *title == other), "docs/errors/README.md has no section {other}");
    }
    let sections = sections.into_iter().filter(|(title, _)| !others.contains(title));
    let rows = sections.flat_map(|(_, text)| text.lines().filter_map(|line| line.strip_prefix("| [")));
    let codes = rows.filter_map(|row| Some(row.split_once(']')?.0.to_owned()));
    // A session that finds its slot older than this replaces it: the verdict never sees it.
    codes.filter(|code| !code.starts_with("slot_older_than_")).collect()
}
