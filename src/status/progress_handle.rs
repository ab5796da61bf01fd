//! The progress of a scan of the source, shared between the scan and its readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The share of the expected rows that has been read, in thousandths. Clones share the value.
#[derive(Clone, Debug)]
pub(crate) struct ProgressHandle(Arc<AtomicU32>);

/// The scan has not begun, or the number of its rows cannot be estimated.
const UNKNOWN: u32 = u32::MAX;

impl Default for ProgressHandle {
    fn default() -> ProgressHandle {
        ProgressHandle(Arc::new(AtomicU32::new(UNKNOWN)))
    }
}

impl ProgressHandle {
    /// The share of rows that has been read, from 0 to 1; `None` if it cannot be estimated. A scan that finds more rows
    /// than expected stays just below 1.
    pub(crate) fn share(&self) -> Option<f64> {
        let thousandths = self.0.load(Ordering::Relaxed);
        (thousandths != UNKNOWN).then(|| f64::from(thousandths) / 1000.0)
    }

    /// Resets the progress before another scan begins.
    pub(crate) fn reset(&self) {
        self.0.store(UNKNOWN, Ordering::Relaxed);
    }

    /// `expected` is 0 if the number of rows cannot be estimated.
    pub(crate) fn set(&self, rows: u64, expected: u64) {
        let thousandths = (rows * 1000).checked_div(expected);
        self.0.store(thousandths.map_or(UNKNOWN, |thousandths| thousandths.min(999) as u32), Ordering::Relaxed);
    }
}
