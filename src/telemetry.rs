//! The spans that OpenTelemetry exports (feature `otlp`): sessions, batches and snapshots. Without an exporter the
//! subscriber disables them, and creating one costs a comparison.
//!
//! They are never entered, so log lines do not show them and no event is attached. Each is a trace of its own that links to
//! its session: a session can last for months, and a sampler decides for each batch.

use crate::model::{Epoch, Generation, TenantId};
use tracing::field::Empty;
use tracing::{Span, info_span};
use tracing_subscriber::{Layer, Registry};

/// Collects the spans that are exported.
pub(crate) type TraceLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// The target of exported spans. It differs from every module's path, so that filters of the log do not select them.
pub(crate) const TARGET: &str = "otlp";

/// A replication session on the source.
pub(crate) fn session_span(epoch: Epoch, generation: Generation) -> Span {
    info_span!(target: TARGET, parent: None, "session", %epoch, %generation)
}

/// A batch of changes that is written to a tenant's target.
pub(crate) fn batch_span(session: &Span, tenant: &TenantId) -> Span {
    let span = info_span!(
        target: TARGET, parent: None, "batch", %tenant,
        rows = Empty, transactions = Empty, reason_code = Empty, otel.status_code = Empty
    );
    span.follows_from(session);
    span
}

/// A snapshot of a tenant: from its request until the target has it.
pub(crate) fn snapshot_span(session: &Span, tenant: &TenantId, reason: &'static str) -> Span {
    let span = info_span!(
        target: TARGET, parent: None, "snapshot", %tenant, reason,
        rows = Empty, reason_code = Empty, otel.status_code = Empty
    );
    span.follows_from(session);
    span
}

/// Marks the span as failed. `code` is the reason's.
pub(crate) fn failed(span: &Span, code: &'static str) {
    span.record("otel.status_code", "ERROR");
    span.record("reason_code", code);
}

/// Records a number. OpenTelemetry has no unsigned ones.
pub(crate) fn counted(span: &Span, field: &'static str, number: u64) {
    span.record(field, i64::try_from(number).unwrap_or(i64::MAX));
}
