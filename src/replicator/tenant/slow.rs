//! Statements that a time limit ends: the next ones write fewer rows. A target that does not write even one row is parked,
//! and takes no snapshot before it does.

use crate::model::{ParkCause, RetryCause};
use crate::replicator::failure_policy;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::target::{Connector, TargetAccess};
use crate::replicator::tenant::worker::Worker;
use crate::route::Batch;
use crate::state::StateAccess;

/// Rows of a snapshot's first statements after those without a limit were ended.
const FIRST_PART: usize = 1_000;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Notes that the statement of a whole batch failed. Returns whether smaller statements may fit.
    pub(super) fn is_too_slow(&self, stop: &StopReason, batch: &Batch) -> bool {
        let rows = batch.entries.len();
        match stop {
            StopReason::Retry { cause: RetryCause::TooSlow, .. } => {
                self.size.too_slow(rows);
                if let (1, Some(entry)) = (rows, batch.entries.values().next()) {
                    self.size.stuck_at(&entry.change);
                }
                rows > 1
            }
            StopReason::Retry { cause: RetryCause::TargetError | RetryCause::NoAnswer, .. } => {
                self.size.lost(rows);
                false
            }
            _ => {
                self.note_no_answer(stop);
                false
            }
        }
    }

    /// Notes that the load of a snapshot failed. A load in parts has noted its own statements.
    pub(super) fn note_failed_load(&self, stop: StopReason, in_parts: bool) -> StopReason {
        match stop {
            StopReason::Retry { cause: RetryCause::TooSlow, reason, .. } if in_parts => self.too_slow(&reason),
            StopReason::Retry { cause: RetryCause::TooSlow, reason, .. } => {
                self.size.too_slow(2 * FIRST_PART);
                StopReason::retry(RetryCause::TooSlow, reason)
            }
            StopReason::Retry { cause: RetryCause::TargetError, reason, .. } if !in_parts => {
                self.size.lost(4 * FIRST_PART);
                StopReason::retry(RetryCause::TargetError, reason)
            }
            stop => {
                self.note_no_answer(&stop);
                stop
            }
        }
    }

    /// Notes that a statement ran for longer than `limits.park_after`, if that is why the work stopped.
    pub(super) fn note_no_answer(&self, stop: &StopReason) {
        if matches!(stop, StopReason::Park { cause: ParkCause::Away, .. }) {
            self.size.unanswered();
        }
    }

    /// Parks the tenant: no statement can be made smaller.
    pub(super) fn too_slow(&self, reason: &str) -> StopReason {
        failure_policy::of_too_slow(reason, &self.handle.configured().target.user).into()
    }

    /// Tries the row that alone took too long, unless a person has requested the snapshot.
    ///
    /// # Errors
    /// It still takes too long. A snapshot would read the source's table without success.
    pub(super) async fn try_stuck_row(&mut self, target: &mut C::Target) -> Result<(), StopReason> {
        let Some(change) = self.size.take_stuck().filter(|_| self.attempted_request.is_none()) else { return Ok(()) };
        match self.await_answer(target.try_change(&change)).await {
            Ok(()) | Err(StopReason::Refused(_)) => Ok(()),
            Err(stop) => {
                self.size.stuck_at(&change);
                Err(match stop {
                    StopReason::Retry { cause: RetryCause::TooSlow, reason, .. } => self.too_slow(&reason),
                    stop => stop,
                })
            }
        }
    }
}
