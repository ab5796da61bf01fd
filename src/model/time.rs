//! A moment, as PostgreSQL keeps it.

use std::fmt;

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

    /// Microseconds since the Unix epoch; `None` for the infinities, and where that does not fit.
    pub fn unix_micros(self) -> Option<i64> {
        let finite = self != Timestamp::INFINITY && self != Timestamp::NEG_INFINITY;
        self.0.checked_add(POSTGRES_EPOCH_SECONDS * 1_000_000).filter(|_| finite)
    }

    /// Milliseconds since the Unix epoch, rounded down; `None` for the infinities.
    pub fn unix_millis_floor(self) -> Option<i64> {
        let finite = self != Timestamp::INFINITY && self != Timestamp::NEG_INFINITY;
        finite.then(|| self.0.div_euclid(1000) + POSTGRES_EPOCH_SECONDS * 1000)
    }
}

/// ISO 8601 in UTC with microseconds, `2024-05-01T12:00:00.000001Z`; a year past four digits has a sign, an infinity is
/// its word.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Timestamp::INFINITY => return f.write_str("infinity"),
            Timestamp::NEG_INFINITY => return f.write_str("-infinity"),
            Timestamp(_) => {}
        }
        let (day, micros) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil(day);
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+07}")?,
        }
        let seconds = micros / 1_000_000;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", micros % 1_000_000)
    }
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// Year, month and day of the proleptic Gregorian calendar, from days since 2000-01-01.
fn civil(day: i64) -> (i64, i64, i64) {
    // Counted from the first of March of a year that is a multiple of 400: the leap day is the last of its year.
    let since = day - 60 + 146_097;
    let (era, day) = (since.div_euclid(146_097), since.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (year, day) = (year + 1600 + era * 400, day - (153 * month + 2) / 5 + 1);
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_before_the_epoch_are_floored() {
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

    #[test]
    fn timestamps_are_shown_in_the_civil_calendar() {
        for (micros, expected) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (59 * DAY, "2000-02-29T00:00:00.000000Z"),
            (60 * DAY + 3_723_000_004, "2000-03-01T01:02:03.000004Z"),
            (i64::MAX, "infinity"),
            (i64::MIN, "-infinity"),
        ] {
            assert_eq!(Timestamp(micros).to_string(), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn timestamps_are_shown_as_jiff_shows_them(unix in -377_705_023_201_i64..253_402_207_200, micros in 0..1_000_000_i64) {
            let moment = Timestamp::from_unix_micros(unix * 1_000_000 + micros).unwrap();
            let shown = moment.to_string();
            let parsed: jiff::Timestamp = shown.parse().unwrap();
            proptest::prop_assert_eq!(parsed.as_microsecond(), unix * 1_000_000 + micros, "{}", shown);
        }
    }
}
