//! The phases of a tenant's worker, and the transitions between them. Pure.
//!
//! ```text
//! Starting --> Following <--> Idle
//!    |          ^   |
//!    v          |   v
//! Joining ------+  Joining
//! ```
//!
//! Every phase may lead to `Parked`. `Parked` leads to `Following` or `Joining`, as the target's checkpoint says.

use crate::model::{Lsn, ResyncReason, UserId};
use crate::replicator::session::expected_joins::ExpectedJoins;
use crate::replicator::source::point_read::PointReadResult;
use crate::route::Batch;
use std::collections::HashMap;
use std::sync::Arc;

/// Where a tenant's worker stands.
pub(crate) enum Phase {
    /// Nothing is known of the target yet.
    ///
    /// Entered when the session begins or the tenant is added to it. Failed connection attempts stay here. Next:
    /// `Following` if the target's checkpoint continues the stream, `Joining` if it does not.
    Starting {
        /// Makes the first snapshot wait for this tenant; gone after the first attempt to connect.
        expected_join: Option<ExpectedJoins>,
        /// The mailbox has gathered since the slot was created, so the slot's own snapshot can be used.
        since_creation: bool,
    },

    /// The target needs a snapshot, and the state says `joining`.
    ///
    /// Entered when the checkpoint does not continue the stream, or when the reading side restarts the tenant. Failed
    /// attempts stay here. Next: `Following` once the snapshot is in the target.
    Joining {
        /// The reason, if it is known better than from state and checkpoint.
        reason: Option<ResyncReason>,
        /// Makes the next snapshot wait for this tenant; gone after the first attempt to connect.
        expected_join: Option<ExpectedJoins>,
    },

    /// The target follows the stream, and the state says `following`.
    ///
    /// Entered from the checkpoint or after a snapshot. Stays here while a lost connection is made again. Next: `Idle` if
    /// nothing waits, `Joining` if the target or the source breaks the sequence of changes.
    Following(ApplyState),

    /// As `Following`, without a connection, so that the target can sleep.
    ///
    /// Entered when nothing has waited for a while. Next: `Following` once a change or a purge is due.
    Idle(ApplyState),

    /// The target is not written to, and the state says `parked`. Its changes are dropped and hold back no log.
    ///
    /// Entered for every [`ParkCause`](crate::model::ParkCause). Failed attempts stay here. Next: `Following` or `Joining`
    /// once the target can be opened.
    Parked {
        /// The reason for a snapshot that was due when the tenant was parked.
        reason: Option<ResyncReason>,
    },
}

/// What a worker knows of the changes that its target lacks.
#[derive(Default)]
pub(crate) struct ApplyState {
    /// The position of the target's checkpoint.
    pub(crate) position: Lsn,
    /// A batch that was taken from the mailbox and is not known to be in the target.
    pub(crate) pending: Option<Batch>,
    /// The end of a chunked transaction whose commit was sent and not answered. The checkpoint tells whether it happened.
    pub(crate) unanswered: Option<Lsn>,
    /// The newest point read of each user. Older changes of that user are in it.
    pub(crate) seen: HashMap<UserId, Arc<PointReadResult>>,
}

/// A batch that had been committed although its answer was lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finished {
    /// The bytes that it occupies in the mailbox.
    pub(crate) bytes: usize,
}

impl ApplyState {
    /// A target that holds everything up to `position`.
    pub(crate) fn at(position: Lsn) -> ApplyState {
        ApplyState { position, ..ApplyState::default() }
    }

    /// Continues from the checkpoint's `position`: what the target holds already is not applied again. Returns the pending
    /// batch if it was committed.
    ///
    /// # Errors
    /// The target lacks a chunked transaction that is no longer in memory.
    pub(crate) fn resume(&mut self, position: Lsn) -> Result<Option<Finished>, ResyncReason> {
        if self.unanswered.take().is_some_and(|end| position < end) {
            return Err(ResyncReason::TransactionLost);
        }
        self.position = position;
        let Some(mut batch) = self.pending.take() else { return Ok(None) };
        if batch.end.is_some_and(|end| end <= position) {
            return Ok(Some(Finished { bytes: batch.bytes }));
        }
        batch.entries.retain(|_, entry| entry.commit_lsn >= position);
        self.pending = Some(batch);
        Ok(None)
    }

    /// The target holds everything up to `end`: point reads before it have no older changes to come.
    pub(crate) fn reached(&mut self, end: Lsn) {
        self.position = end;
        self.seen.retain(|_, read| read.position > end);
    }

    /// Drops changes that a newer point read of the user has seen. Only for batches fresh from the mailbox: a change that a
    /// point read put into a batch is not older than that read.
    pub(crate) fn drop_seen(&self, batch: &mut Batch) {
        if !self.seen.is_empty() {
            batch.entries.retain(|id, entry| !self.seen.get(id).is_some_and(|read| read.seen.contains(entry.xid)));
        }
    }
}

impl Phase {
    /// The position that the target is known to hold; zero if it is not known.
    pub(crate) fn position(&self) -> Lsn {
        match self {
            Phase::Following(apply) | Phase::Idle(apply) => apply.position,
            Phase::Starting { .. } | Phase::Joining { .. } | Phase::Parked { .. } => Lsn::ZERO,
        }
    }

    /// The reason for the next snapshot, if it is known already.
    pub(crate) fn reason(&self) -> Option<ResyncReason> {
        match self {
            Phase::Joining { reason, .. } | Phase::Parked { reason } => *reason,
            Phase::Starting { .. } | Phase::Following(_) | Phase::Idle(_) => None,
        }
    }

    /// Takes the guard that makes a snapshot wait for this tenant.
    pub(crate) fn take_expected_join(&mut self) -> Option<ExpectedJoins> {
        match self {
            Phase::Starting { expected_join, .. } | Phase::Joining { expected_join, .. } => expected_join.take(),
            Phase::Following(_) | Phase::Idle(_) | Phase::Parked { .. } => None,
        }
    }

    /// The connection is closed because nothing waits.
    pub(crate) fn idle(&mut self) {
        if let Phase::Following(apply) = self {
            *self = Phase::Idle(std::mem::take(apply));
        }
    }

    /// Something waits for an idle target.
    pub(crate) fn wake(&mut self) {
        if let Phase::Idle(apply) = self {
            *self = Phase::Following(std::mem::take(apply));
        }
    }

    /// The target's checkpoint continues the stream at `position`.
    ///
    /// # Errors
    /// As [`ApplyState::resume`].
    pub(crate) fn resume(&mut self, position: Lsn) -> Result<(&mut ApplyState, Option<Finished>), ResyncReason> {
        let mut apply = match self {
            Phase::Following(apply) | Phase::Idle(apply) => std::mem::take(apply),
            Phase::Starting { .. } | Phase::Joining { .. } | Phase::Parked { .. } => ApplyState::default(),
        };
        let finished = apply.resume(position)?;
        Ok((self.follow(apply), finished))
    }

    /// A snapshot begins. Returns whether it can be the one of the slot's creation.
    pub(crate) fn join(&mut self) -> bool {
        let since_creation = matches!(self, Phase::Starting { since_creation: true, .. });
        let (reason, expected_join) = (self.reason(), self.take_expected_join());
        *self = Phase::Joining { reason, expected_join };
        since_creation
    }

    /// The snapshot at `position` is in the target.
    pub(crate) fn joined(&mut self, position: Lsn) -> &mut ApplyState {
        self.follow(ApplyState::at(position))
    }

    /// The target needs a snapshot, whatever it holds.
    pub(crate) fn restart(&mut self, reason: ResyncReason, expected_join: ExpectedJoins) {
        *self = Phase::Joining { reason: Some(reason), expected_join: Some(expected_join) };
    }

    /// The tenant is parked.
    pub(crate) fn park(&mut self) {
        *self = Phase::Parked { reason: self.reason() };
    }

    fn follow(&mut self, apply: ApplyState) -> &mut ApplyState {
        *self = Phase::Following(apply);
        match self {
            Phase::Following(apply) => apply,
            _ => unreachable!("entered just now"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Timestamp, Xid};
    use crate::route::Entry;

    fn batch(commits: &[u64], end: Option<u64>) -> Batch {
        let mut batch = Batch { end: end.map(Lsn), ..Batch::default() };
        for commit in commits {
            let change = Change::Delete { id: commit.to_string().into(), at: Timestamp(0) };
            batch.add(Entry { change, commit_lsn: Lsn(*commit), xid: Xid(1) });
        }
        batch.bytes = 7;
        batch
    }

    fn following(position: u64, pending: Batch) -> Phase {
        Phase::Following(ApplyState { pending: Some(pending), ..ApplyState::at(Lsn(position)) })
    }

    #[test]
    fn a_batch_that_was_committed_without_an_answer_is_not_applied_again() {
        let mut phase = following(10, batch(&[12, 15], Some(20)));
        let (apply, finished) = phase.resume(Lsn(20)).unwrap();
        assert_eq!((apply.position, finished), (Lsn(20), Some(Finished { bytes: 7 })));
        assert!(apply.pending.is_none());
    }

    #[test]
    fn a_batch_that_was_not_committed_is_applied_once_more() {
        let mut phase = following(10, batch(&[12, 15], Some(20)));
        let (apply, finished) = phase.resume(Lsn(10)).unwrap();
        assert_eq!(finished, None);
        assert_eq!(apply.pending.as_ref().map(|batch| batch.entries.len()), Some(2));
        // A target that is ahead of a part of the batch gets the rest.
        let (apply, _) = phase.resume(Lsn(13)).unwrap();
        let pending = apply.pending.as_ref().unwrap();
        assert_eq!(pending.entries.keys().map(|id| &**id).collect::<Vec<_>>(), ["15"]);
    }

    #[test]
    fn a_lost_chunked_transaction_needs_a_snapshot_unless_it_was_committed() {
        let unanswered =
            |position| Phase::Following(ApplyState { unanswered: Some(Lsn(20)), ..ApplyState::at(position) });
        assert_eq!(unanswered(Lsn(10)).resume(Lsn(10)).err(), Some(ResyncReason::TransactionLost));
        assert!(unanswered(Lsn(10)).resume(Lsn(20)).is_ok());
    }

    #[test]
    fn an_idle_target_keeps_its_position_and_returns_to_following() {
        let mut phase = Phase::Following(ApplyState::at(Lsn(10)));
        phase.idle();
        assert!(matches!(&phase, Phase::Idle(apply) if apply.position == Lsn(10)));
        phase.wake();
        assert!(matches!(&phase, Phase::Following(apply) if apply.position == Lsn(10)));
    }

    #[test]
    fn only_a_first_snapshot_can_be_the_one_of_the_slots_creation() {
        let mut phase = Phase::Starting { expected_join: Some(ExpectedJoins::default()), since_creation: true };
        assert!(phase.join());
        assert!(matches!(phase, Phase::Joining { reason: None, expected_join: Some(_) }));
        assert!(!phase.join(), "the mailbox was opened again since");
        let mut phase = Phase::Starting { expected_join: None, since_creation: true };
        phase.park();
        assert!(!phase.join());
    }

    #[test]
    fn what_waited_is_dropped_by_a_restart_and_the_reason_outlasts_being_parked() {
        let mut phase = following(10, batch(&[12], Some(20)));
        phase.restart(ResyncReason::SourceTruncated, ExpectedJoins::default());
        assert_eq!((phase.position(), phase.reason()), (Lsn::ZERO, Some(ResyncReason::SourceTruncated)));
        phase.park();
        assert_eq!(phase.reason(), Some(ResyncReason::SourceTruncated));
        assert!(!phase.join());
        assert_eq!(phase.reason(), Some(ResyncReason::SourceTruncated));
        assert_eq!(phase.joined(Lsn(30)).position, Lsn(30));
        assert_eq!(phase.reason(), None);
    }
}
