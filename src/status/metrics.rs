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

/// One for each process.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Sessions on the source that ended by themselves.
    pub source_reconnects: Counter,
    /// Rows that could not be mapped.
    pub unmappable_rows: Counter,
    /// Escapes removed from json values because jsonb rejects them.
    pub stripped_escapes: Counter,
    /// Users that were read from the source because the stream did not carry them whole.
    pub rereads: Counter,
    /// Messages that Kafka has acknowledged.
    pub tee_messages: Counter,
    /// Transactions of Kafka that were committed.
    pub tee_transactions: Counter,
    /// Sessions of the tee that ended by themselves.
    pub tee_reconnects: Counter,
    /// Rows of a batch that was applied.
    pub batch_rows: Histogram,
    /// From the commit of the oldest transaction in a batch until its target has committed that.
    pub commit_to_visible: Histogram,
    /// How long a target takes for a batch.
    pub apply: Histogram,
    tenants: Mutex<HashMap<TenantId, Arc<TenantCounts>>>,
}

/// What is counted of one tenant.
#[derive(Debug, Default)]
pub(crate) struct TenantCounts {
    rows: AtomicU64,
    transactions: AtomicU64,
    resyncs: AtomicU64,
    reconnects: AtomicU64,
}

/// A tenant's counts at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TenantTotals {
    pub(crate) rows: u64,
    pub(crate) transactions: u64,
    pub(crate) resyncs: u64,
    pub(crate) reconnects: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        // From half a millisecond to a minute. A batch has at most a few thousand rows.
        let seconds =
            || [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
        Metrics {
            source_reconnects: Counter::default(),
            unmappable_rows: Counter::default(),
            stripped_escapes: Counter::default(),
            rereads: Counter::default(),
            tee_messages: Counter::default(),
            tee_transactions: Counter::default(),
            tee_reconnects: Counter::default(),
            batch_rows: Histogram::new(exponential_buckets(1.0, 4.0, 8)),
            commit_to_visible: Histogram::new(seconds()),
            apply: Histogram::new(seconds()),
            tenants: Mutex::default(),
        }
    }
}

impl Metrics {
    /// What is counted of a tenant, from now on if it is new.
    pub(crate) fn tenant(&self, tenant: &TenantId) -> Arc<TenantCounts> {
        self.tenants().entry(tenant.clone()).or_default().clone()
    }

    /// Forgets the tenants that are no more.
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
    /// Transactions of the source in it.
    pub transactions: u64,
    /// How long the target took.
    pub took: Duration,
    /// How long ago the oldest of its transactions was committed at the source, by the two clocks.
    pub age: Duration,
}

impl Metrics {
    /// A batch was applied.
    pub(crate) fn applied(&self, tenant: &TenantCounts, batch: Visible) {
        tenant.rows.fetch_add(batch.rows as u64, Ordering::Relaxed);
        tenant.transactions.fetch_add(batch.transactions, Ordering::Relaxed);
        self.batch_rows.observe(batch.rows as f64);
        self.apply.observe(batch.took.as_secs_f64());
        self.commit_to_visible.observe(batch.age.as_secs_f64());
    }
}

impl TenantCounts {
    /// It has taken a snapshot.
    pub(crate) fn resynced(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Its target has to be connected to once more.
    pub(crate) fn reconnects(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> TenantTotals {
        TenantTotals {
            rows: self.rows.load(Ordering::Relaxed),
            transactions: self.transactions.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            reconnects: self.reconnects.load(Ordering::Relaxed),
        }
    }
}
