//! Times in binary encodings. Pure.

use crate::model::Timestamp;

/// 0001-01-01 and the last microsecond of 9999 in microseconds since the Unix epoch: libraries for times know no others.
pub(super) const FIRST_MICROS: i64 = -62_135_596_800_000_000;
pub(super) const LAST_MICROS: i64 = 253_402_300_799_999_999;

/// Microseconds since the Unix epoch. An infinity is the nearest time that others can read.
pub(super) fn micros(time: Timestamp) -> i64 {
    match time {
        Timestamp::NEG_INFINITY => FIRST_MICROS,
        time => time.unix_micros().unwrap_or(LAST_MICROS).clamp(FIRST_MICROS, LAST_MICROS),
    }
}
