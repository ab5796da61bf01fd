//! Turns in which targets are written to while the stream is behind.
//!
//! With many tenants, a small transaction costs far more than the rows in it. While the stream is behind, few targets are
//! written to at once: the changes of the others gather meanwhile and form larger transactions. While the stream is up to date,
//! nothing waits here.

use crate::model::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The stream is behind if the source sends a commit so long after it happened, in microseconds by the source's clock. It takes
/// 200 ms to send one that was not flushed at once: `synchronous_commit = off`, and the default of `wal_writer_delay`.
const BEHIND_MICROS: i64 = 250_000;
/// The longest wait for a turn. Slow targets delay each batch of the others by no more.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// The longest turn. A statement that takes longer goes on without one: its target is far away, or waits for a lock.
const MAX_TURN: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct ApplyTurns {
    turns: Arc<Semaphore>,
    is_behind: AtomicBool,
}

/// A turn, until it is dropped.
pub(crate) type Turn = OwnedSemaphorePermit;

impl ApplyTurns {
    /// As many turns at once as there are processors, and at least two.
    pub(crate) fn new() -> ApplyTurns {
        ApplyTurns { turns: Arc::new(Semaphore::new(turns_at_once())), is_behind: AtomicBool::new(false) }
    }

    /// For another session of this process. Both share the turns; each stream may be behind while the other is not.
    #[cfg(feature = "kafka")]
    pub(crate) fn share(&self) -> ApplyTurns {
        ApplyTurns { turns: self.turns.clone(), is_behind: AtomicBool::new(false) }
    }

    /// The source has sent a commit. Both times are by its clock.
    pub(crate) fn note_commit(&self, committed: Timestamp, sent: Timestamp) {
        self.is_behind.store(sent.0.saturating_sub(committed.0) > BEHIND_MICROS, Ordering::Relaxed);
    }

    /// Waits for a turn while the stream is behind. `None`: no turn is needed.
    pub(crate) async fn take(&self) -> Option<Turn> {
        if !self.is_behind.load(Ordering::Relaxed) {
            return None;
        }
        timeout(MAX_WAIT, self.turns.clone().acquire_owned()).await.ok()?.ok()
    }
}

fn turns_at_once() -> usize {
    available_parallelism().map_or(1, usize::from).max(2)
}

/// Does some work within a turn. The turn ends before the work does if that takes longer than [`MAX_TURN`].
pub(crate) async fn within<T>(turn: Option<Turn>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Some(turn) = turn {
        if let Ok(done) = timeout(MAX_TURN, &mut work).await {
            return done;
        }
        drop(turn);
    }
    work.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::time::Instant;

    fn behind() -> ApplyTurns {
        let turns = ApplyTurns::new();
        turns.note_commit(Timestamp(0), Timestamp(BEHIND_MICROS + 1));
        turns
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_while_the_stream_is_up_to_date() {
        let turns = behind();
        let mut taken = Vec::new();
        while let Some(Some(turn)) = turns.take().now_or_never() {
            taken.push(turn);
        }
        assert_eq!(taken.len(), turns_at_once());
        turns.note_commit(Timestamp(0), Timestamp(BEHIND_MICROS));
        assert!(turns.take().now_or_never().is_some_and(|turn| turn.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_takes_too_long_ends_and_so_does_the_wait_for_one() {
        let turns = behind();
        let mut taken = Vec::new();
        while let Some(turn) = turns.take().await {
            taken.push(turn);
        }
        let started = Instant::now();
        assert!(turns.take().await.is_none());
        assert_eq!(started.elapsed(), MAX_WAIT);
        let slow = within(taken.pop(), tokio::time::sleep(10 * MAX_TURN));
        let next = async {
            let turn = turns.take().await;
            (turn.is_some(), started.elapsed())
        };
        let ((), next) = tokio::join!(slow, next);
        assert_eq!(next, (true, MAX_WAIT + MAX_TURN));
    }
}
