//! Exponential backoff with jitter. Without jitter, all tenants would retry in step after a shared outage.

use crate::sync::lock;
use fastrand::Rng;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Steps that double from `first` to `last`. Each pause is a random part of its step, between one half and the whole.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
    step: Duration,
    rng: Rng,
}

impl Backoff {
    pub(crate) fn new(first: Duration, last: Duration) -> Self {
        Backoff { first, last, step: first, rng: new_rng() }
    }

    /// The pause before the next attempt.
    pub(crate) fn step(&mut self) -> Duration {
        let step = self.step;
        self.step = (step * 2).min(self.last);
        step.mul_f64(0.5 + self.rng.f64() / 2.0)
    }

    /// Whether nothing has failed since the last success.
    pub(crate) fn is_fresh(&self) -> bool {
        self.step == self.first
    }

    /// An attempt succeeded: the next pause is a part of the first step.
    pub(crate) fn reset(&mut self) {
        self.step = self.first;
    }
}

/// A backoff for each cause: another error starts with the first pause, and what fails in between does not shorten the
/// pauses of what fails again.
#[derive(Debug)]
pub(crate) struct Backoffs<C> {
    first: Duration,
    last: Duration,
    of: HashMap<C, Backoff>,
}

impl<C: Eq + Hash> Backoffs<C> {
    pub(crate) fn new(first: Duration, last: Duration) -> Self {
        Backoffs { first, last, of: HashMap::new() }
    }

    /// The pause before the next attempt after a failure for this cause.
    pub(crate) fn step(&mut self, cause: C) -> Duration {
        self.of.entry(cause).or_insert_with(|| Backoff::new(self.first, self.last)).step()
    }

    /// Whether nothing has failed since the last success.
    pub(crate) fn is_fresh(&self) -> bool {
        self.of.is_empty()
    }

    /// An attempt succeeded: every cause starts over.
    pub(crate) fn reset(&mut self) {
        self.of.clear();
    }
}

/// Spreads the attempts of many tenants: between two of them is at least `gap`.
pub(crate) struct Turns {
    gap: Duration,
    next: Mutex<Option<Instant>>,
}

impl Turns {
    pub(crate) fn new(gap: Duration) -> Turns {
        Turns { gap, next: Mutex::default() }
    }

    /// Takes the first free turn from `now` on.
    pub(crate) fn take(&self, now: Instant) -> Instant {
        let mut next = lock(&self.next);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.gap);
        turn
    }
}

#[cfg(not(test))]
fn new_rng() -> Rng {
    Rng::new()
}

/// Unit tests and the simulation repeat exactly.
#[cfg(test)]
fn new_rng() -> Rng {
    Rng::with_seed(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(200);
    const LAST: Duration = Duration::from_secs(30);

    fn seeded(seed: u64) -> Backoff {
        Backoff { rng: Rng::with_seed(seed), ..Backoff::new(FIRST, LAST) }
    }

    #[test]
    fn pauses_are_between_half_of_a_step_and_the_whole() {
        for seed in 0..200 {
            let mut backoff = seeded(seed);
            for attempt in 0..12 {
                let step = (FIRST * (1 << attempt)).min(LAST);
                let pause = backoff.step();
                assert!(step / 2 <= pause && pause <= step, "seed {seed}, attempt {attempt}: {pause:?} of {step:?}");
            }
            backoff.reset();
            assert!(backoff.step() <= FIRST, "seed {seed}");
        }
    }

    #[test]
    fn a_thousand_tenants_do_not_retry_in_step() {
        let mut pauses: Vec<Duration> = (0..1000).map(|seed| seeded(seed).step()).collect();
        pauses.sort();
        // Their first retries are spread over half of the step, 100 ms: at most 40 in any 2 ms, where 20 are the mean.
        let crowded = pauses.windows(41).find(|window| window[40] - window[0] < Duration::from_millis(2));
        assert_eq!(crowded, None);
        assert!(pauses[999] - pauses[0] > Duration::from_millis(95));
    }

    #[test]
    fn another_cause_starts_with_the_first_pause_and_does_not_shorten_the_others() {
        let mut backoffs = Backoffs::new(FIRST, LAST);
        for _ in 0..12 {
            backoffs.step("down");
        }
        assert!(backoffs.step("login") <= FIRST);
        assert!(backoffs.step("down") >= LAST / 2);
        backoffs.reset();
        assert!(backoffs.step("down") <= FIRST);
    }

    #[test]
    fn at_most_five_turns_are_taken_in_a_second() {
        let turns = Turns::new(Duration::from_millis(200));
        let now = Instant::now();
        let taken: Vec<Duration> = (0..20).map(|_| turns.take(now) - now).collect();
        assert_eq!(taken[0], Duration::ZERO);
        assert!(taken.windows(6).all(|six| six[5] - six[0] >= Duration::from_secs(1)), "{taken:?}");
        // Free turns are not saved up.
        let later = now + Duration::from_secs(60);
        assert_eq!(
            [turns.take(later) - later, turns.take(later) - later],
            [Duration::ZERO, Duration::from_millis(200)]
        );
    }

    #[test]
    fn pauses_of_one_seed_repeat() {
        let pauses = |mut backoff: Backoff| [(); 8].map(|()| backoff.step());
        assert_eq!(pauses(seeded(7)), pauses(seeded(7)));
        assert_ne!(pauses(seeded(7)), pauses(seeded(8)));
    }
}
