//! Reads COPY's text format (manual: COPY, "Text Format"). Pure.

use crate::model::Cell;
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
