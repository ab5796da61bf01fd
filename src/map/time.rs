//! Times from PostgreSQL's text output (ISO DateStyle), from epoch numbers and from RFC 3339. Pure.
//! PostgreSQL's form is parsed by hand: a row has several times, and the years exceed the range of jiff. The calendar
//! itself is [`Timestamp::midnight`].

use crate::model::Timestamp;

/// PostgreSQL's range (timestamp.h: MIN_TIMESTAMP, END_TIMESTAMP): 4714-11-24 BC up to, not including, 294277-01-01.
const MIN_TIMESTAMP: i64 = -211_813_488_000_000_000;
const END_TIMESTAMP: i64 = 9_223_371_331_200_000_000;

/// Parses the output of `timestamptz`, `timestamp` (taken as UTC) or `date` (its midnight in UTC).
/// `None` if the text is none of these, or outside PostgreSQL's range of `timestamptz`.
pub fn parse_timestamp(text: &str) -> Option<Timestamp> {
    match text {
        "infinity" => return Some(Timestamp::INFINITY),
        "-infinity" => return Some(Timestamp::NEG_INFINITY),
        _ => {}
    }
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    let mut rest = text.as_bytes();
    let year = number(&mut rest, 4, 7)?;
    let month = after(&mut rest, b'-')?;
    let day = after(&mut rest, b'-')?;
    // Year 0 is 1 BC in the proleptic Gregorian calendar; PostgreSQL never writes a year 0.
    let year = if before_christ { 1 - year } else { year };
    if !before_christ && year == 0 {
        return None;
    }
    let mut micros = Timestamp::midnight(year, month, day)?;
    if !rest.is_empty() {
        micros = micros.checked_add(time_of_day(&mut rest)?)?.checked_sub(offset(&mut rest)? * 1_000_000)?;
    }
    (rest.is_empty() && in_range(micros)).then_some(Timestamp(micros))
}

/// Parses RFC 3339 text with an offset. Digits after the microsecond are cut off.
pub(crate) fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let commit: jiff::Timestamp = text.trim().parse().ok()?;
    let micros = i64::try_from(commit.as_nanosecond().div_euclid(1000)).ok()?;
    let timestamp = Timestamp::from_unix_micros(micros)?;
    in_range(timestamp.0).then_some(timestamp)
}

/// Parses a number of units since the Unix epoch, an integer or a decimal; a unit has `unit_micros` microseconds.
/// The outer `None` means an invalid number or one out of range; the inner one means 0 or empty: no time.
pub(crate) fn parse_epoch(text: &str, unit_micros: i64) -> Option<Option<Timestamp>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    let unix_micros = match exact_epoch(text, unit_micros) {
        Some(micros) => micros,
        None => float_epoch(text, unit_micros)?,
    };
    if unix_micros == 0 && !text.bytes().any(|b| matches!(b, b'1'..=b'9')) {
        return Some(None);
    }
    let timestamp = Timestamp::from_unix_micros(unix_micros)?;
    in_range(timestamp.0).then_some(Some(timestamp))
}

/// `[-]digits[.digits]`, rounded down to the microsecond.
fn exact_epoch(text: &str, unit_micros: i64) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let mut micros = whole.parse::<i64>().ok()?.checked_mul(unit_micros)?;
    let (mut place, mut lost) = (unit_micros, false);
    for digit in fraction.bytes().map(|b| i64::from(b - b'0')) {
        place /= 10;
        micros = micros.checked_add(place * digit)?;
        lost |= place == 0 && digit != 0;
    }
    Some(if negative { -micros - i64::from(lost) } else { micros })
}

/// Numbers with an exponent, which float8 and JSON may write.
fn float_epoch(text: &str, unit_micros: i64) -> Option<i64> {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
    let micros = (text.parse::<f64>().ok().filter(|_| is_decimal)? * unit_micros as f64).floor();
    // Both bounds are exact as f64, so every number between them fits.
    (micros.abs() < i64::MAX as f64).then_some(micros as i64)
}

fn in_range(micros: i64) -> bool {
    (MIN_TIMESTAMP..END_TIMESTAMP).contains(&micros)
}

/// Takes `least..=most` digits off the front.
fn number(rest: &mut &[u8], least: usize, most: usize) -> Option<i64> {
    let mut value = 0;
    let mut taken = 0;
    while let Some(digit) = rest.get(taken).filter(|b| b.is_ascii_digit() && taken < most) {
        value = value * 10 + i64::from(digit - b'0');
        taken += 1;
    }
    *rest = &rest[taken..];
    (taken >= least).then_some(value)
}

/// Takes a separator and two digits.
fn after(rest: &mut &[u8], separator: u8) -> Option<i64> {
    *rest = rest.strip_prefix(&[separator])?;
    number(rest, 2, 2)
}

/// Takes ` 12:34:56.789`, in microseconds.
fn time_of_day(rest: &mut &[u8]) -> Option<i64> {
    let (hour, minute, second) = (after(rest, b' ')?, after(rest, b':')?, after(rest, b':')?);
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let before = fraction.len();
        *rest = fraction;
        micros = number(rest, 1, 6)?;
        for _ in before - rest.len()..6 {
            micros *= 10;
        }
    }
    let valid = hour <= 24 && minute < 60 && second <= 60;
    valid.then_some(((hour * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

/// Takes `+05`, `+05:30` or `-04:56:02`, in seconds; 0 where there is none.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    let (sign, hours) = match rest.first() {
        Some(b'+') => (1, after(rest, b'+')?),
        Some(b'-') => (-1, after(rest, b'-')?),
        _ => return Some(0),
    };
    let mut part = || if rest.first() == Some(&b':') { after(rest, b':') } else { Some(0) };
    let (minutes, seconds) = (part()?, part()?);
    Some(sign * ((hours * 60 + minutes) * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn postgresqls_own_output_is_parsed() {
        for (text, micros) in [
            ("2000-01-01 00:00:00+00", 0),
            ("2000-01-01 00:00:00", 0),
            ("2000-01-01", 0),
            ("1999-12-31 23:59:59.999999+00", -1),
            ("2000-01-01 00:00:00.5+00", 500_000),
            ("2000-01-01 05:30:00+05:30", 0),
            ("1999-12-31 19:03:58-04:56:02", 0),
            ("2024-02-29 12:34:56.789+00", 762_525_296_789_000),
            ("0044-03-15 00:00:00+00 BC", -64_464_508_800_000_000),
            ("0001-12-31 23:59:59+00 BC", -63_082_281_601_000_000),
            ("4714-11-24 00:00:00+00 BC", MIN_TIMESTAMP),
            ("294276-12-31 23:59:59.999999+00", END_TIMESTAMP - 1),
            ("infinity", i64::MAX),
            ("-infinity", i64::MIN),
        ] {
            assert_eq!(parse_timestamp(text), Some(Timestamp(micros)), "{text}");
        }
    }

    #[test]
    fn an_invalid_time_is_refused() {
        for text in [
            "",
            " BC",
            "now",
            "2024",
            "2024-02-30",
            "2023-02-29",
            "2024-13-01",
            "2024-00-01",
            "0000-01-01",
            "2024-01-01 ",
            "2024-01-01 12:00",
            "2024-01-01T12:00:00",
            "2024-01-01 12:00:00.+00",
            "2024-01-01 12:00:00+",
            "2024-01-01 12:00:00+00:",
            "2024-01-01 12:00:00 PST",
            "294277-01-01 00:00:00+00",
            "5874897-12-31",
            "4714-11-23 BC",
        ] {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn epoch_values_are_exact_and_zero_is_null() {
        let unix = |micros: i64| Some(Timestamp::from_unix_micros(micros));
        for (text, unit, expected) in [
            ("", 1000, Some(None)),
            ("0", 1000, Some(None)),
            ("0.000", 1_000_000, Some(None)),
            ("-0", 1_000_000, Some(None)),
            ("0e0", 1_000_000, Some(None)),
            ("1700000000123", 1000, unix(1_700_000_000_123_000)),
            ("1700000000", 1_000_000, unix(1_700_000_000_000_000)),
            ("1700000000.1234567", 1_000_000, unix(1_700_000_000_123_456)),
            ("-0.5", 1_000_000, unix(-500_000)),
            ("-0.0000001", 1_000_000, unix(-1)),
            ("1.7e9", 1_000_000, unix(1_700_000_000_000_000)),
            ("1e300", 1000, None),
            ("9223372036854775807", 1000, None),
            ("9224318016000000", 1_000, None),
            ("NaN", 1000, None),
            ("inf", 1000, None),
            ("12x", 1000, None),
            (".", 1000, None),
        ] {
            assert_eq!(parse_epoch(text, unit), expected, "{text}");
        }
    }

    #[test]
    fn rfc_3339_needs_an_offset() {
        let expected = Timestamp::from_unix_micros(1_700_000_000_123_456);
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20.123456789Z"), expected);
        assert_eq!(parse_rfc3339("2023-11-15T06:13:20.123456+08:00"), expected);
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20"), None);
        assert_eq!(parse_rfc3339("1700000000"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*", near in "-?[0-9]{0,20}[-.:+ 0-9BCeE]{0,30}") {
            for text in [&text, &near] {
                let _ = (parse_timestamp(text), parse_rfc3339(text), parse_epoch(text, 1), parse_epoch(text, 1_000_000));
            }
        }

        #[test]
        fn every_timestamp_is_read_back_from_its_text(micros in MIN_TIMESTAMP..END_TIMESTAMP) {
            let civil = Timestamp(micros).civil();
            let (year, era) = if civil.year > 0 { (civil.year, "") } else { (1 - civil.year, " BC") };
            let (month, day, hour, minute, second) = (civil.month, civil.day, civil.hour, civil.minute, civil.second);
            let fraction = civil.micros;
            let text = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{fraction:06}+00{era}");
            prop_assert_eq!(parse_timestamp(&text), Some(Timestamp(micros)), "{}", text);
        }

        #[test]
        fn dates_agree_with_a_date_library(days in -700_000i64..2_900_000) {
            let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days));
            if let Ok(date) = date && date.year() > 0 {
                let expected = Timestamp::from_unix_micros(days * 86_400_000_000);
                prop_assert_eq!(parse_timestamp(&date.to_string()), expected);
            }
        }
    }
}
