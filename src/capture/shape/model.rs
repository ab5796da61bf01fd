//! The catalogs' rows that make up the shape. Pure.

use crate::model::{Oid, TableName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the catalogs say about the published tables. Stored in the state as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceShape {
    /// `server_version_num`.
    #[serde(default)]
    pub(crate) server_version: i32,
    pub(crate) tables: Vec<TableShape>,
    /// `None` if there is no publication of that name.
    pub(crate) publication: Option<PublicationShape>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableShape {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) oid: Oid,
    pub(crate) is_partitioned: bool,
    /// `row_security_active` for our role.
    pub(crate) row_security: bool,
    pub(crate) columns: Vec<ColumnShape>,
    /// The tables that hold the rows: the partitions, or the table itself.
    pub(crate) leaves: Vec<LeafShape>,
    /// Names of tables that inherit from it and are not its partitions.
    pub(crate) children: Vec<String>,
    /// The types of the columns and of their parts, by oid; built-in types are left out.
    pub(crate) types: BTreeMap<Oid, TypeShape>,
    /// What the publication has of the table; `None` if it is not published.
    pub(crate) published: Option<PublishedShape>,
}

/// A row of `pg_attribute`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ColumnShape {
    pub(crate) name: String,
    pub(crate) number: i32,
    pub(crate) type_oid: Oid,
    pub(crate) typmod: i32,
    pub(crate) is_generated: bool,
    /// Generated when it is read, from PostgreSQL 18 on. Never published.
    #[serde(default)]
    pub(crate) is_virtual: bool,
    /// The transaction that wrote the row.
    pub(crate) version: u32,
}

/// A table that holds rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeafShape {
    pub(crate) schema: String,
    pub(crate) name: String,
    pub(crate) oid: Oid,
    /// `relkind`: `r`, or `f` for a foreign table.
    pub(crate) kind: String,
    /// `relpersistence`: only `p` is written to WAL.
    pub(crate) persistence: String,
    /// `relfilenode`: changes when the rows are rewritten or truncated.
    pub(crate) filenode: Oid,
    /// `relreplident`.
    pub(crate) identity: String,
    /// Names of the columns that the identity covers, if it is an index.
    pub(crate) identity_columns: Vec<String>,
    /// The transactions that attached it and its ancestors, below the root. Empty for a table without partitions.
    #[serde(default)]
    pub(crate) attached_by: Vec<u32>,
    /// Whether it and its ancestors were created as partitions, so that it has no change from before. Read only where
    /// [`super::outdates_slot`] needs it.
    #[serde(default)]
    pub(crate) is_created_attached: bool,
}

/// A type that is not built in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TypeShape {
    /// Labels by the oid of their row in `pg_enum`.
    pub(crate) labels: BTreeMap<Oid, String>,
    /// Attributes of a composite type: number, name, type and type modifier.
    pub(crate) attributes: Vec<(i32, String, Oid, i32)>,
    /// Base type of a domain, element of an array or subtype of a range; 0 for the others.
    pub(crate) inner: Oid,
    /// Identifies the function that casts it to json, and its body; null without one.
    #[serde(default)]
    pub(crate) json_cast: Option<String>,
}

/// A row of `pg_publication`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublicationShape {
    pub(crate) inserts: bool,
    pub(crate) updates: bool,
    pub(crate) deletes: bool,
    pub(crate) truncates: bool,
    pub(crate) via_root: bool,
    /// `pubgencols`, from PostgreSQL 18 on: `n` or `s` (stored).
    #[serde(default)]
    pub(crate) generated: String,
}

/// The part of a table that is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedShape {
    pub(crate) has_row_filter: bool,
    /// Numbers of the published columns; `None` for all.
    pub(crate) columns: Option<Vec<i32>>,
}

impl SourceShape {
    pub(crate) fn table(&self, name: &TableName) -> Option<&TableShape> {
        self.tables.iter().find(|table| table.schema == name.schema && table.name == name.name)
    }
}

impl TableShape {
    pub(crate) fn table(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.name.clone() }
    }
}

impl LeafShape {
    pub(crate) fn table(&self) -> TableName {
        TableName { schema: self.schema.clone(), name: self.name.clone() }
    }
}
