//! Exponential backoff with jitter. Without jitter, all tenants would retry in step after a shared outage.

use fastrand::Rng;
use std::time::Duration;

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

    /// An attempt succeeded: the next pause is a part of the first step.
    pub(crate) fn reset(&mut self) {
        self.step = self.first;
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
    fn pauses_of_one_seed_repeat() {
        let pauses = |mut backoff: Backoff| [(); 8].map(|()| backoff.step());
        assert_eq!(pauses(seeded(7)), pauses(seeded(7)));
        assert_ne!(pauses(seeded(7)), pauses(seeded(8)));
    }
}
