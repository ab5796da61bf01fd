//! The wall clock: the time now, and ages measured with it. The only reader of `SystemTime`.

use crate::model::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The current time.
pub(crate) fn now() -> Timestamp {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    i64::try_from(micros).ok().and_then(Timestamp::from_unix_micros).unwrap_or(Timestamp(0))
}

/// The time that lies `age` before now. `None` if a timestamp cannot express it.
pub(crate) fn ago(age: Duration) -> Option<Timestamp> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Timestamp::from_unix_micros(i64::try_from(now.checked_sub(age)?.as_micros()).ok()?)
}

/// The time at which something began that has lasted for `seconds`.
pub(crate) fn before(seconds: f64) -> SystemTime {
    let now = SystemTime::now();
    let lasted = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    now.checked_sub(lasted).unwrap_or(now)
}

/// Seconds since `since`. 0 if the clock was set back in between.
pub(crate) fn age(since: SystemTime) -> f64 {
    since.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// Seconds from `earlier` to `later`. The two may come from different clocks, so the result is never negative.
pub(crate) fn seconds_since(earlier: Timestamp, later: Timestamp) -> f64 {
    later.0.saturating_sub(earlier.0).max(0) as f64 / 1e6
}
