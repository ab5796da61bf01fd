//! A version of a source table, and one value of a row of it. Pure.

use super::Oid;
use std::collections::HashMap;
use std::fmt;

/// A table's schema and name, taken literally: not folded to lower case, without quotes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// The schema's name.
    pub schema: String,
    /// The table's name.
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

/// Which old values a DELETE, or an UPDATE that changes the key, carries (`pg_class.relreplident`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key's columns.
    Default,
    /// `n`: no column.
    Nothing,
    /// `f`: every column.
    Full,
    /// `i`: the columns of a chosen unique index.
    Index,
}

/// A column of a relation. Relations list their columns in the order in which values are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name in the catalog.
    pub name: String,
    /// `pg_attribute.atttypid`; for a column of a domain the domain's own id.
    pub type_oid: Oid,
    /// Whether the replica identity includes the column.
    pub in_identity: bool,
}

/// Index of a column in a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnIdx(usize);

impl ColumnIdx {
    /// The column's entry in a list that has one per column, such as a row. `None` if the list is shorter.
    pub fn of<T>(self, list: &[T]) -> Option<&T> {
        list.get(self.0)
    }
}

/// What happens while old rows do not carry the id and tenant of their user.
pub(crate) const UNATTRIBUTABLE: &str = "deleted and moved users could not be found";

/// One version of a table: from pgoutput's Relation message, or from the catalog for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// Schema and name.
    pub table: TableName,
    /// The replica identity at the time of this version.
    pub replica_identity: ReplicaIdentity,
    /// The published columns.
    pub columns: Vec<Column>,
    /// The partitions that hold the rows, each with its own replica identity. Empty unless the table is partitioned.
    pub leaves: Vec<LeafIdentity>,
}

/// The replica identity of a partition. PostgreSQL logs old rows by the partition's identity, whatever the root's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafIdentity {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// The partition.
    pub table: TableName,
    /// Its replica identity.
    pub replica_identity: ReplicaIdentity,
    /// Names of the columns that it covers.
    pub columns: Vec<String>,
}

impl Relation {
    /// Whether PostgreSQL refuses UPDATE and DELETE of the table, or of one of its partitions, while it is published: no
    /// replica identity has any column.
    fn lacks_identity(&self) -> bool {
        self.row_holders().iter().any(|holder| match holder.replica_identity {
            ReplicaIdentity::Full => false,
            ReplicaIdentity::Nothing => true,
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                !holder.columns.iter().any(|column| column.in_identity)
            }
        })
    }

    /// What happens while the replica identity lacks columns that the mapping reads.
    pub fn effect_of_gap(&self) -> &'static str {
        if self.lacks_identity() {
            "the store's own UPDATEs and DELETEs fail while the table is published"
        } else {
            UNATTRIBUTABLE
        }
    }

    /// The tables whose replica identity decides what old rows carry: the partitions, or else the table.
    pub fn row_holders(&self) -> Vec<Relation> {
        if self.leaves.is_empty() {
            return vec![self.clone()];
        }
        let of_leaf = |leaf: &LeafIdentity| {
            let column =
                |column: &Column| Column { in_identity: leaf.columns.contains(&column.name), ..column.clone() };
            Relation {
                oid: leaf.oid,
                table: leaf.table.clone(),
                replica_identity: leaf.replica_identity,
                columns: self.columns.iter().map(column).collect(),
                leaves: Vec::new(),
            }
        };
        self.leaves.iter().map(of_leaf).collect()
    }

    /// The column with exactly this name.
    pub fn position(&self, name: &str) -> Option<ColumnIdx> {
        self.columns.iter().position(|column| column.name == name).map(ColumnIdx)
    }

    /// All columns with their indexes, in order.
    pub fn indexed_columns(&self) -> impl Iterator<Item = (ColumnIdx, &Column)> {
        self.columns.iter().enumerate().map(|(index, column)| (ColumnIdx(index), column))
    }
}

/// A value as the source sent it, borrowed from the received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// SQL NULL.
    Null,
    /// Not sent: the value did not change and is stored out of line (TupleData `u`).
    Unchanged,
    /// The value's text form under the walsender's session settings. Not yet validated as UTF-8.
    Text(&'a [u8]),
    /// Discarded by the decoder: the mapping does not read the column.
    Excluded,
    /// Not part of an old tuple that carries the replica identity only.
    Absent,
}

/// How a type's text form becomes JSON, following `to_jsonb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A base, enum or range type: `to_jsonb` decides by the type's id.
    Scalar(Oid),
    /// A true array (`typsubscript = array_subscript_handler`) and its elements' type.
    Array {
        /// `typelem`.
        element: Oid,
        /// `typdelim` of the element type: a comma for all built-in types but `box`.
        delimiter: u8,
    },
    /// A composite type: its fields, without dropped ones.
    Composite(Vec<CompositeField>),
    /// A domain; holds the id of its base type.
    Domain(Oid),
    /// The extension's `hstore`, whose cast to json `to_jsonb` uses.
    Hstore,
    /// A type with another cast to json: only the source can do what `to_jsonb` does.
    Cast,
}

/// A field of a composite type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompositeField {
    /// `attname`.
    pub name: String,
    /// `atttypid`.
    pub type_oid: Oid,
}

/// The types that a table uses, by id. A type that is missing here is a built-in scalar.
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
