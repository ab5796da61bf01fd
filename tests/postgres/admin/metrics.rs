//! Metrics: the names that boards and alerts rely on, and the values after a known workload.

use super::bed::{AdminBed, add};
use crate::support::Bed;
use crate::support::proxy::TcpProxy;
#[cfg(feature = "kafka")]
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
#[cfg(feature = "kafka")]
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Every metric family with its type. The gauges of the tee exist only with a tee.
const FAMILIES: [(&str, &str); 37] = [
    ("users_sync_aborted_scans", "counter"),
    ("users_sync_apply_seconds", "histogram"),
    ("users_sync_batch_rows", "histogram"),
    ("users_sync_build", "info"),
    ("users_sync_commit_to_visible_seconds", "histogram"),
    ("users_sync_internal_errors", "counter"),
    ("users_sync_memory_queued_bytes", "gauge"),
    ("users_sync_parked_tenants", "gauge"),
    ("users_sync_rereads", "counter"),
    ("users_sync_resyncs", "counter"),
    ("users_sync_source_reconnects", "counter"),
    ("users_sync_spool_bytes", "gauge"),
    ("users_sync_standby", "gauge"),
    ("users_sync_streaming", "gauge"),
    ("users_sync_stripped_escapes", "counter"),
    ("users_sync_target_reconnects", "counter"),
    ("users_sync_tee_lag_bytes", "gauge"),
    ("users_sync_tee_messages", "counter"),
    ("users_sync_tee_oversized", "counter"),
    ("users_sync_tee_reconnects", "counter"),
    ("users_sync_tee_rejected_users", "gauge"),
    ("users_sync_tee_state", "gauge"),
    ("users_sync_tee_transactions", "counter"),
    ("users_sync_tenant_lag_bytes", "gauge"),
    ("users_sync_tenant_lag_seconds", "gauge"),
    ("users_sync_tenant_queue_bytes", "gauge"),
    ("users_sync_tenant_rejected_rows", "gauge"),
    ("users_sync_tenant_rows_applied", "counter"),
    ("users_sync_tenant_state", "gauge"),
    ("users_sync_tenant_transactions_applied", "counter"),
    ("users_sync_tenants", "gauge"),
    ("users_sync_unmappable_rows", "counter"),
    ("users_sync_unparsed_values", "counter"),
    ("users_sync_users_without_tenant", "gauge"),
    ("users_sync_verdict", "gauge"),
    ("users_sync_verdict_reasons", "gauge"),
    ("users_sync_wal_held_bytes", "gauge"),
];

/// The samples of an exposition by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    });
    samples.collect()
}

async fn scrape(shown: &AdminBed) -> BTreeMap<String, f64> {
    let answer = shown.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    samples(&answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_workload_yields_known_metric_values() {
    let bed = Bed::start(&["acme", "globex", "initech"]).await;
    add(&bed, "acme", 10).await;
    let proxy = TcpProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, bed.server.port()))).await.unwrap();
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[2]).target.port = proxy.port();
    let shown = AdminBed::start(config).await;
    bed.equal().await;
    for tenant in ["acme", "globex", "initech"] {
        shown.state_is(tenant, "following").await;
    }
    // Three transactions of one, two and forty rows, one after the other.
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('n1', 'acme')").await;
    bed.equal().await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('n2', 'acme'), ('n3', 'acme')").await;
    bed.equal().await;
    bed.auth("INSERT INTO auth.users (id, org) SELECT 'g' || n, 'globex' FROM generate_series(1, 40) n").await;
    bed.equal().await;
    let wanted = "users_sync_tenant_rows_applied_total{tenant=\"globex\"} 40\n";
    let text = shown.becomes("/metrics", |answer| answer.body.contains(wanted)).await.body;

    let families: BTreeSet<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let expected: BTreeSet<_> = FAMILIES
        .into_iter()
        .filter(|(name, _)| {
            !["users_sync_tee_lag_bytes", "users_sync_tee_rejected_users", "users_sync_tee_state"].contains(name)
        })
        .collect();
    assert_eq!(families, expected);

    let scraped = samples(&text);
    let is = |name: &str, value: f64| assert_eq!(scraped.get(name), Some(&value), "{name} in {text}");
    let build = format!("users_sync_build_info{{version=\"{}\",commit=", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&build), "{text}");
    is("users_sync_streaming", 1.0);
    is("users_sync_standby", 0.0);
    is("users_sync_tenants{state=\"following\"}", 3.0);
    is("users_sync_tenants{state=\"parked\"}", 0.0);
    is("users_sync_tenant_state{tenant=\"acme\",state=\"following\"}", 1.0);
    is("users_sync_tenant_state{tenant=\"acme\",state=\"parked\"}", 0.0);
    is("users_sync_parked_tenants{reason=\"away\"}", 0.0);
    is("users_sync_tenant_rows_applied_total{tenant=\"acme\"}", 3.0);
    is("users_sync_tenant_rows_applied_total{tenant=\"initech\"}", 0.0);
    is("users_sync_tenant_transactions_applied_total{tenant=\"acme\"}", 2.0);
    is("users_sync_tenant_transactions_applied_total{tenant=\"globex\"}", 1.0);
    is("users_sync_resyncs_total{tenant=\"acme\"}", 1.0);
    is("users_sync_target_reconnects_total{tenant=\"acme\"}", 0.0);
    is("users_sync_source_reconnects_total", 0.0);
    is("users_sync_unmappable_rows_total", 0.0);
    is("users_sync_internal_errors_total", 0.0);
    is("users_sync_aborted_scans_total", 0.0);
    is("users_sync_rereads_total", 0.0);
    is("users_sync_batch_rows_count", 3.0);
    is("users_sync_batch_rows_sum", 43.0);
    is("users_sync_batch_rows_bucket{le=\"1.0\"}", 1.0);
    is("users_sync_apply_seconds_count", 3.0);
    is("users_sync_commit_to_visible_seconds_count", 3.0);
    is("users_sync_memory_queued_bytes", 0.0);
    is("users_sync_spool_bytes{place=\"memory\"}", 0.0);
    is("users_sync_spool_bytes{place=\"disk\"}", 0.0);
    is("users_sync_tenant_queue_bytes{tenant=\"acme\"}", 0.0);
    is("users_sync_tenant_rejected_rows{tenant=\"acme\"}", 0.0);
    is("users_sync_tenant_lag_seconds{tenant=\"acme\"}", 0.0);
    assert!(scraped["users_sync_commit_to_visible_seconds_sum"] < 30.0, "{text}");
    shown.becomes("/metrics", |answer| answer.body.contains("users_sync_wal_held_bytes{slot=\"users_sync\"} ")).await;
    assert!(scrape(&shown).await.contains_key("users_sync_tenant_lag_bytes{tenant=\"acme\"}"));

    // An unreachable target, a refused row, and a removed tenant.
    proxy.refuse(true);
    proxy.cut();
    bed.server.sql("acme", "ALTER TABLE neon_auth.users_sync ADD CHECK (id <> 'bad')").await.unwrap();
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('bad', 'acme'), ('i1', 'initech')").await;
    let away = |text: &str| {
        let scraped = samples(text);
        scraped["users_sync_target_reconnects_total{tenant=\"initech\"}"] > 0.0
            && scraped["users_sync_tenant_queue_bytes{tenant=\"initech\"}"] > 0.0
            && scraped["users_sync_tenant_lag_seconds{tenant=\"initech\"}"] > 0.5
            && scraped["users_sync_tenant_rejected_rows{tenant=\"acme\"}"] == 1.0
    };
    shown.becomes("/metrics", |answer| away(&answer.body)).await;
    shown.configs.send_modify(|config| config.tenants.truncate(2));
    shown.becomes("/metrics", |answer| !answer.body.contains("initech")).await;
    shown.stop().await;
}

#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn the_tee_has_metrics_and_a_status() {
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).unwrap();
    for topic in ["tee.acme", "tee.positions"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let bed = Bed::start(&["acme"]).await;
    add(&bed, "acme", 7).await;
    let file = bed.config_file(&format!(
        "kafka: {{brokers: '{}', topic: 'tee.{{tenant}}', positions_topic: tee.positions, create_topics: false}}",
        cluster.bootstrap_servers()
    ));
    let shown = AdminBed::start(users_sync::config::load(file.path()).unwrap()).await;
    let follows = |text: &str| text.contains("users_sync_tee_state{state=\"following\"} 1\n");
    shown.becomes("/metrics", |answer| follows(&answer.body)).await;
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('n1', 'acme'), ('n2', 'acme')").await;
    let counted = "users_sync_tee_messages_total 9\n";
    let text = shown.becomes("/metrics", |answer| answer.body.contains(counted)).await.body;
    let scraped = samples(&text);
    assert!(scraped["users_sync_tee_transactions_total"] >= 2.0, "{text}");
    assert_eq!(scraped["users_sync_tee_reconnects_total"], 0.0);
    assert_eq!(scraped["users_sync_tee_state{state=\"parked\"}"], 0.0);
    assert!(scraped.contains_key("users_sync_tee_lag_bytes"), "{text}");
    shown.becomes("/metrics", |answer| answer.body.contains("wal_held_bytes{slot=\"users_sync_kafka\"} ")).await;
    let tee = shown.json("/api/status").await["tee"].clone();
    assert_eq!(
        (&tee["state"], &tee["slot"], &tee["last_error"]),
        (&json!("following"), &json!("users_sync_kafka"), &json!(null))
    );
    // With Kafka unreachable, the metrics show it.
    drop(cluster);
    bed.auth("INSERT INTO auth.users (id, org) VALUES ('n3', 'acme')").await;
    shown.becomes("/api/status", |answer| answer.json()["tee"]["last_error"].is_string()).await;
    bed.equal().await;
    shown.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_tenants_are_counted_by_cause() {
    let bed = Bed::start(&["acme", "globex"]).await;
    bed.server
        .sql("acme", "CREATE SCHEMA neon_auth; CREATE TABLE neon_auth.users_sync (id text PRIMARY KEY)")
        .await
        .unwrap();
    let mut config = bed.config();
    Arc::make_mut(&mut config.tenants[1]).target.database = "nowhere".into();
    let shown = AdminBed::start(config).await;
    let both = ["users_sync_parked_tenants{reason=\"altered\"} 1\n", "users_sync_parked_tenants{reason=\"login\"} 1\n"];
    let text = shown.becomes("/metrics", |answer| both.iter().all(|line| answer.body.contains(line))).await.body;
    assert!(text.contains("users_sync_tenants{state=\"parked\"} 2\n") && !text.contains("tenant_lag_bytes{"), "{text}");
    shown.stop().await;
}
