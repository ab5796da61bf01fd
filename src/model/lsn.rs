//! A position in the source's write-ahead log, as PostgreSQL counts and writes it. Pure.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log (manual: "pg_lsn Type"). Positions are comparable within one
/// generation only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The invalid position `0/0`, before all others.
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes of log from `earlier` to this position; 0 if `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The error of a text that has not the form `16/B374D848`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log position of the form 16/B374D848")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |half: &str| {
            // `from_str_radix` accepts a sign.
            if half.bytes().all(|b| b.is_ascii_hexdigit()) { u32::from_str_radix(half, 16).ok() } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some((parse(high)?, parse(low)?)))
            .map(|(high, low)| Lsn(u64::from(high) << 32 | u64::from(low)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_written_and_read_as_postgresql_does() {
        for (text, number) in [("0/0", 0), ("16/B374D848", 0x16_B374_D848), ("FFFFFFFF/FFFFFFFF", u64::MAX)] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
            assert_eq!(format!("{:?}", Lsn(number)), text);
        }
    }

    #[test]
    fn an_invalid_position_is_refused() {
        for text in ["", "/", "1/", "/1", "1", "+1/0", "0/100000000", "g/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }

    #[test]
    fn distance_never_wraps() {
        assert_eq!(Lsn(7).bytes_since(Lsn(3)), 4);
        assert_eq!(Lsn(3).bytes_since(Lsn(7)), 0);
    }
}
