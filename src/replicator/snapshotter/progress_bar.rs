//! How far a reading of the source is: a bar on a terminal, log lines elsewhere.

use crate::map::{Rules, is_tenant_a_text};
use crate::pg::PgClient;
use crate::replicator::source::mapping::MappedRelation;
use crate::snapshot::{RowStream, SourceReadError};
use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Where there is no terminal, the progress is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// A bar that moves more often only costs time.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// ANSI: back to the first column, then erase the line.
const CLEAR_LINE: &str = "\r\x1b[2K";
/// In characters; the line fits a terminal of 80 columns.
const BAR_WIDTH: u64 = 32;

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
    mapped: &MappedRelation,
    condition: &str,
) -> Result<u64, SourceReadError> {
    match condition.is_empty() || is_tenant_a_text(rules, &mapped.relation) {
        true => RowStream::expected(client, &mapped.from, condition).await,
        false => Ok(0),
    }
}

pub(crate) struct Progress {
    expected: u64,
    shown: HowFar,
    rows: u64,
    is_terminal: bool,
    started: Instant,
    reported: Instant,
}

impl Progress {
    /// `expected` rows, as the planner has it; 0 where it does not know.
    pub(crate) fn new(expected: u64, shown: HowFar) -> Progress {
        shown.is_at(0, expected);
        let now = Instant::now();
        Progress { expected, shown, rows: 0, is_terminal: stderr().is_terminal(), started: now, reported: now }
    }

    pub(crate) fn row(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(1024) {
            self.shown.is_at(self.rows, self.expected);
            let interval = if self.is_terminal { DRAW_INTERVAL } else { LOG_EVERY };
            if self.reported.elapsed() >= interval {
                self.reported = Instant::now();
                self.report();
            }
        }
    }

    fn report(&self) {
        if self.is_terminal {
            // A terminal that cannot be written to does not stop a snapshot.
            let _ = write!(stderr(), "{CLEAR_LINE}{}", bar(self.rows, self.expected, self.started.elapsed()));
        } else {
            tracing::info!(rows = self.rows, "snapshot goes on");
        }
    }

    pub(crate) fn finish(self) {
        if self.is_terminal {
            let _ = write!(stderr(), "{CLEAR_LINE}");
        }
        tracing::info!(rows = self.rows, "snapshot was read");
    }
}

/// The terminal's line. Without an expected number of rows there is no bar.
fn bar(rows: u64, expected: u64, elapsed: Duration) -> String {
    let rate = rows as f64 / elapsed.as_secs_f64().max(0.001);
    let counts = format!("{rows} users, {rate:.0}/s, {}s", elapsed.as_secs());
    match (rows * BAR_WIDTH).checked_div(expected) {
        Some(filled) => {
            let filled = "#".repeat(filled.min(BAR_WIDTH) as usize);
            format!("snapshot [{filled:.<width$}] {counts}", width = BAR_WIDTH as usize)
        }
        None => format!("snapshot {counts}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_the_share_and_stays_full_past_the_expected_number() {
        let after = Duration::from_secs(2);
        let half = format!("snapshot [{}{}] 500 users, 250/s, 2s", "#".repeat(16), ".".repeat(16));
        assert_eq!(bar(500, 1000, after), half);
        assert!(bar(1500, 1000, after).starts_with(&format!("snapshot [{}] 1500 users", "#".repeat(32))));
        assert_eq!(bar(500, 0, after), "snapshot 500 users, 250/s, 2s");
    }
}
