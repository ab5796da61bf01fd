//! OpenTelemetry: a receiver over HTTP gets the spans and metrics of a real process, and one that fails is harmless.

use crate::support::process::{Log, Process};
use crate::support::{Bed, DEADLINE, pause};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::net::TcpListener;

/// Part of a header, of a URL's password and of every user.
const MARK: &str = "Zq7Mark";

#[derive(Default)]
struct Received {
    requests: usize,
    authorized: usize,
    services: Vec<String>,
    spans: Vec<Span>,
    /// Those of the last request.
    metrics: Vec<Metric>,
}

/// An OTLP receiver.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Received>>);

impl Receiver {
    /// Returns its port.
    async fn start(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let traces = async |State(at): State<Receiver>, headers: HeaderMap, body: Bytes| {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            for resource in request.resource_spans {
                at.service(&headers, &resource.resource.unwrap().attributes);
                let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                at.0.lock().unwrap().spans.extend(spans);
            }
            StatusCode::OK
        };
        let metrics = async |State(at): State<Receiver>, headers: HeaderMap, body: Bytes| {
            let request = ExportMetricsServiceRequest::decode(body).unwrap();
            for resource in request.resource_metrics {
                at.service(&headers, &resource.resource.unwrap().attributes);
                let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
                at.0.lock().unwrap().metrics = metrics.collect();
            }
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(traces)).route("/v1/metrics", post(metrics));
        let router = router.with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    fn service(&self, headers: &HeaderMap, resource: &[KeyValue]) {
        let mut received = self.0.lock().unwrap();
        received.requests += 1;
        let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        received.authorized += usize::from(authorization == Some(format!("Bearer {MARK}")));
        received.services.push(attribute(resource, "service.name").unwrap_or_default().to_owned());
    }

    /// Waits until it has received this.
    #[track_caller]
    fn gets<'a>(&'a self, what: &'a str, is_there: impl Fn(&Received) -> bool + 'a) -> impl Future<Output = ()> + 'a {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = Instant::now() + DEADLINE;
            while !is_there(&self.0.lock().unwrap()) {
                let names = || {
                    let received = self.0.lock().unwrap();
                    let spans: Vec<String> = received.spans.iter().map(|span| format!("{span:?}")).collect();
                    (spans, received.metrics.iter().map(|metric| metric.name.clone()).collect::<Vec<_>>())
                };
                assert!(Instant::now() < deadline, "{caller}: no {what} in {:?}", names());
                pause().await;
            }
        }
    }
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn number(span: &Span, key: &str) -> Option<i64> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::IntValue(number) => Some(*number),
        _ => None,
    }
}

fn has_span(received: &Received, name: &str, rows: i64) -> bool {
    let is_it = |span: &Span| {
        let of_tenant = attribute(&span.attributes, "tenant") == Some("acme") && number(span, "rows") == Some(rows);
        span.name == name && of_tenant && span.links.len() == 1 && span.parent_span_id.is_empty()
    };
    received.spans.iter().any(is_it)
}

/// The value of a counter's series of the tenant.
fn counted(received: &Received, name: &str) -> Option<i64> {
    let metric = received.metrics.iter().find(|metric| metric.name == name)?;
    let Some(Data::Sum(sum)) = &metric.data else { return None };
    let point = sum.data_points.iter().find(|point| attribute(&point.attributes, "tenant") == Some("acme"))?;
    match point.value? {
        number_data_point::Value::AsInt(value) => Some(value),
        number_data_point::Value::AsDouble(_) => None,
    }
}

/// Sends to the port, often.
fn start(bed: &Bed, port: u16, more: &[(&str, &str)]) -> (Process, Log, tempfile::NamedTempFile) {
    let config = bed.config_file("log: json");
    let endpoint = format!("http://u:{MARK}@127.0.0.1:{port}");
    let headers = format!("authorization=Bearer%20{MARK}");
    let mut environment = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint),
        ("OTEL_EXPORTER_OTLP_HEADERS", &*headers),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ];
    environment.extend(more);
    let (process, log) = Process::start_logged_in(&config, &environment, "trace,users_sync=trace");
    (process, log, config)
}

async fn add_user(bed: &Bed, id: &str) {
    let row = format!("INSERT INTO auth.users (id, org, email, updated_at) VALUES ('{id}', 'acme', '{MARK}@x', now())");
    bed.auth(&row).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_spans_with_the_tenant_and_the_metrics() {
    let bed = Bed::start(&["acme"]).await;
    add_user(&bed, "first").await;
    let receiver = Receiver::default();
    let port = receiver.start().await;
    let (process, log, _config) = start(&bed, port, &[("OTEL_SERVICE_NAME", "auth-sync")]);
    bed.state_is("acme", "following").await;
    receiver.gets("snapshot", |received| has_span(received, "snapshot", 1)).await;
    add_user(&bed, "second").await;
    bed.equal().await;
    receiver.gets("batch", |received| has_span(received, "batch", 1)).await;
    receiver.gets("counter", |received| counted(received, "users_sync_tenant_rows_applied") == Some(1)).await;
    let is_histogram = |metric: &Metric| match &metric.data {
        Some(Data::Histogram(of)) => metric.name == "users_sync_batch_rows" && of.data_points[0].count == 1,
        _ => false,
    };
    receiver.gets("histogram", |received| received.metrics.iter().any(is_histogram)).await;
    // A target that is refused: the batch fails with the reason's code.
    bed.server.sql("acme", "ALTER TABLE neon_auth.users_sync RENAME COLUMN name TO other").await.unwrap();
    add_user(&bed, "third").await;
    let is_failed = |span: &Span| {
        let has_failed = span.status.as_ref().is_some_and(|status| status.code == 2);
        has_failed && attribute(&span.attributes, "reason_code").is_some()
    };
    receiver.gets("failed span", |received| received.spans.iter().any(is_failed)).await;
    assert!(process.stop().await.success());
    receiver.gets("session", |received| received.spans.iter().any(|span| span.name == "session")).await;

    let received = receiver.0.lock().unwrap();
    assert_eq!(received.authorized, received.requests);
    assert!(received.services.iter().all(|name| name == "auth-sync"), "{:?}", received.services);
    // Each span is a trace of its own, with a link to the session's.
    let session = received.spans.iter().find(|span| span.name == "session").unwrap();
    let batches = received.spans.iter().filter(|span| span.name == "batch");
    for batch in batches {
        assert_eq!(batch.links[0].span_id, session.span_id);
        assert_ne!(batch.trace_id, session.trace_id);
    }
    let text = log.text();
    assert!(!text.contains(MARK), "{text}");
    assert!(!format!("{:?}", received.spans).contains(MARK));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_down_delays_nothing_and_is_logged_once() {
    let bed = Bed::start(&["acme"]).await;
    // It closes every connection without an answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = Arc::new(Mutex::new(0));
    let count = closed.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            *count.lock().unwrap() += 1;
        }
    });
    let (process, log, _config) = start(&bed, port, &[]);
    bed.state_is("acme", "following").await;
    add_user(&bed, "first").await;
    bed.equal().await;
    let deadline = Instant::now() + DEADLINE;
    while *closed.lock().unwrap() < 10 {
        assert!(Instant::now() < deadline, "it no longer tries");
        pause().await;
    }
    assert!(process.stop().await.success());
    let text = log.text();
    assert_eq!(text.matches("telemetry cannot be sent; replication goes on").count(), 1, "{text}");
    assert!(text.contains("otlp_"), "{text}");
    assert!(!text.contains(MARK), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_if_the_sdk_is_disabled_and_a_variable_that_cannot_be_used_is_logged() {
    let bed = Bed::start(&["acme"]).await;
    let receiver = Receiver::default();
    let port = receiver.start().await;
    let (process, log, _config) = start(&bed, port, &[("OTEL_SDK_DISABLED", "true")]);
    bed.state_is("acme", "following").await;
    add_user(&bed, "first").await;
    bed.equal().await;
    assert!(process.stop().await.success());
    assert!(!log.text().contains("telemetry"), "{}", log.text());
    let (process, log, _config) = start(&bed, port, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    add_user(&bed, "second").await;
    bed.equal().await;
    log.says("OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is supported").await;
    assert!(process.stop().await.success());
    assert_eq!(receiver.0.lock().unwrap().requests, 0);
}
