//! The mapping as the configuration says it, not yet held against a table.

use crate::model::TableName;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A column, or `column.key.key`: a path into a json column. A column of exactly that name wins.
    Column(String),
    /// The first that is not null and not empty.
    First(Vec<Value>),
    /// Those that are not null and not empty, joined.
    Join {
        /// The parts, in order.
        parts: Vec<Value>,
        /// What stands between them.
        with: String,
    },
    /// A number or text that is a time, in the unit given.
    Time {
        /// The column or path.
        column: String,
        /// How to read it.
        unit: TimeUnit,
    },
}

/// How a value that is not of a time type says a time. 0 and '' are null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds since the Unix epoch.
    Seconds,
    /// Milliseconds since the Unix epoch.
    Millis,
    /// RFC 3339 text.
    Rfc3339,
}

/// The `users:` section, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The table that holds the users.
    pub table: TableName,
    /// The user's id.
    pub id: Value,
    /// Display name.
    pub name: Option<Value>,
    /// Primary e-mail.
    pub email: Option<Value>,
    /// When the user signed up.
    pub created_at: Option<Value>,
    /// Last update.
    pub updated_at: Option<Value>,
    /// A soft delete at the source.
    pub deleted_at: Option<Value>,
    /// The tenant; absent where there is exactly one.
    pub tenant: Option<Value>,
    /// Columns that never appear in `raw_json`.
    pub exclude: Vec<String>,
}
