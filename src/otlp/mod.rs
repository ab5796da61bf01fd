//! Exports spans and metrics by OTLP, as the standard `OTEL_*` variables say (feature `otlp`). docs/TELEMETRY.md lists them.
//!
//! Spans wait in a bounded queue of the SDK and are dropped where it is full. Sending has its own thread and tasks, so that
//! a receiver that is down delays nothing.

mod families;
mod send;
mod settings;

use crate::telemetry::{TARGET, TraceLayer};
use families::{Times, metrics};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use prost::Message;
use send::{Sender, Warnings};
use settings::settings;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use uuid::Uuid;

const SCOPE: &str = "users-sync";
/// Time for the last spans and metrics when the process stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// What a process exports.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<(Sender, Duration)>,
    resource: Resource,
    sending: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Telemetry {
    /// As the environment says; `None` if nothing is exported. Call inside a runtime.
    ///
    /// # Errors
    /// A variable that cannot be used, without its value.
    pub(crate) fn of_environment() -> Result<Option<Telemetry>, String> {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(settings) = settings(variable).map_err(|fault| fault.to_string())? else { return Ok(None) };
        let warnings: Arc<Warnings> = Arc::default();
        let sender = |to| Sender::new(to, warnings.clone()).map_err(|error| error.to_string());
        let resource = resource();
        let traces = settings.traces.as_ref().map(sender).transpose()?.map(|sender| {
            let exporter = Exporter {
                sender: Arc::new(sender),
                resource: Arc::new((&resource).into()),
                runtime: Handle::current(),
            };
            SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(exporter).build()
        });
        let metrics = settings.metrics.as_ref().map(sender).transpose()?.map(|sender| (sender, settings.interval));
        Ok(Some(Telemetry { traces, metrics, resource, sending: None, stop: CancellationToken::new() }))
    }

    /// Collects the spans of [`crate::telemetry`] and nothing else.
    pub(crate) fn layer(&self) -> Option<TraceLayer> {
        let tracer = self.traces.as_ref()?.tracer(SCOPE);
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET)).boxed())
    }

    /// Begins to export the metrics of an exposition, which `read` returns.
    pub(crate) fn export_metrics(&mut self, read: impl Fn() -> Option<String> + Send + 'static) {
        let Some((sender, interval)) = self.metrics.take() else { return };
        let resource = (&self.resource).into();
        let stop = self.stop.clone();
        self.sending = Some(tokio::spawn(async move {
            let start = nanoseconds();
            loop {
                let is_last = timeout(interval, stop.cancelled()).await.is_ok();
                if let Some(text) = read() {
                    // A failure is logged where it happens.
                    sender.send(metrics_request(&text, &resource, Times { start, now: nanoseconds() })).await;
                }
                if is_last {
                    return;
                }
            }
        }));
    }

    /// Sends what waits, for a second at most.
    pub(crate) async fn end(self) {
        let Telemetry { traces, sending, stop, .. } = self;
        stop.cancel();
        let traces =
            traces.map(|traces| tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(FLUSH_TIMEOUT)));
        let ended = async {
            if let Some(sending) = sending {
                let _ = sending.await;
            }
            if let Some(traces) = traces {
                let _ = traces.await;
            }
        };
        // What could not be sent in time is lost.
        let _ = timeout(FLUSH_TIMEOUT, ended).await;
    }
}

fn nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What the variables say of this process, and what they do not say. The instance tells two processes apart.
fn resource() -> Resource {
    let named = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let has = |name: &str| named.split(',').any(|pair| pair.split('=').next().is_some_and(|key| key.trim() == name));
    let mut builder = Resource::builder();
    if !has("service.name") && std::env::var("OTEL_SERVICE_NAME").unwrap_or_default().is_empty() {
        builder = builder.with_service_name(SCOPE);
    }
    if !has("service.instance.id") {
        builder = builder.with_attribute(KeyValue::new("service.instance.id", Uuid::new_v4().to_string()));
    }
    if !has("service.version") {
        builder = builder.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    }
    builder.build()
}

fn metrics_request(text: &str, resource: &ResourceAttributesWithSchema, times: Times) -> Vec<u8> {
    let scope = InstrumentationScope { name: SCOPE.to_owned(), ..InstrumentationScope::default() };
    let scope_metrics = ScopeMetrics { scope: Some(scope), metrics: metrics(text, times), ..ScopeMetrics::default() };
    let resource = opentelemetry_proto::tonic::resource::v1::Resource {
        attributes: resource.attributes.0.clone(),
        ..Default::default()
    };
    let metrics =
        ResourceMetrics { resource: Some(resource), scope_metrics: vec![scope_metrics], ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![metrics] }.encode_to_vec()
}

/// Sends spans for the SDK, which waits in a thread outside of the runtime.
struct Exporter {
    sender: Arc<Sender>,
    resource: Arc<ResourceAttributesWithSchema>,
    runtime: Handle,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let request = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let sender = self.sender.clone();
        match self.runtime.spawn(async move { sender.send(request).await }).await {
            Ok(true) => Ok(()),
            _ => Err(OTelSdkError::InternalFailure("not delivered".to_owned())),
        }
    }
}
