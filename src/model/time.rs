//! A timestamp as PostgreSQL stores it. Pure.

use jiff::SignedDuration;
use jiff::civil::{Date, date};
use std::fmt;

/// Microseconds since 2000-01-01 00:00:00 UTC: the 8-byte integer form of `timestamptz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Seconds from the Unix epoch to PostgreSQL's.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

impl Timestamp {
    /// `infinity` (DT_NOEND).
    pub const INFINITY: Timestamp = Timestamp(i64::MAX);
    /// `-infinity` (DT_NOBEGIN).
    pub const NEG_INFINITY: Timestamp = Timestamp(i64::MIN);

    /// Converts microseconds since the Unix epoch; `None` on overflow.
    pub fn from_unix_micros(micros: i64) -> Option<Timestamp> {
        micros.checked_sub(POSTGRES_EPOCH_SECONDS * 1_000_000).map(Timestamp)
    }

    /// Microseconds since the Unix epoch; `None` for the infinities and on overflow.
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

/// ISO 8601 in UTC with microseconds, `2024-05-01T12:00:00.000001Z`. A year beyond four digits has a sign; an
/// infinity is written as PostgreSQL writes it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Timestamp::INFINITY => return f.write_str("infinity"),
            Timestamp::NEG_INFINITY => return f.write_str("-infinity"),
            Timestamp(_) => {}
        }
        let CivilTime { year, month, day, hour, minute, second, micros } = self.civil();
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+07}")?,
        }
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

/// A timestamp in UTC, in the proleptic Gregorian calendar.
pub(crate) struct CivilTime {
    /// Astronomical: 0 is 1 BC.
    pub(crate) year: i64,
    pub(crate) month: i8,
    pub(crate) day: i8,
    pub(crate) hour: i8,
    pub(crate) minute: i8,
    pub(crate) second: i8,
    /// Microseconds of the second.
    pub(crate) micros: i32,
}

/// The Gregorian calendar repeats every 400 years. Eras are counted from PostgreSQL's epoch.
const ERA_YEARS: i64 = 400;
const ERA_START: i64 = 2000;
const ERA_FIRST_DAY: Date = date(2000, 1, 1);
const ERA_MICROS: i64 = 146_097 * 86_400_000_000;

impl Timestamp {
    /// Midnight of a date, in microseconds. `year` is astronomical. `None` if there is no such date, or on overflow.
    ///
    /// As in [`Timestamp::civil`], jiff computes within an era of 400 years: PostgreSQL's years reach 294276, jiff's 9999.
    pub(crate) fn midnight(year: i64, month: i64, day: i64) -> Option<i64> {
        let years = year - ERA_START;
        let in_era = i16::try_from(ERA_START + years.rem_euclid(ERA_YEARS)).ok()?;
        let date = Date::new(in_era, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
        let micros = date.duration_since(ERA_FIRST_DAY).as_micros();
        // The first day of the lowest era is beyond 64 bits, later ones are not.
        i64::try_from(i128::from(years.div_euclid(ERA_YEARS)) * i128::from(ERA_MICROS) + micros).ok()
    }

    /// Date and time of day of a finite timestamp.
    pub(crate) fn civil(self) -> CivilTime {
        let (era, micros) = (self.0.div_euclid(ERA_MICROS), self.0.rem_euclid(ERA_MICROS));
        let time = ERA_FIRST_DAY.at(0, 0, 0, 0).saturating_add(SignedDuration::from_micros(micros));
        CivilTime {
            year: i64::from(time.year()) + era * ERA_YEARS,
            month: time.month(),
            day: time.day(),
            hour: time.hour(),
            minute: time.minute(),
            second: time.second(),
            micros: time.subsec_nanosecond() / 1000,
        }
    }
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
        const DAY: i64 = 86_400_000_000;
        for (micros, expected) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (59 * DAY, "2000-02-29T00:00:00.000000Z"),
            (60 * DAY + 3_723_000_004, "2000-03-01T01:02:03.000004Z"),
            (ERA_MICROS - 1, "2399-12-31T23:59:59.999999Z"),
            (ERA_MICROS, "2400-01-01T00:00:00.000000Z"),
            // The bounds of PostgreSQL's range: timestamp.h, MIN_TIMESTAMP and END_TIMESTAMP.
            (-211_813_488_000_000_000, "-004713-11-24T00:00:00.000000Z"),
            (9_223_371_331_199_999_999, "+294276-12-31T23:59:59.999999Z"),
            (-730_120 * DAY, "0000-12-31T00:00:00.000000Z"),
            (-730_486 * DAY, "-000001-12-31T00:00:00.000000Z"),
            (i64::MAX, "infinity"),
            (i64::MIN, "-infinity"),
        ] {
            assert_eq!(Timestamp(micros).to_string(), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn timestamps_are_shown_as_jiff_shows_them(unix in -377_705_023_201_i64..253_402_207_200, micros in 0..1_000_000_i64) {
            let timestamp = Timestamp::from_unix_micros(unix * 1_000_000 + micros).unwrap();
            let shown = timestamp.to_string();
            let parsed: jiff::Timestamp = shown.parse().unwrap();
            proptest::prop_assert_eq!(parsed.as_microsecond(), unix * 1_000_000 + micros, "{}", shown);
        }

        #[test]
        fn every_finite_timestamp_has_a_date_that_leads_back_to_it(micros in proptest::num::i64::ANY) {
            let civil = Timestamp(micros).civil();
            // Days before a year, by the usual sum of leap years.
            let before = |year: i64| {
                let year = year - 1;
                year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)
            };
            let leap = before(civil.year + 1) - before(civil.year) == 366;
            let months = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let of_year: i64 = months[..civil.month as usize - 1].iter().sum::<i64>() + i64::from(civil.day) - 1;
            let seconds = (i64::from(civil.hour) * 60 + i64::from(civil.minute)) * 60 + i64::from(civil.second);
            let days = i128::from(before(civil.year) - before(2000) + of_year);
            let back = days * 86_400_000_000 + i128::from(seconds) * 1_000_000 + i128::from(civil.micros);
            proptest::prop_assert_eq!(back, i128::from(micros));
            let midnight = i128::from(micros.div_euclid(86_400_000_000)) * 86_400_000_000;
            let found = Timestamp::midnight(civil.year, civil.month.into(), civil.day.into());
            proptest::prop_assert_eq!(found, i64::try_from(midnight).ok());
        }
    }
}
