//! The progress of a scan: a bar on a terminal, log lines elsewhere.

use crate::map::{Rules, is_tenant_a_text};
use crate::pg::PgClient;
use crate::replicator::source::mapping::MappedRelation;
use crate::snapshot::{RowStream, SourceReadError};
use crate::status::progress_handle::ProgressHandle;
use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;
use tokio::time::Instant;

/// Without a terminal, the interval of log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(5);
/// The shortest interval at which the bar is drawn.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);
/// ANSI: back to the first column, then erase the line.
const CLEAR_LINE: &str = "\r\x1b[2K";
/// In characters; the line fits a terminal of 80 columns.
const BAR_WIDTH: u64 = 32;

/// The planner's estimate of the rows to scan. 0 if it can only guess: it has no statistics for values that are not
/// compared in the column's own type.
pub(crate) async fn expected_rows(
    client: &PgClient,
    rules: &Rules,
    mapped: &MappedRelation,
    condition: &str,
) -> Result<u64, SourceReadError> {
    if condition.is_empty() || is_tenant_a_text(rules, &mapped.relation) {
        return RowStream::expected(client, &mapped.from, condition).await;
    }
    Ok(0)
}

pub(crate) struct ScanProgress {
    expected: u64,
    handle: ProgressHandle,
    rows: u64,
    is_terminal: bool,
    started: Instant,
    reported: Instant,
}

impl ScanProgress {
    /// `expected` is 0 if the number of rows is unknown.
    pub(crate) fn new(expected: u64, handle: ProgressHandle) -> ScanProgress {
        handle.set(0, expected);
        let now = Instant::now();
        ScanProgress { expected, handle, rows: 0, is_terminal: stderr().is_terminal(), started: now, reported: now }
    }

    pub(crate) fn add_row(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(1024) {
            self.handle.set(self.rows, self.expected);
            let interval = if self.is_terminal { DRAW_INTERVAL } else { LOG_INTERVAL };
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
            tracing::info!(rows = self.rows, "reading snapshot");
        }
    }

    pub(crate) fn finish(self) {
        if self.is_terminal {
            let _ = write!(stderr(), "{CLEAR_LINE}");
        }
        tracing::info!(rows = self.rows, "snapshot read");
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
