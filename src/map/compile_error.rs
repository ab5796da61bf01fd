//! The error of a mapping that does not fit its table: every problem at once, each with what to change. Pure.

use crate::model::TableName;
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct CompileError {
    pub table: TableName,
    pub problems: Vec<Problem>,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the mapping does not fit {}:", self.table)?;
        self.problems.iter().try_for_each(|problem| match problem {
            Problem::NoColumnOfTenant { .. } | Problem::PathOfTenant { .. } => write!(f, "\n  {problem}"),
            _ => write!(f, "\n  users.{problem}"),
        })
    }
}

/// `key` is the configuration's key below `users`, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{key}: there is no column {column:?}{}", did_you_mean(nearest))]
    NoColumn { key: &'static str, column: String, nearest: Option<String> },
    /// `key` is the whole path, such as `tenants[acme].mask`.
    #[error("{key}: there is no column {column:?}{}", did_you_mean(nearest))]
    NoColumnOfTenant { key: String, column: String, nearest: Option<String> },
    /// As [`Problem::NoColumnOfTenant`].
    #[error("{key}: {path:?} is a path; name the whole column, or keep the path at the source with users.exclude")]
    PathOfTenant { key: String, path: String },
    #[error(
        "{key}: {path:?} is a path into {column:?}, which is not of type json or jsonb; name a column, or a path into a json column"
    )]
    NotJson { key: &'static str, path: String, column: String },
    /// A number may count seconds or milliseconds.
    #[error("{key}: column {column:?} is a number; add its unit: `{key}: {{column: {column}, unit: ms}}` (or `s`)")]
    NoUnit { key: &'static str, column: String },
    #[error("{key}: column {column:?} is {what}, which has no such unit; write `{key}: {remedy}`")]
    WrongUnit { key: &'static str, column: String, what: &'static str, remedy: String },
    #[error(
        "{key}: column {column:?} is of a type that cannot be read as a time; name a timestamptz, timestamp, date, number or text column"
    )]
    NotTime { key: &'static str, column: String },
    /// A time in place of a text, or a text in place of a time.
    #[error("{key}: {what}")]
    WrongShape { key: &'static str, what: &'static str },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean {name:?}?"),
        None => "; name a column of the table, or remove the key".to_owned(),
    }
}
