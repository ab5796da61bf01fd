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
