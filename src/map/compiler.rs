//! Names held against a relation: what each is there, and every mistake at once, with what to change.

use super::json::{base_type, oid};
use super::value::{Form, Input, Text, TimeForm, TimeSources};
use super::{TimeUnit, Value};
use crate::model::{Oid, Relation, ReplicaIdentity, TableName, TypeCatalog};
use crate::pg::{quote_ident, quote_table};
use std::fmt;

/// The mapping does not fit the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    /// The mapped table.
    pub table: TableName,
    /// All that is wrong.
    pub problems: Vec<Problem>,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mapping does not fit {}:", self.table)?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  users.{problem}"))
    }
}

/// One mistake, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such column.
    #[error("{key}: there is no column {column:?}{}", did_you_mean(nearest))]
    NoColumn {
        /// The configuration's key below `users`.
        key: &'static str,
        /// What it names.
        column: String,
        /// The most similar column there is.
        nearest: Option<String>,
    },
    /// A path into a column that is no document.
    #[error(
        "{key}: {path:?} is a path into {column:?}, which is not of type json or jsonb; name a column, or a path into a json column"
    )]
    NotJson {
        /// The configuration's key below `users`.
        key: &'static str,
        /// As it is written.
        path: String,
        /// The column that it begins with.
        column: String,
    },
    /// A number that could be seconds or milliseconds.
    #[error("{key}: column {column:?} is a number; say its unit: `{key}: {{column: {column}, unit: ms}}` (or `s`)")]
    NoUnit {
        /// The configuration's key below `users`.
        key: &'static str,
        /// The column.
        column: String,
    },
    /// A unit for what needs none or cannot have it.
    #[error("{key}: column {column:?} is {what}, which has no such unit; write `{key}: {remedy}`")]
    WrongUnit {
        /// The configuration's key below `users`.
        key: &'static str,
        /// The column.
        column: String,
        /// What it is instead.
        what: &'static str,
        /// What to write.
        remedy: String,
    },
    /// A type that says no time.
    #[error(
        "{key}: column {column:?} is of a type that cannot be read as a time; name a timestamptz, timestamp, date, number or text column"
    )]
    NotTime {
        /// The configuration's key below `users`.
        key: &'static str,
        /// The column.
        column: String,
    },
    /// A time where a text is wanted, or texts joined where a time is.
    #[error("{key}: {what}")]
    WrongShape {
        /// The configuration's key below `users`.
        key: &'static str,
        /// What is wrong and what to write.
        what: &'static str,
    },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name:?}?"),
        None => "; name a column that the table has, or leave the key out".to_owned(),
    }
}

pub(super) fn identity_gap(inputs: &[&Input], relation: &Relation) -> Vec<String> {
    let carried = |column: usize| match relation.replica_identity {
        ReplicaIdentity::Full => true,
        ReplicaIdentity::Nothing => false,
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            relation.columns.get(column).is_some_and(|column| column.in_identity)
        }
    };
    let mut gap: Vec<String> = Vec::new();
    for input in inputs.iter().filter(|input| !carried(input.column)) {
        if !gap.contains(&input.name) {
            gap.push(input.name.clone());
        }
    }
    gap
}

/// An index where one can be: its columns have to be NOT NULL, and json has no order.
pub(super) fn remedy(inputs: &[&Input], relation: &Relation) -> String {
    let table = quote_table(&relation.table);
    let full = format!("ALTER TABLE {table} REPLICA IDENTITY FULL;");
    if inputs.iter().any(|input| matches!(input.form, Form::Json { .. })) {
        return format!("run: {full}");
    }
    let mut columns: Vec<String> = Vec::new();
    for column in inputs.iter().map(|input| quote_ident(&input.name)) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let columns = columns.join(", ");
    format!(
        "run: CREATE UNIQUE INDEX users_sync_identity ON {table} ({columns}); ALTER TABLE {table} REPLICA IDENTITY \
         USING INDEX users_sync_identity; (each column has to be NOT NULL), or: {full}"
    )
}

/// Holds names against a relation, and gathers what does not fit.
pub(super) struct Compiler<'a> {
    relation: &'a Relation,
    types: &'a TypeCatalog,
    problems: Vec<Problem>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(relation: &'a Relation, types: &'a TypeCatalog) -> Compiler<'a> {
        Compiler { relation, types, problems: Vec::new() }
    }

    /// All mistakes at once, if there are any.
    pub(super) fn finish(self) -> Result<(), CompileError> {
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(CompileError { table: self.relation.table.clone(), problems: self.problems }),
        }
    }

    pub(super) fn text(&mut self, key: &'static str, value: &Value) -> Text {
        match value {
            Value::Optional(value) if self.lacks(value) => Text::First(Vec::new()),
            Value::Optional(value) => self.text(key, value),
            Value::Unless { value, set } => {
                let value = self.text(key, value);
                match self.input(key, set) {
                    Some(set) => Text::Unless { value: Box::new(value), set },
                    None => value,
                }
            }
            Value::Constant(text) => Text::Constant(text.clone()),
            Value::Schema => Text::Constant(self.relation.table.schema.clone()),
            Value::Column(column) => match self.input(key, column) {
                Some(input) => Text::One(input),
                None => Text::First(Vec::new()),
            },
            Value::First(parts) => Text::First(parts.iter().map(|part| self.text(key, part)).collect()),
            Value::Join { parts, with } => {
                Text::Join { parts: parts.iter().map(|part| self.text(key, part)).collect(), with: with.clone() }
            }
            Value::Time { .. } => {
                let what = "a unit makes a time, but this is a text; name the column without a unit";
                self.problems.push(Problem::WrongShape { key, what });
                Text::First(Vec::new())
            }
        }
    }

    pub(super) fn times(&mut self, key: &'static str, value: &Value) -> TimeSources {
        let mut sources = Vec::new();
        self.add_times(key, value, &mut sources);
        TimeSources(sources)
    }

    fn add_times(&mut self, key: &'static str, value: &Value, sources: &mut Vec<(Input, TimeForm)>) {
        let (column, unit) = match value {
            Value::Column(column) => (column, None),
            Value::Time { column, unit } => (column, Some(*unit)),
            Value::First(parts) => return parts.iter().for_each(|part| self.add_times(key, part, sources)),
            Value::Optional(value) if self.lacks(value) => return,
            Value::Optional(value) => return self.add_times(key, value, sources),
            Value::Unless { .. } | Value::Constant(_) | Value::Schema => {
                let what = "this makes a text, but a time is wanted; name a column";
                return self.problems.push(Problem::WrongShape { key, what });
            }
            Value::Join { .. } => {
                let what = "joined texts make no time; name one column, or several of which the first counts";
                return self.problems.push(Problem::WrongShape { key, what });
            }
        };
        let Some(input) = self.input(key, column) else { return };
        match self.time_form(key, column, &input, unit) {
            Ok(form) => sources.push((input, form)),
            Err(problem) => self.problems.push(problem),
        }
    }

    fn time_form(
        &self,
        key: &'static str,
        column: &str,
        input: &Input,
        unit: Option<TimeUnit>,
    ) -> Result<TimeForm, Problem> {
        let column = column.to_owned();
        let epoch = |unit| match unit {
            TimeUnit::Seconds => TimeForm::Epoch(1_000_000),
            TimeUnit::Millis => TimeForm::Epoch(1_000),
            TimeUnit::Rfc3339 => TimeForm::Rfc3339,
        };
        match self.base_type(input.column) {
            oid::TIMESTAMPTZ | oid::TIMESTAMP | oid::DATE => match unit {
                None => Ok(TimeForm::Native),
                Some(_) => Err(Problem::WrongUnit { key, remedy: column.clone(), column, what: "already a time" }),
            },
            oid::INT2 | oid::INT4 | oid::INT8 | oid::NUMERIC | oid::FLOAT4 | oid::FLOAT8 => match unit {
                None => Err(Problem::NoUnit { key, column }),
                Some(TimeUnit::Rfc3339) => {
                    let remedy = format!("{{column: {column}, unit: ms}}");
                    Err(Problem::WrongUnit { key, column, what: "a number", remedy })
                }
                Some(unit) => Ok(epoch(unit)),
            },
            // Text, and types of extensions and users that may be written like it (citext, enums).
            base if is_text(base) || matches!(input.form, Form::Json { .. }) => {
                Ok(epoch(unit.unwrap_or(TimeUnit::Rfc3339)))
            }
            _ => Err(Problem::NotTime { key, column }),
        }
    }

    /// A column of exactly this name, or else a path from the column with the longest name that it begins with.
    pub(super) fn input(&mut self, key: &'static str, written: &str) -> Option<Input> {
        let Some((column, path)) = self.split(written) else {
            self.no_column(key, written);
            return None;
        };
        let name = self.relation.columns.get(column).map(|column| column.name.clone()).unwrap_or_default();
        let form = match self.base_type(column) {
            oid::JSON => Form::Json { path, cleaned: true },
            oid::JSONB => Form::Json { path, cleaned: false },
            _ if !path.is_empty() => {
                self.problems.push(Problem::NotJson { key, path: written.to_owned(), column: name });
                return None;
            }
            oid::BPCHAR => Form::Padded,
            oid::BOOL => Form::Bool,
            _ => Form::Plain,
        };
        Some(Input { column, name, form })
    }

    /// The column that a name begins with, the longest there is, and the path that follows.
    fn split(&self, written: &str) -> Option<(usize, Vec<String>)> {
        let dots = written.char_indices().rev().filter(|(_, c)| *c == '.').map(|(at, _)| at);
        std::iter::once(written.len()).chain(dots).find_map(|end| {
            let path = written.get(end + 1..).map(|path| path.split('.').map(str::to_owned).collect());
            Some((self.position(&written[..end])?, path.unwrap_or_default()))
        })
    }

    /// A path into a json column: the column, and what is below it.
    pub(super) fn json_path(&self, written: &str) -> Option<(&str, Vec<String>)> {
        let (column, path) = self.split(written).filter(|(_, path)| !path.is_empty())?;
        let is_json = matches!(self.base_type(column), oid::JSON | oid::JSONB);
        is_json.then(|| self.relation.columns.get(column).map(|column| (column.name.as_str(), path))).flatten()
    }

    /// Whether a column of the value is not there, or its path leads into what is not json.
    fn lacks(&self, value: &Value) -> bool {
        let has = |name: &str| self.position(name).is_some() || self.json_path(name).is_some();
        match value {
            Value::Column(name) | Value::Time { column: name, .. } => !has(name),
            Value::First(parts) | Value::Join { parts, .. } => parts.iter().any(|part| self.lacks(part)),
            Value::Optional(value) => self.lacks(value),
            Value::Unless { value, set } => self.lacks(value) || !has(set),
            Value::Constant(_) | Value::Schema => false,
        }
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.relation.columns.iter().position(|column| column.name == name)
    }

    fn base_type(&self, column: usize) -> Oid {
        self.relation.columns.get(column).map_or(0, |column| base_type(column.type_oid, self.types))
    }

    pub(super) fn no_column(&mut self, key: &'static str, written: &str) {
        /// Below this, names have little to do with each other.
        const SIMILAR: f64 = 0.75;
        let first = written.split_once('.').map_or(written, |(first, _)| first).to_lowercase();
        let names = self.relation.columns.iter().map(|column| column.name.as_str());
        let scored = names.map(|name| (strsim::jaro_winkler(&first, &name.to_lowercase()), name));
        let nearest = scored.filter(|(score, _)| *score >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
        let nearest = nearest.map(|(_, name)| name.to_owned());
        self.problems.push(Problem::NoColumn { key, column: written.to_owned(), nearest });
    }
}

/// The first id that a server gives to what it was not born with (FirstNormalObjectId of transam.h).
const FIRST_NORMAL_OID: Oid = 16_384;

fn is_text(base: Oid) -> bool {
    matches!(base, oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME) || base >= FIRST_NORMAL_OID
}
