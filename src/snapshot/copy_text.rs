//! Reads and writes COPY's text format (manual: COPY, "Text Format"). Pure.

use crate::model::{Cell, CivilTime, Timestamp, User};
use std::io::Write;
use std::ops::Range;

/// Splits one line into values. The line has values for the decoded columns only.
pub(crate) struct LineReader {
    /// A value that makes its row larger keeps its escapes: the row will be set aside, so it is not copied.
    max_row: usize,
    unescaped: Vec<u8>,
    fields: Vec<Field>,
}

enum Field {
    Null,
    /// A range of the line.
    Plain(Range<usize>),
    /// A range of `unescaped`.
    Escaped(Range<usize>),
}

impl LineReader {
    pub(crate) fn new(max_row: usize) -> LineReader {
        LineReader { max_row, unescaped: Vec::new(), fields: Vec::new() }
    }

    /// Reads the values of `line`, with or without its newline, into `cells`: one per column of `decoded`.
    /// `false` if the number of values is wrong.
    pub(crate) fn read<'a>(&'a mut self, line: &'a [u8], decoded: &[bool], cells: &mut Vec<Cell<'a>>) -> bool {
        self.split(line.strip_suffix(b"\n").unwrap_or(line));
        if self.fields.len() != decoded.iter().filter(|wanted| **wanted).count() {
            return false;
        }
        let mut fields = self.fields.iter();
        cells.clear();
        cells.extend(decoded.iter().map(|wanted| {
            if !wanted {
                return Cell::Excluded;
            }
            match fields.next() {
                None => Cell::Excluded,
                Some(Field::Null) => Cell::Null,
                Some(Field::Plain(range)) => Cell::Text(&line[range.clone()]),
                Some(Field::Escaped(range)) => Cell::Text(&self.unescaped[range.clone()]),
            }
        }));
        true
    }

    fn split(&mut self, line: &[u8]) {
        self.unescaped.clear();
        self.fields.clear();
        let mut start = 0;
        for field in line.split(|byte| *byte == b'\t') {
            let range = start..start + field.len();
            start = range.end + 1;
            self.fields.push(if field == br"\N" {
                Field::Null
            } else if field.contains(&b'\\') && self.unescaped.len() + unescaped_length(field) <= self.max_row {
                let from = self.unescaped.len();
                unescape(field, &mut self.unescaped);
                Field::Escaped(from..self.unescaped.len())
            } else {
                Field::Plain(range)
            });
        }
    }
}

fn unescaped_length(field: &[u8]) -> usize {
    let mut escapes = 0;
    let mut bytes = field.iter();
    while bytes.any(|byte| *byte == b'\\') {
        // An escaped backslash begins no other escape.
        bytes.next();
        escapes += 1;
    }
    field.len() - escapes
}

fn unescape(field: &[u8], out: &mut Vec<u8>) {
    let mut bytes = field.iter();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'b') => 0x08,
                Some(b'f') => 0x0c,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 0x0b,
                Some(other) => *other,
                None => b'\\',
            },
            plain => *plain,
        });
    }
}

/// Appends a user as a line of a COPY into these columns.
pub(crate) fn write_user<'a>(out: &mut Vec<u8>, columns: impl Iterator<Item = &'a str>, user: &User) {
    let mut first = true;
    for column in columns {
        if !std::mem::take(&mut first) {
            out.push(b'\t');
        }
        match column {
            "id" => escape(out, Some(&user.id)),
            // Without a document, the row cannot be mapped.
            "raw_json" => escape(out, Some(&*user.raw_json).filter(|document| !document.is_empty())),
            "name" => escape(out, user.name.as_deref()),
            "email" => escape(out, user.email.as_deref()),
            "created_at" => time(out, user.created_at),
            "updated_at" => time(out, user.updated_at),
            "deleted_at" => time(out, user.deleted_at),
            _ => out.push(if user.updated_at_derived { b't' } else { b'f' }),
        }
    }
    out.push(b'\n');
}

fn escape(out: &mut Vec<u8>, value: Option<&str>) {
    let Some(value) = value else { return out.extend_from_slice(br"\N") };
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            b'\t' => b't',
            b'\n' => b'n',
            b'\r' => b'r',
            _ => b'\\',
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Writes a timestamp in a form that `timestamptz_in` accepts under any session settings.
fn time(out: &mut Vec<u8>, value: Option<Timestamp>) {
    match value {
        None => out.extend_from_slice(br"\N"),
        Some(Timestamp::INFINITY) => out.extend_from_slice(b"infinity"),
        Some(Timestamp::NEG_INFINITY) => out.extend_from_slice(b"-infinity"),
        Some(timestamp) => {
            let CivilTime { year, month, day, hour, minute, second, micros } = timestamp.civil();
            let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
            // Writing into a Vec cannot fail.
            let _ = write!(out, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}+00{era}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_that_makes_its_row_too_large_is_not_copied() {
        let line = b"a\\\\b\t\\n\\n\\n\tplain";
        let read = |max_row: usize| {
            let mut reader = LineReader::new(max_row);
            let mut cells = Vec::new();
            assert!(reader.read(line, &[true, true, true], &mut cells));
            let texts = cells.iter().map(|cell| match cell {
                Cell::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
                _ => unreachable!(),
            });
            texts.collect::<Vec<_>>()
        };
        assert_eq!(read(6), ["a\\b", "\n\n\n", "plain"]);
        assert_eq!(read(5), ["a\\b", r"\n\n\n", "plain"]);
    }

    #[test]
    fn a_line_yields_only_the_requested_values() {
        let mut reader = LineReader::new(usize::MAX);
        let mut cells = Vec::new();
        assert!(reader.read(b"u1\t\\N\ta\\tb\\\\N\t\n", &[true, false, true, true, true], &mut cells));
        assert_eq!(cells, [Cell::Text(b"u1"), Cell::Excluded, Cell::Null, Cell::Text(b"a\tb\\N"), Cell::Text(b"")]);
    }

    #[test]
    fn a_wrong_number_of_values_is_an_error() {
        assert!(!LineReader::new(usize::MAX).read(b"a\tb", &[true], &mut Vec::new()));
    }

    #[test]
    fn timestamps_are_written_unambiguously() {
        const DAY: i64 = 86_400_000_000;
        let written = |micros| {
            let mut out = Vec::new();
            time(&mut out, Some(Timestamp(micros)));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(0), "2000-01-01 00:00:00.000000+00");
        assert_eq!(written(-1), "1999-12-31 23:59:59.999999+00");
        assert_eq!(written(60 * DAY + 3_661_000_001), "2000-03-01 01:01:01.000001+00");
        assert_eq!(written(-730_119 * DAY), "0001-01-01 00:00:00.000000+00");
        assert_eq!(written(-730_120 * DAY), "0001-12-31 00:00:00.000000+00 BC");
        assert_eq!(written(-211_813_488_000_000_000), "4714-11-24 00:00:00.000000+00 BC");
        assert_eq!(written(9_223_371_331_199_999_999), "294276-12-31 23:59:59.999999+00");
        assert_eq!(written(i64::MAX), "infinity");
        assert_eq!(written(i64::MIN), "-infinity");
    }

    proptest! {
        #[test]
        fn written_rows_are_read_back_unchanged(id in any::<String>(), name in any::<Option<String>>()) {
            let user = User {
                id: id.as_str().into(), raw_json: "{}".into(), name: name.clone(), email: None, created_at: None,
                updated_at: None, deleted_at: None, updated_at_derived: true,
            };
            let mut line = Vec::new();
            write_user(&mut line, ["id", "name", "derived"].into_iter(), &user);
            let mut cells = Vec::new();
            let mut reader = LineReader::new(usize::MAX);
            prop_assert!(reader.read(&line, &[true, true, true], &mut cells));
            let name = name.as_ref().map_or(Cell::Null, |name| Cell::Text(name.as_bytes()));
            prop_assert_eq!(&cells[..], &[Cell::Text(id.as_bytes()), name, Cell::Text(b"t")]);
        }
    }
}
