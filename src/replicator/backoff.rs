//! Waiting longer after each failure.

use std::time::Duration;

/// Doubles from `first` to `last`.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, last: Duration) -> Self {
        Backoff { first, last, next: first }
    }

    /// How long to wait now.
    pub(crate) fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.last);
        now
    }

    /// It worked: the next failure is a first one again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_maximum_and_reset() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let mut steps = || [backoff.step(), backoff.step(), backoff.step()].map(|wait| wait.as_secs());
        assert_eq!(steps(), [1, 2, 3]);
        backoff.reset();
        assert_eq!(backoff.step().as_secs(), 1);
    }
}
