//! The pauses after scans that were aborted because another session waited for their locks. Without pauses, a migration of many
//! statements would meet a new scan again and again.

use crate::replicator::backoff::Backoff;
use crate::sync::lock;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Aborted scans in a row that are followed by the next one without a pause.
const FREE_ABORTS: u32 = 3;
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Aborted scans of a session.
#[derive(Debug, Default)]
pub(crate) struct ScanAborts(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    in_a_row: u32,
    backoff: Backoff,
    until: Option<Instant>,
}

/// No scan begins for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScanPause {
    /// Aborted scans in a row.
    pub(crate) aborted: u32,
    pub(crate) left: Duration,
}

impl fmt::Display for ScanPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ScanPause { aborted, left } = self;
        write!(
            f,
            "its snapshot waits {} s: {aborted} scans were aborted, each for a session that waited for a lock at the source",
            left.as_secs() + 1
        )
    }
}

impl Default for Inner {
    fn default() -> Inner {
        Inner { in_a_row: 0, backoff: Backoff::new(PAUSE_MIN, PAUSE_MAX), until: None }
    }
}

impl ScanAborts {
    /// A scan was aborted.
    pub(crate) fn add(&self) {
        let mut inner = lock(&self.0);
        inner.in_a_row += 1;
        if inner.in_a_row >= FREE_ABORTS {
            inner.until = Some(Instant::now() + inner.backoff.step());
        }
    }

    /// A scan has ended otherwise.
    pub(crate) fn clear(&self) {
        *lock(&self.0) = Inner::default();
    }

    /// The pause that is not over yet.
    pub(crate) fn pause(&self) -> Option<ScanPause> {
        let inner = lock(&self.0);
        let left = inner.until?.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(ScanPause { aborted: inner.in_a_row, left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn the_third_aborted_scan_and_those_after_it_are_followed_by_growing_pauses() {
        let aborts = ScanAborts::default();
        aborts.add();
        aborts.add();
        assert_eq!(aborts.pause(), None);
        let mut last = Duration::ZERO;
        for aborted in 3..9 {
            aborts.add();
            let pause = aborts.pause().unwrap();
            assert_eq!(pause.aborted, aborted);
            assert!(pause.left > last && pause.left <= PAUSE_MAX, "{pause:?} after {last:?}");
            // The random part of a pause is less than half of its step.
            last = pause.left / 2;
            advance(pause.left).await;
            assert_eq!(aborts.pause(), None);
        }
        aborts.clear();
        aborts.add();
        assert_eq!(aborts.pause(), None);
    }
}
