//! The mapping as configured, not yet compiled for a table. Pure.

use super::column_name::optional;
use super::redaction::Redactions;
use crate::model::{Relation, TableName};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeSet;

/// The source of a mapped value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A column, or `column.key.key`: a path into a json column. A column of exactly that name takes precedence.
    Column(String),
    /// The first that is neither null nor empty.
    First(Vec<Value>),
    /// All that are neither null nor empty, joined.
    Join {
        /// In this order.
        parts: Vec<Value>,
        /// The separator.
        with: String,
    },
    /// A number or text that is a time.
    Time {
        /// The column or path.
        column: String,
        /// The form of the column.
        unit: TimeUnit,
    },
    /// The value if the table has its columns, else null: for stores whose versions differ.
    Optional(Box<Value>),
    /// Null in rows where a column is set, for example by a soft delete that garbles an address.
    Unless {
        /// The value in other rows.
        value: Box<Value>,
        /// The column or path that has to be null or empty.
        set: String,
    },
    /// The same text for every row.
    Constant(String),
    /// The schema of the row's table: for stores with one schema per tenant.
    Schema,
}

/// How a column that is not of a time type holds a time. 0 and '' are null.
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
    /// The table of the users.
    pub table: TableName,
    /// The user's id.
    pub id: Value,
    /// Display name.
    pub name: Option<Value>,
    /// Primary e-mail.
    pub email: Option<Value>,
    /// The time of the sign-up.
    pub created_at: Option<Value>,
    /// Last update.
    pub updated_at: Option<Value>,
    /// The time of a soft delete at the source.
    pub deleted_at: Option<Value>,
    /// The tenant's key; absent if there is exactly one tenant.
    pub tenant: Option<Value>,
    /// Which rows are users; absent if all are.
    pub filter: Option<Filter>,
    /// The columns that may appear in `raw_json`; absent: all but those that look like secrets. A name that ends in `?`
    /// is optional.
    pub allow: Option<Vec<String>>,
    /// Columns, and paths into json columns, that never appear in `raw_json`. A name may end in `?`.
    pub exclude: Vec<String>,
    /// For users that are stored in several tables; absent: the table's rows are the users.
    pub query: Option<Query>,
    /// What tenants receive in place of personal values.
    pub redactions: Redactions,
}

/// A SELECT that returns the users. The rules' values are columns of its result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// One row per user, or per user and tenant.
    pub sql: String,
    /// The result's columns by which users are looked up; the id is one of them.
    pub key: Vec<String>,
    /// The tables whose changes affect users; the users' own table is one of them.
    pub watch: Vec<Watch>,
    /// Columns of the result: of the rows that agree in them, one is taken. Empty to take every row.
    pub distinct: Vec<String>,
}

/// A table whose changes affect users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The watched table.
    pub table: TableName,
    /// Its columns with the query's key, in the same order.
    pub key: Vec<String>,
    /// The tenant's key, if the row has it.
    pub tenant: Option<Value>,
    /// A user exists as long as a row of this table does.
    pub is_users_own: bool,
    /// The table that leads to the query's key, if `key` is a different one.
    pub via: Option<Via>,
}

impl Watch {
    /// How a query's key leads to its tenants through this table; `None` if the tenant is not one of its columns.
    pub(crate) fn leads_to_tenants(&self) -> Option<Via> {
        let (Some(Value::Column(tenant)), None) = (&self.tenant, &self.via) else { return None };
        Some(Via { table: self.table.clone(), from: self.key.clone(), to: vec![tenant.clone()] })
    }
}

/// A table that leads from one key to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Via {
    /// The table between the two keys.
    pub table: TableName,
    /// Its columns with the known key.
    pub from: Vec<String>,
    /// Its columns with the key to find: the query's.
    pub to: Vec<String>,
}

/// `where`: a condition on the texts of columns and json paths, with SQL's three truth values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The column or path has one of these values.
    In(String, Vec<String>),
    /// The column or path is null.
    IsNull(String),
    /// True if all parts are.
    And(Vec<Filter>),
    /// True if one part is.
    Or(Vec<Filter>),
    /// The opposite.
    Not(Box<Filter>),
}

impl Rules {
    /// Every table whose changes have to be published; the users' own table is the first.
    pub(crate) fn tables(&self) -> Vec<&TableName> {
        let mut tables = vec![&self.table];
        for watch in self.query.iter().flat_map(|query| &query.watch) {
            if !tables.contains(&&watch.table) {
                tables.push(&watch.table);
            }
        }
        tables
    }

    /// The column of the query's key with the user's id.
    pub(crate) fn id_in_key(&self) -> KeyColumn {
        let is_id = |column: &String| self.id == Value::Column(column.clone());
        KeyColumn(self.query.iter().find_map(|query| query.key.iter().position(is_id)).unwrap_or(0))
    }
}

/// Index of a column in the query's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyColumn(usize);

impl KeyColumn {
    pub(crate) fn of(self, key: &[String]) -> Option<&String> {
        key.get(self.0)
    }
}

impl Value {
    /// The columns that the value reads, and the paths into them.
    pub(crate) fn inputs(&self) -> Vec<&str> {
        let mut read = Vec::new();
        self.columns(Need::Required, Need::Required, &mut read);
        self.columns(Need::Optional, Need::Required, &mut read);
        read
    }

    /// Whether the value reads this column, or a path into it.
    pub(crate) fn reads(&self, column: &str) -> bool {
        let is_path = |name: &str| name.strip_prefix(column).is_some_and(|rest| rest.starts_with('.'));
        self.inputs().into_iter().any(|name| name == column || is_path(name))
    }

    /// Adds the columns that the value reads: those that a table may lack, or those that it must have. A path counts as its
    /// column.
    fn columns<'a>(&'a self, wanted: Need, need: Need, found: &mut Vec<&'a str>) {
        let mut add = |name: &'a str| {
            if need == wanted {
                found.push(name);
            }
        };
        match self {
            Value::Optional(value) => value.columns(wanted, Need::Optional, found),
            Value::Column(name) | Value::Time { column: name, .. } => add(name),
            Value::First(parts) | Value::Join { parts, .. } => {
                parts.iter().for_each(|part| part.columns(wanted, need, found));
            }
            Value::Unless { value, set } => {
                add(set);
                value.columns(wanted, need, found);
            }
            Value::Constant(_) | Value::Schema => {}
        }
    }
}

/// Whether a table must have a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

impl Rules {
    /// The optional columns that the relation does not have.
    pub(crate) fn missing_columns(&self, relation: &Relation) -> Vec<&str> {
        let lists = self.allow.iter().flatten().chain(&self.exclude);
        let mut names = self.value_columns(Need::Optional);
        names.extend(lists.filter_map(|name| name.strip_suffix('?')));
        names.sort_unstable();
        names.dedup();
        names.retain(|name| !relation.columns.iter().any(|column| column.name == *name));
        names
    }

    /// The columns without which the mapping does not fit a table.
    pub(crate) fn required_columns(&self) -> BTreeSet<&str> {
        let allowed = self.allow.iter().flatten().map(String::as_str).filter(|name| !optional(name).1);
        self.value_columns(Need::Required).into_iter().chain(allowed).collect()
    }

    fn value_columns(&self, wanted: Need) -> Vec<&str> {
        let Rules { id, name, email, created_at, updated_at, deleted_at, tenant, .. } = self;
        let values = [name, email, created_at, updated_at, deleted_at, tenant];
        let mut found = Vec::new();
        for value in values.into_iter().flatten().chain([id]) {
            value.columns(wanted, Need::Required, &mut found);
        }
        found
    }
}
