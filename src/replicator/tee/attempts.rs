//! Pauses between the sessions of the Kafka output, and which of their failures are logged. Pure.

use crate::replicator::backoff::Backoff;
use std::time::Duration;

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(5);
/// A failure after a session of at least this age is logged again.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// The attempts since the last progress.
pub(super) struct Attempts {
    retry: Backoff,
    /// The reason that was logged last, so that a repeated failure is logged once.
    logged: Option<String>,
}

impl Attempts {
    pub(super) fn new() -> Attempts {
        Attempts { retry: Backoff::new(RETRY_FIRST, RETRY_LAST), logged: None }
    }

    /// A session of this age ended. Only progress resets the pauses: a session that only lasted long may fail at the same
    /// message again.
    pub(super) fn session_ended(&mut self, age: Duration, has_progressed: bool) {
        if age > STABLE_AFTER {
            self.logged = None;
        }
        if has_progressed {
            self.retry.reset();
        }
    }

    /// Whether this reason was not the last one. It is from now on.
    pub(super) fn is_news(&mut self, reason: &str) -> bool {
        let is_news = self.logged.as_deref() != Some(reason);
        self.logged = Some(reason.to_owned());
        is_news
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        self.retry.step()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn only_progress_resets_the_pauses_and_not_the_age_of_a_session() {
        let mut attempts = Attempts::new();
        for _ in 0..8 {
            attempts.session_ended(HOUR, false);
            attempts.next_pause();
        }
        attempts.session_ended(HOUR, false);
        assert!(attempts.next_pause() >= RETRY_LAST / 2);
        attempts.session_ended(Duration::ZERO, true);
        assert!(attempts.next_pause() <= RETRY_FIRST);
    }

    #[test]
    fn a_repeated_failure_is_logged_again_only_after_a_long_session_or_another_reason() {
        let mut attempts = Attempts::new();
        assert!(attempts.is_news("a"));
        attempts.session_ended(STABLE_AFTER, true);
        assert!(!attempts.is_news("a"));
        attempts.session_ended(HOUR, false);
        assert!(attempts.is_news("a"));
        assert!(attempts.is_news("b"));
        assert!(attempts.is_news("a"));
    }
}
