//! JSON fields that several formats share. Pure.

use crate::model::{Timestamp, push_string};
use std::fmt::Write;

/// Appends `,"key":"time"`, or `,"key":null`.
pub(super) fn push_time(key: &str, time: Option<Timestamp>, out: &mut String) {
    match time {
        // Writing to a `String` cannot fail.
        Some(time) => {
            let _ = write!(out, ",\"{key}\":\"{time}\"");
        }
        None => {
            let _ = write!(out, ",\"{key}\":null");
        }
    }
}

/// Appends `,"key":"text"`, or `,"key":null`.
pub(super) fn push_text(key: &str, text: Option<&str>, out: &mut String) {
    let _ = write!(out, ",\"{key}\":");
    match text {
        Some(text) => push_string(text, out),
        None => out.push_str("null"),
    }
}

/// Reads the text that [`push_time`] writes; `None` for any other text.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    match text {
        "infinity" => return Some(Timestamp::INFINITY),
        "-infinity" => return Some(Timestamp::NEG_INFINITY),
        _ => {}
    }
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    // The sign of a year is no separator.
    let separator = 1 + date.get(1..)?.find('-')?;
    let (year, rest) = date.split_at_checked(separator)?;
    let (month, day) = rest.strip_prefix('-')?.split_once('-')?;
    let (clock, micros) = time.split_once('.')?;
    let clock: Vec<i64> = clock.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    let midnight = Timestamp::midnight(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)?;
    let of_day: i64 =
        ((hour * 60 + minute) * 60 + second) * 1_000_000 + micros.parse::<i64>().ok().filter(|_| micros.len() == 6)?;
    midnight.checked_add(of_day).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_time_is_read_as_it_is_written(micros in -211_813_488_000_000_000_i64..9_223_371_331_200_000_000) {
            let time = Timestamp(micros);
            prop_assert_eq!(parse_time(&time.to_string()), Some(time));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC{0,40}") {
            let _ = parse_time(&text);
        }
    }

    #[test]
    fn the_infinities_are_read_and_other_texts_are_not() {
        for time in [Timestamp::INFINITY, Timestamp::NEG_INFINITY] {
            assert_eq!(parse_time(&time.to_string()), Some(time));
        }
        for text in
            ["", "Z", "2024-05-01", "2024-05-01T12:00:00Z", "2024-13-01T00:00:00.000000Z", "2024-05-01T1:2:3:4.000000Z"]
        {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}
