//! How far a reading of the source is: a bar on a terminal, log lines elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::Instant;

/// Where there is no terminal, the progress is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(5);

pub(super) struct Progress {
    bar: ProgressBar,
    rows: u64,
    logged: Instant,
}

impl Progress {
    /// `expected` rows, as the statistics have it; 0 where they do not know.
    pub(super) fn new(expected: u64) -> Progress {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target((expected > 0).then_some(expected), target);
        if let Ok(style) = ProgressStyle::with_template("snapshot {bar:40} {human_pos} users, {per_sec}, {elapsed}") {
            bar.set_style(style);
        }
        Progress { bar, rows: 0, logged: Instant::now() }
    }

    pub(super) fn row(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(1024) {
            self.bar.set_position(self.rows);
            if self.bar.is_hidden() && self.logged.elapsed() >= LOG_EVERY {
                self.logged = Instant::now();
                tracing::info!(rows = self.rows, "snapshot goes on");
            }
        }
    }

    pub(super) fn finish(self) {
        self.bar.finish_and_clear();
        tracing::info!(rows = self.rows, "snapshot was read");
    }
}
