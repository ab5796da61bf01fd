//! Resolves the names that rules use to the columns of a relation, and collects every problem with them. Pure.

use super::compile_error::{CompileError, Problem};
use super::json::{base_type, oid};
use super::value::{Form, Input, Text, TimeForm, TimeSources};
use super::{TimeUnit, Value};
use crate::model::{ColumnIdx, Oid, Relation, TypeCatalog};

/// Resolves names one by one. A name without a column becomes a problem and an empty value, so that all are reported.
pub(super) struct Resolver<'a> {
    relation: &'a Relation,
    types: &'a TypeCatalog,
    problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(relation: &'a Relation, types: &'a TypeCatalog) -> Resolver<'a> {
        Resolver { relation, types, problems: Vec::new() }
    }

    pub(super) fn finish(self) -> Result<(), CompileError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        Err(CompileError { table: self.relation.table.clone(), problems: self.problems })
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
                let what = "a unit makes a time, but this value is a text; name the column without a unit";
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
                let what = "a time is expected, but this makes a text; name a column";
                return self.problems.push(Problem::WrongShape { key, what });
            }
            Value::Join { .. } => {
                let what = "a time cannot be joined from texts; name one column, or a list whose first time is used";
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
            // Text, and types that extensions and users define, which may have the same form (citext, enums).
            base if is_text(base) || matches!(input.form, Form::Json { .. }) => {
                Ok(epoch(unit.unwrap_or(TimeUnit::Rfc3339)))
            }
            _ => Err(Problem::NotTime { key, column }),
        }
    }

    /// The column of exactly this name, else a path from the column with the longest name that is its prefix.
    pub(super) fn input(&mut self, key: &'static str, written: &str) -> Option<Input> {
        let Some((column, path)) = self.split(written) else {
            self.no_column(key, written);
            return None;
        };
        let name = column.of(&self.relation.columns).map(|column| column.name.clone()).unwrap_or_default();
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

    /// The column with the longest name that is a prefix of `written`, and the path after it.
    fn split(&self, written: &str) -> Option<(ColumnIdx, Vec<String>)> {
        if let Some(column) = self.position(written) {
            return Some((column, Vec::new()));
        }
        for (dot, _) in written.rmatch_indices('.') {
            if let Some(column) = self.position(&written[..dot]) {
                return Some((column, written[dot + 1..].split('.').map(str::to_owned).collect()));
            }
        }
        None
    }

    /// The json column that `written` is a path into, and the path.
    pub(super) fn json_path(&self, written: &str) -> Option<(&str, Vec<String>)> {
        let (column, path) = self.split(written)?;
        if path.is_empty() || !matches!(self.base_type(column), oid::JSON | oid::JSONB) {
            return None;
        }
        Some((&column.of(&self.relation.columns)?.name, path))
    }

    /// Whether a column of the value is missing, or its path leads into a column that is not json.
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

    pub(super) fn position(&self, name: &str) -> Option<ColumnIdx> {
        self.relation.position(name)
    }

    fn base_type(&self, column: ColumnIdx) -> Oid {
        column.of(&self.relation.columns).map_or(0, |column| base_type(column.type_oid, self.types))
    }

    pub(super) fn no_column(&mut self, key: &'static str, written: &str) {
        let nearest = self.nearest(written);
        self.problems.push(Problem::NoColumn { key, column: written.to_owned(), nearest });
    }

    /// `path` is the place of the tenant in the configuration.
    pub(super) fn no_column_of_tenant(&mut self, path: &str, key: &'static str, written: &str) {
        let nearest = self.nearest(written);
        let key = format!("{path}.{key}");
        self.problems.push(Problem::NoColumnOfTenant { key, column: written.to_owned(), nearest });
    }

    /// As [`Resolver::no_column_of_tenant`], for a path into a column.
    pub(super) fn path_of_tenant(&mut self, path: &str, key: &'static str, written: &str) {
        self.problems.push(Problem::PathOfTenant { key: format!("{path}.{key}"), path: written.to_owned() });
    }

    /// The column that was probably meant.
    fn nearest(&self, written: &str) -> Option<String> {
        /// Jaro-Winkler similarity below which a name is no useful suggestion.
        const MIN_SIMILARITY: f64 = 0.75;
        let first = written.split_once('.').map_or(written, |(first, _)| first).to_lowercase();
        let names = self.relation.columns.iter().map(|column| column.name.as_str());
        let scored = names.map(|name| (strsim::jaro_winkler(&first, &name.to_lowercase()), name));
        let nearest = scored.filter(|(score, _)| *score >= MIN_SIMILARITY).max_by(|a, b| a.0.total_cmp(&b.0));
        // `full_name` for `name`.
        let has_word = |name: &&str| name.to_lowercase().split('_').any(|word| word == first);
        let longer = || self.relation.columns.iter().map(|column| column.name.as_str()).find(has_word);
        nearest.map(|(_, name)| name).or_else(longer).map(str::to_owned)
    }
}

/// The first oid of an object that was not created by initdb (FirstNormalObjectId of transam.h).
const FIRST_NORMAL_OID: Oid = 16_384;

fn is_text(base: Oid) -> bool {
    matches!(base, oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME) || base >= FIRST_NORMAL_OID
}
