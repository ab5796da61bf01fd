//! The counters of a process, over all of its sessions. The code that does something counts it here; `admin` writes the
//! numbers out.

use crate::model::TenantId;
use crate::sync::lock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The counters and histograms of a process.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Sessions on the source that ended with an error.
    pub source_reconnects: Counter,
    /// Rows that could not be mapped.
    pub unmappable_rows: Counter,
    /// Optional values that did not parse, and are null therefore.
    pub unparsed_values: Counter,
    /// Panics of a tenant's task or of the Kafka output.
    pub internal_errors: Counter,
    /// Scans of the source that were aborted because another session waited for their locks.
    pub aborted_scans: Counter,
    /// Escapes removed from json values because jsonb rejects them.
    pub stripped_escapes: Counter,
    /// Users that were read from the source because the stream did not carry them whole.
    pub rereads: Counter,
    /// Messages that Kafka has acknowledged.
    pub tee_messages: Counter,
    /// Committed Kafka transactions.
    pub tee_transactions: Counter,
    /// Messages that were too large for Kafka.
    pub tee_oversized: Counter,
    /// Sessions of the tee that ended with an error.
    pub tee_reconnects: Counter,
    /// Rows per applied batch.
    pub batch_rows: Histogram,
    /// Seconds from the commit of a batch's oldest transaction at the source until the target has committed the batch.
    pub commit_to_visible: Histogram,
    /// Seconds that a target takes for a batch.
    pub apply: Histogram,
    tenants: Mutex<HashMap<TenantId, Arc<TenantCounts>>>,
}

/// The counters of one tenant.
#[derive(Debug, Default)]
pub(crate) struct TenantCounts {
    rows: AtomicU64,
    transactions: AtomicU64,
    resyncs: AtomicU64,
    reconnects: AtomicU64,
    sign_ups: AtomicU64,
}

/// A tenant's counts at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantTotals {
    pub(crate) rows: u64,
    pub(crate) transactions: u64,
    pub(crate) resyncs: u64,
    pub(crate) reconnects: u64,
    pub(crate) sign_ups: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        // From half a millisecond to a minute. A batch has at most a few thousand rows.
        let seconds =
            || [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Metrics {
            source_reconnects: Counter::default(),
            unmappable_rows: Counter::default(),
            unparsed_values: Counter::default(),
            internal_errors: Counter::default(),
            aborted_scans: Counter::default(),
            stripped_escapes: Counter::default(),
            rereads: Counter::default(),
            tee_messages: Counter::default(),
            tee_transactions: Counter::default(),
            tee_oversized: Counter::default(),
            tee_reconnects: Counter::default(),
            batch_rows: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            commit_to_visible: Histogram::new(seconds()),
            apply: Histogram::new(seconds()),
            tenants: Mutex::default(),
        }
    }
}

impl Metrics {
    /// The counters of a tenant. Created if the tenant is new.
    pub(crate) fn tenant(&self, tenant: &TenantId) -> Arc<TenantCounts> {
        self.tenants().entry(tenant.clone()).or_default().clone()
    }

    /// Removes the counters of tenants that are no longer configured.
    pub(crate) fn retain(&self, is_there: impl Fn(&TenantId) -> bool) {
        self.tenants().retain(|tenant, _| is_there(tenant));
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<TenantCounts>>> {
        // Nothing panics inside that could leave the map half changed.
        lock(&self.tenants)
    }
}

/// A batch that has become visible in its target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Visible {
    /// Users in it.
    pub rows: usize,
    /// Those of them who have just signed up.
    pub sign_ups: usize,
    /// Transactions of the source in it.
    pub transactions: u64,
    /// Time that the target took.
    pub took: Duration,
    /// Time since the oldest of its transactions was committed at the source. Compares the clocks of two machines.
    pub age: Duration,
}

impl Metrics {
    pub(crate) fn applied(&self, tenant: &TenantCounts, batch: Visible) {
        tenant.rows.fetch_add(batch.rows as u64, Ordering::Relaxed);
        tenant.sign_ups.fetch_add(batch.sign_ups as u64, Ordering::Relaxed);
        tenant.transactions.fetch_add(batch.transactions, Ordering::Relaxed);
        self.batch_rows.observe(batch.rows as f64);
        self.apply.observe(batch.took.as_secs_f64());
        self.commit_to_visible.observe(batch.age.as_secs_f64());
    }
}

impl TenantCounts {
    /// Counts a completed snapshot.
    pub(crate) fn resynced(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a retry of the target.
    pub(crate) fn reconnects(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> TenantTotals {
        TenantTotals {
            rows: self.rows.load(Ordering::Relaxed),
            transactions: self.transactions.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            sign_ups: self.sign_ups.load(Ordering::Relaxed),
        }
    }
}
