//! `/metrics`: counters and the current state of the tenants, as OpenMetrics text. Only the process that replicates reports
//! tenants: with a standby's report they would count twice.

use super::app::App;
use super::overview::{COMMIT, VERSION};
use super::problem::{Problem, ProblemCode};
use crate::model::ParkCause;
use crate::state::TenantState;
use crate::status::metrics::TenantTotals;
use crate::status::process::{ProcessStatus, Role, TenantSample};
use crate::status::verdict::{Level, all_codes, judge};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const STATES: [TenantState; 3] = [TenantState::Following, TenantState::Joining, TenantState::Parked];

/// Metrics for Prometheus.
#[cfg_attr(
    feature = "openapi",
    utoipa::path(
        get,
        path = "/metrics",
        tag = "process",
        responses((status = 200, description = "Metrics in OpenMetrics text format.", body = String, content_type = "application/openmetrics-text"))
    )
)]
pub(super) async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let text = exposition(&app).map_err(|_| Problem::new(ProblemCode::InternalError, "cannot encode the metrics"))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

/// All families as text.
pub(super) fn exposition(app: &App) -> Result<String, fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry(app))?;
    Ok(text)
}

/// Built for each scrape. It only holds pointers to the counters.
fn registry(app: &App) -> Registry {
    let counted = &app.status.metrics;
    let mut registry = Registry::with_prefix("users_sync");
    registry.register(
        "build",
        "Version and commit of the running build",
        Info::new([("version", VERSION), ("commit", COMMIT)]),
    );
    registry.register(
        "source_reconnects",
        "Replication sessions on the source that ended and were restarted",
        counted.source_reconnects.clone(),
    );
    registry.register(
        "internal_errors",
        "Panics that parked a tenant or interrupted the Kafka output; each is a bug",
        counted.internal_errors.clone(),
    );
    registry.register(
        "aborted_scans",
        "Scans of the source that were aborted because another session waited for a lock that they blocked",
        counted.aborted_scans.clone(),
    );
    registry.register("unmappable_rows", "Source rows that could not be mapped", counted.unmappable_rows.clone());
    registry.register(
        "unparsed_values",
        "Names, addresses and times that do not have the form that the mapping declares, and are null therefore",
        counted.unparsed_values.clone(),
    );
    registry.register(
        "stripped_escapes",
        "Escapes removed from json values because jsonb rejects them, counted at each read",
        counted.stripped_escapes.clone(),
    );
    registry.register(
        "rereads",
        "Users read again from the source because the stream carried only a part of them",
        counted.rereads.clone(),
    );
    registry.register("tee_messages", "Messages acknowledged by Kafka", counted.tee_messages.clone());
    registry.register("tee_transactions", "Batches committed to Kafka", counted.tee_transactions.clone());
    registry.register(
        "tee_oversized",
        "Messages that were left out because they are larger than their Kafka topic accepts",
        counted.tee_oversized.clone(),
    );
    registry.register(
        "tee_reconnects",
        "Sessions of the Kafka output that ended and were restarted",
        counted.tee_reconnects.clone(),
    );
    registry.register("batch_rows", "Users per applied batch", counted.batch_rows.clone());
    registry.register(
        "commit_to_visible_seconds",
        "Time from the commit of the oldest source transaction in a batch to the commit in the target",
        counted.commit_to_visible.clone(),
    );
    registry.register("apply_seconds", "Time that a target took to apply a batch", counted.apply.clone());
    registry.register_collector(Box::new(StatusCollector(app.clone())));
    registry
}

/// Gauges of the current status. They are computed at each scrape and not stored.
struct StatusCollector(App);

impl fmt::Debug for StatusCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusCollector")
    }
}

impl Collector for StatusCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let status = &self.0.status;
        let role = status.role().role;
        let mut out = MetricWriter(&mut encoder);
        out.gauge("streaming", "1 if this process is replicating", u64::from(role == Role::Streaming))?;
        out.gauge("standby", "1 if this process is waiting to take over", u64::from(role == Role::Standby))?;
        let (verdict, users_without_tenant) = match status.verdict() {
            Some(verdict) => (verdict, status.users_without_tenant()),
            None => {
                let report = self.0.report();
                (judge(&report), report.users_without_tenant.clone())
            }
        };
        out.gauge("verdict", "0 if everything replicates, 1 if something needs attention, 2 if nothing replicates", {
            match verdict.level {
                Level::Ok => 0,
                Level::Degraded => 1,
                Level::Failed => 2,
            }
        })?;
        out.gauges("verdict_reasons", "Reasons of the verdict by code", |series| {
            all_codes().try_for_each(|code| {
                let count = verdict.reasons.iter().filter(|reason| reason.code == code).count();
                series.value(&[("code", code)], count as u64)
            })
        })?;
        out.gauges("users_without_tenant", "Users of the source that belong to no tenant, by key", |series| {
            let counted = users_without_tenant.as_ref();
            let kinds = [
                ("none", counted.and_then(|counted| counted.without_key)),
                ("unknown", counted.and_then(|counted| counted.with_unknown_key)),
            ];
            kinds.into_iter().try_for_each(|(kind, users)| match users {
                Some(users) => series.value(&[("key", kind)], users),
                None => Ok(()),
            })
        })?;
        out.gauges("wal_held_bytes", "Source WAL retained by a slot", |series| {
            status
                .source_log()
                .held_back
                .iter()
                .try_for_each(|(slot, bytes)| series.value(&[("slot", &**slot)], *bytes))
        })?;
        let Some(tenants) = status.samples() else { return Ok(()) };
        out.gauge(
            "memory_queued_bytes",
            "Memory used by the changes queued for all targets",
            status.queued_bytes() as u64,
        )?;
        out.gauges("spool_bytes", "Users of snapshots that wait for slow targets or Kafka, by place", |series| {
            let (memory, disk) = status.spool_bytes();
            series.value(&[("place", "memory")], memory as u64)?;
            series.value(&[("place", "disk")], disk)
        })?;
        encode_states(&mut out, &tenants)?;
        encode_tenants(&mut out, &listed(tenants, LISTED_TENANTS))?;
        encode_tee(&mut out, status)
    }
}

/// Tenants with series of their own. A monitoring system pays for each series, also for those of tenants without changes.
const LISTED_TENANTS: usize = 1_000;

/// A lag in seconds that needs attention. Shorter ones come and go with every change, and so would the series.
const LAG: f64 = 60.0;

/// At most `limit` tenants, in their order: those that do not follow, then those that reject users, lag, or were resynced or connected
/// again, whose counters the alerts watch, and then the busiest.
fn listed(tenants: Vec<TenantSample>, limit: usize) -> Vec<TenantSample> {
    if tenants.len() <= limit {
        return tenants;
    }
    let rank = |tenant: &TenantSample| {
        let totals = tenant.counts.read();
        let lags = tenant.lag_seconds.is_some_and(|lag| lag >= LAG);
        let is_well = tenant.rejected == 0 && !lags && totals.resyncs <= 1 && totals.reconnects == 0;
        (tenant.state == TenantState::Following, is_well, Reverse(totals.rows))
    };
    let mut places: Vec<usize> = (0..tenants.len()).collect();
    places.sort_by_cached_key(|place| rank(&tenants[*place]));
    let first: HashSet<usize> = places.into_iter().take(limit).collect();
    let numbered = tenants.into_iter().enumerate();
    numbered.filter(|(place, _)| first.contains(place)).map(|(_, tenant)| tenant).collect()
}

fn encode_states(out: &mut MetricWriter<'_, '_>, tenants: &[TenantSample]) -> fmt::Result {
    out.gauges("tenants", "Tenants by state", |series| {
        STATES.into_iter().try_for_each(|state| {
            let count = tenants.iter().filter(|tenant| tenant.state == state).count();
            series.value(&[("state", state.as_str())], count as u64)
        })
    })?;
    out.gauges("parked_tenants", "Parked tenants by reason code", |series| {
        ParkCause::ALL.iter().copied().try_for_each(|cause| {
            let count = tenants.iter().filter(|tenant| tenant.cause == Some(cause)).count();
            series.value(&[("reason", cause.code())], count as u64)
        })
    })
}

fn encode_tenants(out: &mut MetricWriter<'_, '_>, tenants: &[TenantSample]) -> fmt::Result {
    out.gauges("tenant_state", "1 for the state that the tenant is in", |series| {
        tenants.iter().try_for_each(|tenant| {
            STATES.into_iter().try_for_each(|state| {
                let labels = [("tenant", tenant.tenant.as_str()), ("state", state.as_str())];
                series.value(&labels, u64::from(tenant.state == state))
            })
        })
    })?;
    let mut each = |name, help, value: &dyn Fn(&TenantSample) -> Option<f64>| {
        out.gauges(name, help, |series| {
            tenants.iter().try_for_each(|tenant| match value(tenant) {
                Some(value) => series.value(&[("tenant", tenant.tenant.as_str())], value),
                None => Ok(()),
            })
        })
    };
    each("tenant_lag_bytes", "Source WAL not yet applied to a following target", &|tenant| {
        tenant.lag_bytes.map(|bytes| bytes as f64)
    })?;
    each("tenant_lag_seconds", "Time since a following target was last up to date", &|tenant| tenant.lag_seconds)?;
    each("tenant_queue_bytes", "Memory used by the changes queued for the target", &|tenant| {
        Some(tenant.queue_bytes as f64)
    })?;
    each("tenant_rejected_rows", "Users rejected by the target", &|tenant| Some(tenant.rejected as f64))?;
    for counter in &TENANT_COUNTERS {
        out.counters(counter.name, counter.help, |series| {
            tenants.iter().try_for_each(|tenant| {
                series.count(&[("tenant", tenant.tenant.as_str())], (counter.value)(&tenant.counts.read()))
            })
        })?;
    }
    Ok(())
}

struct TenantCounter {
    name: &'static str,
    help: &'static str,
    value: fn(&TenantTotals) -> u64,
}

const TENANT_COUNTERS: [TenantCounter; 4] = [
    TenantCounter {
        name: "tenant_rows_applied",
        help: "Users written to the target, excluding snapshots",
        value: |totals| totals.rows,
    },
    TenantCounter {
        name: "tenant_transactions_applied",
        help: "Source transactions applied to the target, excluding snapshots",
        value: |totals| totals.transactions,
    },
    TenantCounter {
        name: "resyncs",
        help: "Snapshots taken of the tenant, including the first",
        value: |totals| totals.resyncs,
    },
    TenantCounter {
        name: "target_reconnects",
        help: "Reconnection attempts to the target",
        value: |totals| totals.reconnects,
    },
];

fn encode_tee(out: &mut MetricWriter<'_, '_>, status: &ProcessStatus) -> fmt::Result {
    let Some(tee) = status.tee() else { return Ok(()) };
    out.gauges("tee_state", "1 for the state that the Kafka output is in", |series| {
        STATES
            .into_iter()
            .try_for_each(|state| series.value(&[("state", state.as_str())], u64::from(tee.state == state.as_str())))
    })?;
    out.gauge(
        "tee_rejected_users",
        "Users that the Kafka output leaves out: too large, or not mappable",
        tee.rejected,
    )?;
    match status.tee_lag() {
        Some(bytes) => out.gauge("tee_lag_bytes", "Source WAL not yet published to Kafka", bytes),
        None => Ok(()),
    }
}

/// Writes values that are not stored in prometheus-client's own types.
struct MetricWriter<'a, 'b>(&'a mut DescriptorEncoder<'b>);

/// Writes the series of one metric.
struct SeriesWriter<'a>(MetricEncoder<'a>);

impl MetricWriter<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        write: impl FnOnce(&mut SeriesWriter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut SeriesWriter(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?))
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        write: impl FnOnce(&mut SeriesWriter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(&mut SeriesWriter(self.0.encode_descriptor(name, help, None, MetricType::Counter)?))
    }
}

impl SeriesWriter<'_> {
    fn value(&mut self, labels: &[(&str, &str)], value: impl Into<GaugeValue>) -> fmt::Result {
        match value.into() {
            GaugeValue::Whole(value) => self.0.encode_family(&labels)?.encode_gauge(&value),
            GaugeValue::Real(value) => self.0.encode_family(&labels)?.encode_gauge(&value),
        }
    }

    fn count(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }
}

enum GaugeValue {
    Whole(u64),
    Real(f64),
}

impl From<u64> for GaugeValue {
    fn from(value: u64) -> GaugeValue {
        GaugeValue::Whole(value)
    }
}

impl From<f64> for GaugeValue {
    fn from(value: f64) -> GaugeValue {
        GaugeValue::Real(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TenantId;
    use crate::status::metrics::{Metrics, TenantCounts, Visible};
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn tenants_that_need_attention_and_the_busiest_have_series() {
        let sample = |name: &str, state, lag_seconds, rejected, rows| {
            let counts = Arc::<TenantCounts>::default();
            let visible = Visible { rows, sign_ups: 0, transactions: 1, took: Duration::ZERO, age: Duration::ZERO };
            Metrics::default().applied(&counts, visible);
            TenantSample {
                tenant: TenantId::new(name),
                state,
                cause: None,
                lag_bytes: None,
                lag_seconds,
                queue_bytes: 0,
                rejected,
                counts,
            }
        };
        let all = || {
            vec![
                sample("idle", TenantState::Following, Some(0.0), 0, 1),
                sample("busy", TenantState::Following, Some(0.0), 0, 9),
                sample("rejects", TenantState::Following, Some(0.0), 2, 0),
                sample("lags", TenantState::Following, Some(70.0), 0, 0),
                sample("parked", TenantState::Parked, None, 0, 0),
            ]
        };
        let names = |limit| {
            let listed = listed(all(), limit);
            listed.iter().map(|tenant| tenant.tenant.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(5), "idle busy rejects lags parked");
        assert_eq!(names(4), "busy rejects lags parked");
        assert_eq!(names(3), "rejects lags parked");
        assert_eq!(names(1), "parked");
    }
}
