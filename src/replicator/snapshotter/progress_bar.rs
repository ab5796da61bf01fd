//! How far a reading of the source is: a bar on a terminal, log lines elsewhere.

use crate::map::{Rules, is_tenant_a_text};
use crate::pg::PgClient;
use crate::replicator::source::mapping::Mapped;
use crate::snapshot::{RowStream, SourceReadError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Where there is no terminal, the progress is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// How far a reading is, for others to look at: thousandths.
#[derive(Clone, Debug)]
pub struct HowFar(Arc<AtomicU32>);

/// Nothing is read yet, or nobody knows how much there is.
const UNKNOWN: u32 = u32::MAX;

impl Default for HowFar {
    fn default() -> HowFar {
        HowFar(Arc::new(AtomicU32::new(UNKNOWN)))
    }
}

impl HowFar {
    /// Of all rows, from 0 to 1, where that can be told beforehand: a reading that has more of them than it was thought to have
    /// stays just below 1.
    pub fn share(&self) -> Option<f64> {
        let thousandths = self.0.load(Ordering::Relaxed);
        (thousandths != UNKNOWN).then(|| f64::from(thousandths) / 1000.0)
    }

    /// The next reading has not begun yet.
    pub fn reset(&self) {
        self.0.store(UNKNOWN, Ordering::Relaxed);
    }

    fn is_at(&self, rows: u64, expected: u64) {
        let thousandths = (rows * 1000).checked_div(expected);
        self.0.store(thousandths.map_or(UNKNOWN, |thousandths| thousandths.min(999) as u32), Ordering::Relaxed);
    }
}

/// How many rows a reading of these tenants will have, as the planner has it; 0 where it only guesses: of values that are
/// compared in another form than the column's own it knows nothing.
pub(crate) async fn expected_rows(
    client: &PgClient,
    rules: &Rules,
    mapped: &Mapped,
    condition: &str,
) -> Result<u64, SourceReadError> {
    match condition.is_empty() || is_tenant_a_text(rules, &mapped.relation) {
        true => RowStream::expected(client, &mapped.from, condition).await,
        false => Ok(0),
    }
}

pub(crate) struct Progress {
    bar: ProgressBar,
    expected: u64,
    shown: HowFar,
    rows: u64,
    logged: Instant,
}

impl Progress {
    /// `expected` rows, as the planner has it; 0 where it does not know.
    pub(crate) fn new(expected: u64, shown: HowFar) -> Progress {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target((expected > 0).then_some(expected), target);
        if let Ok(style) = ProgressStyle::with_template("snapshot {bar:40} {human_pos} users, {per_sec}, {elapsed}") {
            bar.set_style(style);
        }
        shown.is_at(0, expected);
        Progress { bar, expected, shown, rows: 0, logged: Instant::now() }
    }

    pub(crate) fn row(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(1024) {
            self.bar.set_position(self.rows);
            self.shown.is_at(self.rows, self.expected);
            if self.bar.is_hidden() && self.logged.elapsed() >= LOG_EVERY {
                self.logged = Instant::now();
                tracing::info!(rows = self.rows, "snapshot goes on");
            }
        }
    }

    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
        tracing::info!(rows = self.rows, "snapshot was read");
    }
}
