//! The mapping as the configuration says it, not yet held against a table.

use crate::model::{Relation, TableName};
use schemars::JsonSchema;
use serde::Deserialize;

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
    /// The value where the table has its column, and null where it has not: tables of several versions.
    Optional(Box<Value>),
    /// Null in rows in which a column is set, such as the time of a soft delete that garbles an address.
    Unless {
        /// What it is otherwise.
        value: Box<Value>,
        /// The column or path that must not say anything.
        set: String,
    },
    /// The same for every row.
    Constant(String),
    /// The schema of the row's table: stores that give each tenant a schema.
    Schema,
}

/// How a value that is not of a time type says a time. 0 and '' are null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    /// Seconds since the Unix epoch.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds since the Unix epoch.
    #[serde(rename = "ms")]
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
    /// Which rows are users; absent where all are.
    pub filter: Option<Filter>,
    /// The columns that may appear in `raw_json`; absent: all but those that look like secrets. A name may end in `?`:
    /// tables of other versions lack it.
    pub allow: Option<Vec<String>>,
    /// Columns, and paths into json columns, that never appear in `raw_json`. A name may end in `?`.
    pub exclude: Vec<String>,
    /// Users that live in several tables; absent: the table's rows are the users.
    pub query: Option<Query>,
}

/// A user that a SELECT puts together; the rules' values are then columns of its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// One row per user, or per user and tenant.
    pub sql: String,
    /// The columns of the result by which users are looked up; `id` is one of them.
    pub key: Vec<String>,
    /// Whose changes touch whom; the users' own table is among them.
    pub watch: Vec<Watch>,
}

/// A table whose changes touch users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Which.
    pub table: TableName,
    /// Its columns that hold the query's key, in the same order.
    pub key: Vec<String>,
    /// Whose user it is, where the row tells.
    pub tenant: Option<Value>,
    /// A user is there as long as a row of this table is.
    pub is_users_own: bool,
    /// Where the columns hold another key than the query's: what leads to that.
    pub via: Option<Via>,
}

impl Watch {
    /// What leads from the query's key to the tenants whose users they are, where the rows of the table say so in a column.
    pub fn leads_to_tenants(&self) -> Option<Via> {
        let (Some(Value::Column(tenant)), None) = (&self.tenant, &self.via) else { return None };
        Some(Via { table: self.table.clone(), from: self.key.clone(), to: vec![tenant.clone()] })
    }
}

/// A table that leads from one key to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// Which.
    pub table: TableName,
    /// Its columns that hold the key that is known.
    pub from: Vec<String>,
    /// Its columns that hold the one that is looked for: the query's.
    pub to: Vec<String>,
}

/// `where`: a condition over the text forms of columns and json paths, with SQL's three truth values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The value is one of these.
    In(String, Vec<String>),
    /// The value is null.
    IsNull(String),
    /// All hold.
    And(Vec<Filter>),
    /// One holds.
    Or(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
}

impl Rules {
    /// Every table whose changes are wanted; the users' own is the first.
    pub fn tables(&self) -> Vec<&TableName> {
        let mut tables = vec![&self.table];
        for watch in self.query.iter().flat_map(|query| &query.watch) {
            if !tables.contains(&&watch.table) {
                tables.push(&watch.table);
            }
        }
        tables
    }
}

impl Value {
    /// The columns that it asks for only where they are.
    fn optional_columns<'a>(&'a self, optional: bool, found: &mut Vec<&'a str>) {
        match self {
            Value::Optional(value) => value.optional_columns(true, found),
            Value::Column(name) | Value::Time { column: name, .. } if optional => found.push(name),
            Value::First(parts) | Value::Join { parts, .. } => {
                parts.iter().for_each(|part| part.optional_columns(optional, found));
            }
            Value::Unless { value, set } => {
                value.optional_columns(optional, found);
                found.extend(optional.then_some(set.as_str()));
            }
            Value::Column(_) | Value::Time { .. } | Value::Constant(_) | Value::Schema => {}
        }
    }
}

impl Rules {
    /// The columns that are asked for only where they are, and are not there.
    pub fn missing_columns(&self, relation: &Relation) -> Vec<&str> {
        let values = [&self.name, &self.email, &self.created_at, &self.updated_at, &self.deleted_at, &self.tenant];
        let mut names = Vec::new();
        values.into_iter().flatten().for_each(|value| value.optional_columns(false, &mut names));
        let lists = self.allow.iter().flatten().chain(&self.exclude);
        names.extend(lists.filter_map(|name| name.strip_suffix('?')));
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !relation.columns.iter().any(|column| column.name == *name));
        names
    }
}

/// A name, and whether the table may lack it: `name?`.
pub(super) fn optional(name: &str) -> (&str, bool) {
    name.strip_suffix('?').map_or((name, false), |name| (name, true))
}
