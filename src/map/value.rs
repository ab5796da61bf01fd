//! A mapped value, compiled against a relation: which cells it reads and how a row's text becomes the value.

use super::json::{clean, find, scalar_text};
use super::unmappable::Unmappable;
use super::{parse_epoch, parse_rfc3339, parse_timestamp};
use crate::model::{Cell, Set, Timestamp};
use std::borrow::Cow;

/// A tuple, with the old one behind it for what was not sent again.
#[derive(Clone, Copy)]
pub(super) struct RowImage<'a> {
    pub new: &'a [Cell<'a>],
    pub old: Option<&'a [Cell<'a>]>,
}

/// What a tuple says of one column.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent<'a> {
    Text(&'a [u8]),
    Null,
    Unsent,
}

impl<'a> RowImage<'a> {
    pub fn get(&self, column: usize) -> Sent<'a> {
        match self.new.get(column) {
            Some(Cell::Text(text)) => Sent::Text(text),
            Some(Cell::Null) => Sent::Null,
            Some(Cell::Unchanged) => match self.old.and_then(|old| old.get(column)) {
                Some(Cell::Text(text)) => Sent::Text(text),
                Some(Cell::Null) => Sent::Null,
                Some(Cell::Unchanged | Cell::Excluded | Cell::Absent) | None => Sent::Unsent,
            },
            Some(Cell::Excluded | Cell::Absent) | None => Sent::Unsent,
        }
    }
}

/// A column as values read it.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// Its place in the relation.
    pub column: usize,
    /// Its name, for errors.
    pub name: String,
    /// How its text is read.
    pub form: Form,
}

/// How the text of an input column is read.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// As it is.
    Plain,
    /// `char(n)`: without the padding, as its cast to text.
    Padded,
    /// `true` and `false`, as in JSON.
    Bool,
    /// What a path leads to in a document; `cleaned` for json, which holds more than jsonb takes.
    Json { path: Vec<String>, cleaned: bool },
}

/// What a value is, as far as the tuple tells.
pub(super) enum Known<T> {
    /// All that it depends on was sent.
    Value(T),
    /// Nothing that it depends on was sent: it is what it was.
    Unsent,
    /// It depends on what was sent and on what was not.
    Mixed,
}

/// A text value.
#[derive(Clone, Debug)]
pub(super) enum Text {
    One(Input),
    First(Vec<Text>),
    Join { parts: Vec<Text>, with: String },
    Unless { value: Box<Text>, set: Input },
    Constant(String),
}

/// A moment: the first of its sources that says one.
#[derive(Clone, Debug)]
pub(super) struct TimeSources(pub Vec<(Input, TimeForm)>);

/// How the text of a time is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// As PostgreSQL writes timestamptz, timestamp and date.
    Native,
    /// A number of units, each so many microseconds long.
    Epoch(i64),
    /// Text with an offset.
    Rfc3339,
}

impl<T> Known<T> {
    /// As a patch takes it; `None` where the row has to be read again.
    pub fn set(self) -> Option<Set<T>> {
        match self {
            Known::Value(value) => Some(Set::To(value)),
            Known::Unsent => Some(Set::Keep),
            Known::Mixed => None,
        }
    }
}

impl Input {
    /// The text; null and '' are `None`. The outer `None`: it was not sent.
    fn read<'a>(&self, row: RowImage<'a>) -> Result<Option<Option<Cow<'a, str>>>, Unmappable> {
        Ok(self.raw(row)?.map(|text| text.filter(|text| !text.is_empty())))
    }

    /// The same, where '' is a text like any other.
    pub fn raw<'a>(&self, row: RowImage<'a>) -> Result<Option<Option<Cow<'a, str>>>, Unmappable> {
        let bytes = match row.get(self.column) {
            Sent::Text(bytes) => bytes,
            Sent::Null => return Ok(Some(None)),
            Sent::Unsent => return Ok(None),
        };
        let text = std::str::from_utf8(bytes).map_err(|_| Unmappable::NotUtf8 { column: self.name.clone() })?;
        let text = match &self.form {
            Form::Plain => Some(Cow::Borrowed(text)),
            Form::Padded => Some(Cow::Borrowed(text.trim_end_matches(' '))),
            Form::Bool => Some(Cow::Borrowed(if text == "t" { "true" } else { "false" })),
            // What is taken out is counted where the column goes into `raw_json`.
            Form::Json { path, cleaned: true } => self.at_path(clean(text, &mut 0), path)?,
            Form::Json { path, cleaned: false } => self.at_path(Cow::Borrowed(text), path)?,
        };
        Ok(Some(text))
    }

    fn at_path<'a>(&self, document: Cow<'a, str>, path: &[String]) -> Result<Option<Cow<'a, str>>, Unmappable> {
        let malformed = |_| Unmappable::Malformed { column: self.name.clone(), expected: "JSON document" };
        Ok(match document {
            Cow::Borrowed(document) => match find(document, path).map_err(malformed)? {
                Some(value) => scalar_text(value).map_err(malformed)?,
                None => None,
            },
            Cow::Owned(document) => match find(&document, path).map_err(malformed)? {
                Some(value) => scalar_text(value).map_err(malformed)?.map(|text| Cow::Owned(text.into_owned())),
                None => None,
            },
        })
    }
}

impl Text {
    pub fn inputs(&self) -> Vec<&Input> {
        match self {
            Text::One(input) => vec![input],
            Text::First(parts) | Text::Join { parts, .. } => parts.iter().flat_map(Text::inputs).collect(),
            Text::Unless { value, set } => value.inputs().into_iter().chain([set]).collect(),
            Text::Constant(_) => Vec::new(),
        }
    }

    pub fn read<'a>(&self, row: RowImage<'a>) -> Result<Known<Option<Cow<'a, str>>>, Unmappable> {
        Ok(match self.value(row)? {
            Some(value) => Known::Value(value),
            None if self.any_sent(row) => Known::Mixed,
            None => Known::Unsent,
        })
    }

    /// The outer `None`: it depends on what was not sent.
    fn value<'a>(&self, row: RowImage<'a>) -> Result<Option<Option<Cow<'a, str>>>, Unmappable> {
        match self {
            Text::One(input) => input.read(row),
            Text::First(parts) => {
                for part in parts {
                    match part.value(row)? {
                        Some(None) => {}
                        found => return Ok(found),
                    }
                }
                Ok(Some(None))
            }
            Text::Join { parts, with } => {
                let mut joined: Option<Cow<'a, str>> = None;
                for part in parts {
                    let Some(part) = part.value(row)? else { return Ok(None) };
                    joined = match (joined, part) {
                        (None, part) => part,
                        (joined, None) => joined,
                        (Some(joined), Some(part)) => {
                            let mut text = joined.into_owned();
                            text.push_str(with);
                            text.push_str(&part);
                            Some(Cow::Owned(text))
                        }
                    };
                }
                Ok(Some(joined))
            }
            Text::Unless { value, set } => match set.read(row)? {
                Some(None) => value.value(row),
                Some(Some(_)) => Ok(Some(None)),
                None => Ok(None),
            },
            Text::Constant(text) => Ok(Some(Some(Cow::Owned(text.clone())))),
        }
    }

    fn any_sent(&self, row: RowImage<'_>) -> bool {
        match self {
            Text::One(input) => row.get(input.column) != Sent::Unsent,
            Text::First(parts) | Text::Join { parts, .. } => parts.iter().any(|part| part.any_sent(row)),
            Text::Unless { value, set } => value.any_sent(row) || row.get(set.column) != Sent::Unsent,
            Text::Constant(_) => true,
        }
    }
}

impl TimeSources {
    pub fn read(&self, row: RowImage<'_>) -> Result<Known<Option<Timestamp>>, Unmappable> {
        for (input, form) in &self.0 {
            let Some(text) = input.read(row)? else {
                let any_sent = self.0.iter().any(|(input, _)| row.get(input.column) != Sent::Unsent);
                return Ok(if any_sent { Known::Mixed } else { Known::Unsent });
            };
            let Some(text) = text else { continue };
            let (time, expected) = match form {
                TimeForm::Native => (parse_timestamp(&text).map(Some), "time within PostgreSQL's range of timestamptz"),
                TimeForm::Epoch(unit) => (parse_epoch(&text, *unit), "number of seconds or milliseconds since 1970"),
                TimeForm::Rfc3339 => (parse_rfc3339(&text).map(Some), "RFC 3339 time with an offset"),
            };
            match time {
                Some(Some(time)) => return Ok(Known::Value(Some(time))),
                Some(None) => {}
                None => return Err(Unmappable::Malformed { column: input.name.clone(), expected }),
            }
        }
        Ok(Known::Value(None))
    }
}
