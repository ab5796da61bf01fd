//! Why a user is not in the target's table: one stable text for each cause. Pure.
//!
//! The texts are ours. The message of a row's error may repeat the row's values, and RAISE can set every field of an
//! error, so neither is ever stored or logged.

use crate::model::clip;
use crate::pg::{Disclosure, names_place, quote_ident};
use std::fmt;
use tokio_postgres::error::DbError;

/// A tenant with more refused users than this is parked: the cause is not in single rows.
pub(crate) const MAX_REJECTED: usize = 10_000;

/// Why a tenant is parked whose target refuses more users; `first` is the reason of the first one.
pub(crate) fn too_many_refused(first: &RejectReason) -> String {
    format!("its target refuses users, more than the limit of {MAX_REJECTED}: of the first one, {first}")
}

/// Why a user is not in the target's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RejectReason {
    /// A constraint or a unique index. `table` is `None` for `neon_auth.users_sync`, and otherwise a table or a domain.
    Constraint { name: String, table: Option<String> },
    /// A column without a value.
    NotNull { column: String },
    /// `WITH CHECK OPTION`.
    CheckOption,
    /// User-defined code failed or refused the row.
    Code,
    /// The source has several rows with this id; one of them is in the table.
    Duplicate,
    /// A BEFORE trigger returned NULL.
    Skipped,
    /// A BEFORE trigger changed the id.
    Strayed,
    /// The user is marked as deleted, and a live user needs a value of its row.
    GaveWay,
    /// A character that the target's encoding lacks.
    Encoding,
    /// A number that the target's types cannot hold.
    Number,
    /// A time that the target's types cannot hold.
    Time,
    /// A row of an index would be too large. The name is known for btree indexes.
    Index { name: Option<String> },
    /// A document is nested deeper than the target's stack allows.
    Depth,
    /// Another limit of the server.
    Limit,
    /// Another value that the target cannot store.
    Value,
    /// The source's row cannot be mapped. The reason names columns, never values.
    Unmappable(String),
}

impl RejectReason {
    /// The reason of a row's error.
    pub(super) fn of(error: &DbError) -> RejectReason {
        use RejectReason::*;
        let (code, routine) = (error.code().code(), error.routine());
        // Errors of JSON have a context of their own.
        let has_context = error.where_().is_some() && !matches!(code, "22P02" | "22P05" | "22021");
        if Disclosure::of(code, routine) == Disclosure::Code {
            return Code;
        }
        if names_place(routine) {
            let users = error.schema() == Some("neon_auth") && error.table() == Some("users_sync");
            // A constraint of a domain has a type and no table.
            let table = error.table().filter(|_| !users).or(error.datatype());
            let table = table.map(|table| kept(&format!("{}.{table}", error.schema().unwrap_or_default())));
            match (code, error.constraint(), error.column()) {
                ("54000", Some(name), _) => return Index { name: Some(kept(name)) },
                (_, Some(name), _) => return Constraint { name: kept(name), table },
                (_, None, Some(column)) if users => return NotNull { column: kept(column) },
                _ => {}
            }
        }
        match code {
            _ if is_of_escape(routine) => Encoding,
            _ if has_context => Code,
            "44000" => CheckOption,
            "22P05" | "22021" => Encoding,
            "22003" => Number,
            "22007" | "22008" => Time,
            "54000" if routine.is_some_and(|routine| INDEX_ROUTINES.contains(&routine)) => Index { name: None },
            "54001" => Depth,
            _ if code.starts_with("54") => Limit,
            // Conversions to text, jsonb and times; others are computed by the application's own code.
            "22P02" | "22P03" | "22030" | "22032" => Value,
            _ => Code,
        }
    }
}

impl RejectReason {
    /// How to fix it, if more users are refused than the limit.
    pub(crate) fn remedy(&self) -> String {
        use RejectReason::*;
        match self {
            Constraint { name, table: None } => {
                format!("drop constraint or unique index {name} of neon_auth.users_sync, or correct it")
            }
            Constraint { name, table: Some(table) } => format!("drop constraint {name} of {table}, or correct it"),
            NotNull { column } => {
                format!("ALTER TABLE neon_auth.users_sync ALTER COLUMN {} DROP NOT NULL;", quote_ident(column))
            }
            CheckOption => "neon_auth.users_sync is a view: drop it, and users_sync.checkpoint".to_owned(),
            Duplicate => "make the ids of users.id unique: correct the query, or the table of fan_out".to_owned(),
            GaveWay => "drop the unique index that deleted users block".to_owned(),
            Code | Skipped | Strayed => "correct or drop the trigger on neon_auth.users_sync, or the function that a constraint, an \
                index or a column of it uses"
                .to_owned(),
            Encoding => "point the tenant at a database with encoding UTF8".to_owned(),
            Number | Time | Value => {
                "correct the values at the source, or keep their column out with users.exclude".to_owned()
            }
            Unmappable(_) => "correct `users:` in the configuration, or the rows at the source".to_owned(),
            Index { name: Some(name) } => format!("drop index {name}, or shorten the values at the source"),
            Index { name: None } => "drop the index on these values, or shorten the values at the source".to_owned(),
            Depth => "raise max_stack_depth of the target's server, or keep the column out with users.exclude".to_owned(),
            Limit => "correct or drop the trigger on neon_auth.users_sync that exceeds a limit of the server, or shorten the \
                values at the source"
                .to_owned(),
        }
    }
}

/// The functions that refuse a row of an index, where the error does not name it: indextuple.c, hashinsert.c,
/// ginentrypage.c, gist.c, spgdoinsert.c, brin_pageops.c.
const INDEX_ROUTINES: [&str; 8] = [
    "index_form_tuple",
    "index_form_tuple_context",
    "_hash_doinsert",
    "GinFormTuple",
    "gistplacetopage",
    "gistSplit",
    "spgdoinsert",
    "brin_doinsert",
];

/// Whether the escape of a character in a document could not be converted (mbutils.c). In SQL_ASCII this has the code of an
/// unsupported feature.
pub(super) fn is_of_escape(routine: Option<&str>) -> bool {
    routine.is_some_and(|routine| routine.starts_with("pg_unicode_to_server"))
}

fn kept(name: &str) -> String {
    clip(name).into_owned()
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use RejectReason::*;
        match self {
            Constraint { name, table: None } => write!(f, "constraint {name} refuses it"),
            Constraint { name, table: Some(table) } => write!(f, "constraint {name} of {table} refuses it"),
            NotNull { column } => write!(f, "column {column} must have a value"),
            CheckOption => f.write_str("the check option of a view refuses it"),
            Code => f.write_str("a trigger, or a function that a constraint, an index or a column uses, refuses it"),
            GaveWay => f.write_str("it gave way to a live user: the row keeps only its id"),
            Duplicate => f.write_str("the source has several rows with this id: the last one is taken"),
            Skipped => f.write_str("a trigger skips the row: it returns NULL"),
            Strayed => f.write_str("a trigger changes its id"),
            Encoding => f.write_str("the target's encoding lacks one of its characters"),
            Number => f.write_str("one of its numbers is out of the target's range"),
            Time => f.write_str("one of its times is out of the target's range"),
            Index { name: Some(name) } => write!(f, "one of its values is too large for index {name}"),
            Index { name: None } => f.write_str("one of its values is too large for an index"),
            Depth => f.write_str("its document is nested deeper than the target's stack allows"),
            Limit => f.write_str("it exceeds a limit of the target's server"),
            Unmappable(why) => write!(f, "it cannot be mapped: {why}"),
            Value => f.write_str("the target cannot store one of its values"),
        }
    }
}
