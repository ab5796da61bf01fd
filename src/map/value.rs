//! A compiled value: which cells it reads, and how their texts become the value. Pure.

use super::json::{clean, find, scalar_text};
use super::unmappable::{DOCUMENT, Unmappable};
use super::{parse_epoch, parse_rfc3339, parse_timestamp};
use crate::model::{Cell, ColumnIdx, Set, Timestamp};
use std::borrow::Cow;

/// A new tuple, and the old one for values that were not sent again.
#[derive(Clone, Copy)]
pub(super) struct RowImage<'a> {
    pub new: &'a [Cell<'a>],
    pub old: Option<&'a [Cell<'a>]>,
}

/// One column of a tuple.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent<'a> {
    Text(&'a [u8]),
    Null,
    Unsent,
}

impl<'a> RowImage<'a> {
    pub(super) fn get(&self, column: ColumnIdx) -> Sent<'a> {
        match column.of(self.new) {
            Some(Cell::Text(text)) => Sent::Text(text),
            Some(Cell::Null) => Sent::Null,
            Some(Cell::Unchanged) => match self.old.and_then(|old| column.of(old)) {
                Some(Cell::Text(text)) => Sent::Text(text),
                Some(Cell::Null) => Sent::Null,
                Some(Cell::Unchanged | Cell::Excluded | Cell::Absent) | None => Sent::Unsent,
            },
            Some(Cell::Excluded | Cell::Absent) | None => Sent::Unsent,
        }
    }
}

/// A column that a value reads.
#[derive(Clone, Debug)]
pub(super) struct Input {
    pub column: ColumnIdx,
    /// For errors.
    pub name: String,
    pub form: Form,
}

/// How the text of an input column is read.
#[derive(Clone, Debug)]
pub(super) enum Form {
    Plain,
    /// `char(n)`: without the padding, like its cast to text.
    Padded,
    /// `true` and `false`, as in JSON.
    Bool,
    /// The value at a path in a document; `cleaned` for json, which accepts more than jsonb does.
    Json {
        path: Vec<String>,
        cleaned: bool,
    },
}

/// A value, as far as the tuple determines it.
pub(super) enum Known<T> {
    /// Every column that it depends on was sent.
    Value(T),
    /// No column that it depends on was sent: the value is unchanged.
    Unsent,
    /// Some columns were sent, and others were not.
    Mixed,
}

#[derive(Clone, Debug)]
pub(super) enum Text {
    One(Input),
    First(Vec<Text>),
    Join { parts: Vec<Text>, with: String },
    Unless { value: Box<Text>, set: Input },
    Constant(String),
}

/// A time: the first of these that is not null.
#[derive(Clone, Debug)]
pub(super) struct TimeSources(pub Vec<(Input, TimeForm)>);

/// The mapped values of one row, each as far as it is known.
pub(super) struct MappedValues<'a> {
    pub name: Set<Option<Cow<'a, str>>>,
    pub email: Set<Option<Cow<'a, str>>>,
    pub created_at: Set<Option<Timestamp>>,
    pub updated_at: Set<Option<Timestamp>>,
    pub deleted_at: Set<Option<Timestamp>>,
    /// As in [`User`](crate::model::User).
    pub updated_at_derived: bool,
}

/// How the text of a time is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeForm {
    /// The output of timestamptz, timestamp and date.
    Native,
    /// A number of units since the Unix epoch; the length of one in microseconds.
    Epoch(i64),
    /// Text, with an offset.
    Rfc3339,
}

impl<T> Known<T> {
    /// For a patch; `None` if the row has to be read again.
    pub(super) fn set(self) -> Option<Set<T>> {
        match self {
            Known::Value(value) => Some(Set::To(value)),
            Known::Unsent => Some(Set::Keep),
            Known::Mixed => None,
        }
    }
}

impl Input {
    /// The text, where null and '' are `None`. The outer `None` means that it was not sent.
    fn read<'a>(&self, row: RowImage<'a>) -> Result<Option<Option<Cow<'a, str>>>, Unmappable> {
        Ok(self.raw(row)?.map(|text| text.filter(|text| !text.is_empty())))
    }

    /// As `read`, but '' is a text.
    pub(super) fn raw<'a>(&self, row: RowImage<'a>) -> Result<Option<Option<Cow<'a, str>>>, Unmappable> {
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
            // Stripped escapes are counted when the column goes into `raw_json`.
            Form::Json { path, cleaned: true } => self.at_path(clean(text, &mut 0), path)?,
            Form::Json { path, cleaned: false } => self.at_path(Cow::Borrowed(text), path)?,
        };
        Ok(Some(text))
    }

    fn at_path<'a>(&self, document: Cow<'a, str>, path: &[String]) -> Result<Option<Cow<'a, str>>, Unmappable> {
        let malformed = |_| Unmappable::Malformed { column: self.name.clone(), expected: DOCUMENT };
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
    pub(super) fn inputs(&self) -> Vec<&Input> {
        match self {
            Text::One(input) => vec![input],
            Text::First(parts) | Text::Join { parts, .. } => parts.iter().flat_map(Text::inputs).collect(),
            Text::Unless { value, set } => value.inputs().into_iter().chain([set]).collect(),
            Text::Constant(_) => Vec::new(),
        }
    }

    /// The columns whose texts can be a part of the value. A condition on a column is none.
    pub(super) fn carried(&self) -> Vec<&Input> {
        match self {
            Text::One(input) => vec![input],
            Text::First(parts) | Text::Join { parts, .. } => parts.iter().flat_map(Text::carried).collect(),
            Text::Unless { value, .. } => value.carried(),
            Text::Constant(_) => Vec::new(),
        }
    }

    pub(super) fn read<'a>(&self, row: RowImage<'a>) -> Result<Known<Option<Cow<'a, str>>>, Unmappable> {
        Ok(match self.value(row)? {
            Some(value) => Known::Value(value),
            None if self.any_sent(row) => Known::Mixed,
            None => Known::Unsent,
        })
    }

    /// The outer `None` means that it depends on a column that was not sent.
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
    pub(super) fn read(&self, row: RowImage<'_>) -> Result<Known<Option<Timestamp>>, Unmappable> {
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
