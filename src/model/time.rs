//! A moment, as PostgreSQL keeps it.

/// Microseconds since 2000-01-01 00:00:00 UTC, PostgreSQL's own `timestamptz` (8-byte integer form).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Seconds between the Unix epoch and PostgreSQL's.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

impl Timestamp {
    /// `infinity` (DT_NOEND).
    pub const INFINITY: Timestamp = Timestamp(i64::MAX);
    /// `-infinity` (DT_NOBEGIN).
    pub const NEG_INFINITY: Timestamp = Timestamp(i64::MIN);

    /// From microseconds since the Unix epoch; `None` where that does not fit.
    pub fn from_unix_micros(micros: i64) -> Option<Timestamp> {
        micros.checked_sub(POSTGRES_EPOCH_SECONDS * 1_000_000).map(Timestamp)
    }

    /// Milliseconds since the Unix epoch, rounded down; `None` for the infinities.
    pub fn unix_millis_floor(self) -> Option<i64> {
        let finite = self != Timestamp::INFINITY && self != Timestamp::NEG_INFINITY;
        finite.then(|| self.0.div_euclid(1000) + POSTGRES_EPOCH_SECONDS * 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_floored_before_the_epoch_too() {
        assert_eq!(Timestamp(0).unix_millis_floor(), Some(946_684_800_000));
        assert_eq!(Timestamp(1_999).unix_millis_floor(), Some(946_684_800_001));
        assert_eq!(Timestamp(-1).unix_millis_floor(), Some(946_684_799_999));
        assert_eq!(Timestamp::INFINITY.unix_millis_floor(), None);
        assert_eq!(Timestamp::NEG_INFINITY.unix_millis_floor(), None);
    }

    #[test]
    fn unix_microseconds_are_counted_from_2000() {
        assert_eq!(Timestamp::from_unix_micros(946_684_800_000_001), Some(Timestamp(1)));
        assert_eq!(Timestamp::from_unix_micros(i64::MIN), None);
    }
}
