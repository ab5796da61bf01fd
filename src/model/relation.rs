//! A source table as one relation version describes it, and one value of a row of it.

use super::Oid;
use std::collections::HashMap;
use std::fmt;

/// A table's schema and name, taken literally: no folding, no quotes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema (namespace).
    pub schema: String,
    /// The table's own name.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl fmt::Debug for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which old values a DELETE and a key-changing UPDATE carry (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key's columns.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: every column.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

/// A column of a relation, in the order in which its values are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name, as it is in the catalog.
    pub name: String,
    /// `pg_attribute.atttypid`: for a domain the domain's own id.
    pub type_oid: Oid,
    /// Whether the column is part of the replica identity.
    pub in_identity: bool,
}

/// One version of a table: from pgoutput's Relation message, or from the catalog for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Schema and name.
    pub table: TableName,
    /// What old tuples carry.
    pub replica_identity: ReplicaIdentity,
    /// The published columns.
    pub columns: Vec<Column>,
}

/// A value as the source sent it. Borrows from the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// Not sent, because it did not change and is stored out of line (TupleData `u`).
    Unchanged,
    /// The value's text form, in the session settings of the walsender. Not yet checked to be UTF-8.
    Text(&'a [u8]),
    /// Dropped by the decoder: the mapping does not let this column out.
    Excluded,
    /// Not part of this tuple: an old tuple outside the replica identity.
    Absent,
}

/// How a type's text form becomes JSON, as `to_jsonb` does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A base, enum or range type; `to_jsonb` decides by the type's own id.
    Scalar(Oid),
    /// A true array (`typsubscript = array_subscript_handler`) and its elements' type.
    Array {
        /// `typelem`.
        element: Oid,
        /// `typdelim` of the element type: a comma for all built-in types but `box`.
        delimiter: u8,
    },
    /// A composite type: its fields' names and types, dropped ones left out.
    Composite(Vec<(String, Oid)>),
    /// A domain, standing for its base type.
    Domain(Oid),
}

/// What is known of the types that a table uses. Types that are not in it are built-in scalars.
pub type TypeCatalog = HashMap<Oid, TypeKind>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_shown_as_schema_and_name() {
        let table = TableName { schema: "auth".to_owned(), name: "Users".to_owned() };
        assert_eq!((table.to_string(), format!("{table:?}")), ("auth.Users".to_owned(), "auth.Users".to_owned()));
    }
}
