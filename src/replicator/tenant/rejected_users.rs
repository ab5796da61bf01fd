//! The users that a target has rejected, and when they are tried again.
//!
//! Users are tried after batches that wrote something, as another row may have given way, and with growing pauses, as an
//! application may have dropped a constraint or a trigger.

use crate::apply::{RecordedUser, RefusedUser};
use crate::model::{IdHash, UserId};
use crate::replicator::backoff::Backoff;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Minimum time between two attempts, and the first pause after one without success.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// An attempt's pause is at least this many times as long as the attempt took.
const DUTY: u32 = 10;
/// A sleeping target is not woken for less. After this time it is tried once.
const ASLEEP: Duration = Duration::from_secs(3600);

/// The users in a target's `users_sync.rejected`.
pub(crate) struct RejectedUsers {
    users: HashMap<IdHash, Rejected>,
    due: Option<Instant>,
    last: Option<Instant>,
    backoff: Backoff,
    attempts: u64,
    /// The users accepted since the start.
    accepted: usize,
}

struct Rejected {
    /// `None` for an id that is not stored as it is: its row can never be accepted.
    id: Option<UserId>,
    /// Another user's row stands in the way.
    is_conflict: bool,
    /// The number of the last attempt.
    tried: u64,
}

impl RejectedUsers {
    pub(super) fn new() -> RejectedUsers {
        let backoff = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        RejectedUsers { users: HashMap::new(), due: None, last: None, backoff, attempts: 0, accepted: 0 }
    }

    /// A connection begins: these are recorded in the target.
    pub(super) fn load(&mut self, recorded: Vec<RecordedUser>) {
        let entry = |RecordedUser { key, id, is_conflict }: RecordedUser| (key, Rejected { id, is_conflict, tried: 0 });
        self.users = recorded.into_iter().map(entry).collect();
        self.due = Some(Instant::now());
        self.backoff.reset();
    }

    /// A snapshot has tried all users and left out these.
    pub(super) fn replace(&mut self, refused: &[RefusedUser]) {
        self.users.clear();
        self.add(refused);
    }

    /// These were rejected just now.
    pub(super) fn add(&mut self, refused: &[RefusedUser]) {
        let was_empty = self.users.is_empty();
        let mut may_fit_soon = was_empty && !refused.is_empty();
        for user in refused {
            let (id, is_conflict) = (Some(user.id.clone()), user.refusal.is_conflict());
            may_fit_soon |= is_conflict && !self.contains(&user.id);
            self.users.insert(IdHash::of(&user.id), Rejected { id, is_conflict, tried: self.attempts });
        }
        if was_empty {
            self.backoff.reset();
        }
        // The pause of earlier users may have grown.
        if may_fit_soon {
            let soon = Instant::now() + PAUSE_MIN;
            self.due = Some(self.due.filter(|_| !was_empty).map_or(soon, |due| due.min(soon)));
        }
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.accepted += usize::from(self.users.remove(&IdHash::of(id)).is_some());
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        !self.users.is_empty() && self.users.contains_key(&IdHash::of(id))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether another user's row stands in the way of this one.
    pub(super) fn is_conflict(&self, id: &str) -> bool {
        self.users.get(&IdHash::of(id)).is_some_and(|user| user.is_conflict)
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// The number of users that were rejected and then accepted.
    pub(super) fn accepted(&self) -> usize {
        self.accepted
    }

    /// Rows were written: a value that a rejected user wants may be free.
    pub(super) fn others_changed(&mut self) {
        if self.users.values().any(|user| user.is_conflict) {
            let soon = self.last.map_or_else(Instant::now, |last| last + PAUSE_MIN);
            self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// Whether users should be tried now.
    pub(super) fn is_due(&self) -> bool {
        !self.users.is_empty() && self.due.is_some_and(|due| due <= Instant::now())
    }

    /// Waits for that.
    pub(super) async fn due(&self) {
        match self.due.filter(|_| !self.users.is_empty()) {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// As [`RejectedUsers::due`], for a target that sleeps.
    pub(super) async fn due_asleep(&self) {
        match self.users.is_empty() {
            true => std::future::pending().await,
            false => sleep_until(Instant::now() + ASLEEP).await,
        }
    }

    /// Begins an attempt with at most `limit` users: those that have not been tried for the longest time.
    pub(super) fn take(&mut self, limit: usize) -> Vec<String> {
        self.attempts += 1;
        let attempts = self.attempts;
        let mut users: Vec<&mut Rejected> = self.users.values_mut().filter(|user| user.id.is_some()).collect();
        users.sort_unstable_by_key(|user| user.tried);
        users.truncate(limit);
        let tried = users.into_iter().filter_map(|user| {
            user.tried = attempts;
            user.id.as_deref().map(str::to_owned)
        });
        let tried = tried.collect();
        // Before the attempt, so that a lost connection does not repeat it at once.
        self.due = Some(Instant::now() + self.backoff.step());
        tried
    }

    /// An attempt has ended that began at `started`. It has accepted `accepted` users; others may have given way to them.
    pub(super) fn tried(&mut self, started: Instant, accepted: usize) {
        let now = Instant::now();
        let has_more = self.users.values().any(|user| user.id.is_some() && user.tried < self.attempts);
        if accepted > 0 || has_more {
            self.backoff.reset();
            self.due = Some(now + self.backoff.step());
        }
        let earliest = now + (now - started) * DUTY;
        (self.last, self.due) = (Some(now), self.due.map(|due| due.max(earliest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Refusal;

    fn recorded(id: &str) -> RecordedUser {
        RecordedUser { key: IdHash::of(id), id: Some(id.into()), is_conflict: true }
    }

    #[tokio::test(start_paused = true)]
    async fn all_users_are_tried_in_turn_with_growing_pauses() {
        let mut rejected = RejectedUsers::new();
        rejected.load((0..5).map(|n| recorded(&n.to_string())).collect());
        let mut tried = Vec::new();
        for _ in 0..3 {
            assert!(rejected.is_due());
            let started = Instant::now();
            tried.extend(rejected.take(2));
            rejected.tried(started, 0);
            assert!(!rejected.is_due());
            rejected.due().await;
        }
        tried.sort();
        tried.dedup();
        assert_eq!(tried.len(), 5);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let started = Instant::now();
            rejected.take(9);
            rejected.tried(started, 0);
            rejected.due().await;
            pauses.push(started.elapsed());
        }
        assert!(pauses[0] <= 2 * PAUSE_MIN && pauses[11] >= PAUSE_MAX / 2 && pauses[11] <= PAUSE_MAX, "{pauses:?}");
        // A write brings the next attempt forward, but not to the same second.
        let started = Instant::now();
        rejected.take(9);
        rejected.tried(started, 0);
        rejected.others_changed();
        rejected.due().await;
        assert!(started.elapsed() <= PAUSE_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_and_new_conflicts_end_a_long_pause() {
        let mut rejected = RejectedUsers::new();
        rejected.load((0..5).map(|n| recorded(&n.to_string())).collect());
        let grow = |rejected: &mut RejectedUsers| {
            for _ in 0..12 {
                rejected.take(9);
                rejected.tried(Instant::now(), 0);
            }
        };
        grow(&mut rejected);
        // A deleted user gave way to the accepted one: as many are rejected as before.
        let started = Instant::now();
        rejected.take(9);
        rejected.remove("0");
        rejected.tried(started, rejected.accepted());
        rejected.due().await;
        assert!(started.elapsed() <= PAUSE_MIN);
        grow(&mut rejected);
        let started = Instant::now();
        rejected.add(&[RefusedUser { id: "1".into(), refusal: Refusal::duplicate() }]);
        rejected.add(&[RefusedUser { id: "new".into(), refusal: Refusal::duplicate() }]);
        assert!(rejected.due.is_some_and(|due| due > started + PAUSE_MIN), "neither can fit soon");
        rejected.remove("1");
        let conflict = Refusal { sqlstate: "23505".into(), ..Refusal::duplicate() };
        rejected.add(&[RefusedUser { id: "1".into(), refusal: conflict }]);
        rejected.due().await;
        assert!(started.elapsed() <= PAUSE_MIN);
    }
}
