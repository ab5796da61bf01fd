//! Parsers of sizes, durations and percentages. Pure.

use std::time::Duration;

const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1 << 10),
    ("KB", 1 << 10),
    ("KiB", 1 << 10),
    ("MB", 1 << 20),
    ("MiB", 1 << 20),
    ("GB", 1 << 30),
    ("GiB", 1 << 30),
    ("TB", 1 << 40),
];

const TIMES: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `16MB`, `1 GiB`, `4096`. As in postgresql.conf, MB and MiB are both 1024 kB.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

/// `500ms`, `5s`, `10m`, `2h`, `30d`. The unit is required.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, factor) = TIMES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor).map(Duration::from_millis)
}

/// `10%`, `2.5 %`: from 0 to 100.
pub(super) fn parse_percent(text: &str) -> Option<f64> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    // `f64` also accepts a sign, an exponent and `inf`.
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    number.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_use_the_units_of_postgresql_conf() {
        for (text, expected) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("7B", Some(7)),
            ("1kB", Some(1024)),
            ("16MiB", Some(16 << 20)),
            ("256MB", Some(256 << 20)),
            (" 1 GB ", Some(1 << 30)),
            ("1GiB", Some(1 << 30)),
            ("2TB", Some(2 << 40)),
            ("", None),
            ("GB", None),
            ("1.5GB", None),
            ("-1", None),
            ("1gb", None),
            ("99999999TB", None),
        ] {
            assert_eq!(parse_size(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, seconds) in [("5s", 5.0), ("500ms", 0.5), ("10m", 600.0), ("2 h", 7200.0), ("30d", 2_592_000.0)] {
            assert_eq!(parse_duration(text).map(|d| d.as_secs_f64()), Some(seconds), "{text:?}");
        }
        for text in ["", "5", "s", "1.5s", "5 min", "-5s", "99999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn percentages_lie_between_0_and_100() {
        for (text, percent) in [("10%", 10.0), ("2.5 %", 2.5), ("0%", 0.0), ("100%", 100.0)] {
            assert_eq!(parse_percent(text), Some(percent), "{text:?}");
        }
        for text in ["", "%", "10", "101%", "-1%", "nan%", "1e1%"] {
            assert_eq!(parse_percent(text), None, "{text:?}");
        }
    }
}
