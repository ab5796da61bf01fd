//! What `run` exports by OpenTelemetry. Without the feature `otlp` it only says so.

use crate::admin::Server;
use crate::telemetry::TraceLayer;

/// The export of a process.
#[derive(Default)]
pub(super) struct Export {
    #[cfg(feature = "otlp")]
    telemetry: Option<crate::otlp::Telemetry>,
    #[cfg(feature = "otlp")]
    fault: Option<String>,
}

#[cfg(feature = "otlp")]
impl Export {
    /// As the environment says. A variable that cannot be used is no reason not to replicate.
    pub(super) fn of_environment() -> Export {
        match crate::otlp::Telemetry::of_environment() {
            Ok(telemetry) => Export { telemetry, fault: None },
            Err(fault) => Export { telemetry: None, fault: Some(fault) },
        }
    }

    /// What collects spans.
    pub(super) fn layer(&self) -> Option<TraceLayer> {
        self.telemetry.as_ref()?.layer()
    }

    /// Begins to export the metrics that the server shows. Call once logging has begun.
    pub(super) fn begin(&mut self, server: &Server) {
        if let Some(reason) = self.fault.take() {
            tracing::warn!(reason, "telemetry is not exported");
        }
        if let Some(telemetry) = &mut self.telemetry {
            telemetry.export_metrics(server.exposition());
        }
    }

    /// Sends what waits.
    pub(super) async fn end(self) {
        if let Some(telemetry) = self.telemetry {
            telemetry.end().await;
        }
    }
}

#[cfg(not(feature = "otlp"))]
impl Export {
    pub(super) fn of_environment() -> Export {
        Export::default()
    }

    #[expect(clippy::unused_self, reason = "with the feature it depends on the environment")]
    pub(super) fn layer(&self) -> Option<TraceLayer> {
        None
    }

    #[expect(clippy::unused_self, reason = "with the feature it exports")]
    pub(super) fn begin(&mut self, _: &Server) {
        if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_some_and(|endpoint| !endpoint.is_empty()) {
            tracing::warn!("OTEL_EXPORTER_OTLP_ENDPOINT has no effect: this build has no feature otlp");
        }
    }

    pub(super) fn end(self) -> std::future::Ready<()> {
        std::future::ready(())
    }
}
