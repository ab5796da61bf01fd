//! Bounds how long a target may work on a snapshot without progress. The time that the source takes does not count.

use super::outcome::LoadError;
use crate::sync::lock;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// Progress is an answer of the target, or bytes of COPY that it took.
pub(crate) struct ProgressWatch {
    limit: Duration,
    /// The last progress; `None` while the source is waited for.
    last: Mutex<Option<Instant>>,
}

impl ProgressWatch {
    pub(crate) fn new(limit: Duration) -> ProgressWatch {
        ProgressWatch { limit, last: Mutex::new(Some(Instant::now())) }
    }

    /// Notes progress.
    pub(crate) fn progressed(&self) {
        *lock(&self.last) = Some(Instant::now());
    }

    /// Waits for something other than the target.
    pub(crate) async fn pause<T>(&self, work: impl Future<Output = T>) -> T {
        *lock(&self.last) = None;
        let done = work.await;
        self.progressed();
        done
    }

    /// Runs `work`, which notes its progress.
    ///
    /// # Errors
    /// Those of `work`, and that it made no progress for too long.
    pub(crate) async fn bound<T>(&self, work: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.stalled() => Err(LoadError::NoProgress { within: self.limit }),
        }
    }

    async fn stalled(&self) {
        loop {
            let last = *lock(&self.last);
            match last {
                None => sleep(self.limit).await,
                Some(last) if last.elapsed() >= self.limit => return,
                Some(last) => sleep_until(last + self.limit).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn only_a_target_that_makes_no_progress_is_given_up() {
        let watch = ProgressWatch::new(LIMIT);
        let slow = async {
            for _ in 0..5 {
                sleep(LIMIT * 9 / 10).await;
                watch.progressed();
            }
            watch.pause(sleep(LIMIT * 10)).await;
            sleep(LIMIT * 9 / 10).await;
            Ok(1)
        };
        assert!(matches!(watch.bound(slow).await, Ok(1)));
        let begun = Instant::now();
        let silent = async {
            watch.pause(sleep(LIMIT / 2)).await;
            std::future::pending::<Result<(), LoadError>>().await
        };
        assert!(matches!(watch.bound(silent).await, Err(LoadError::NoProgress { within: LIMIT })));
        assert_eq!(begun.elapsed(), LIMIT * 3 / 2);
    }
}
