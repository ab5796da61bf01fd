//! What a table's replica identity lacks to tell whose row a DELETE removed, and the SQL that adds it. Pure.

use super::unmappable::Unmappable;
use super::value::{Form, Input};
use crate::model::{Relation, ReplicaIdentity};
use crate::pg::{quote_ident, quote_table};

/// The input columns that old tuples do not carry.
#[derive(Debug)]
pub(super) struct IdentityGap {
    pub columns: Vec<String>,
    /// The SQL that lets old tuples carry all inputs, also if nothing is missing.
    pub remedy: String,
}

impl IdentityGap {
    pub(super) fn of(inputs: &[&Input], relation: &Relation) -> IdentityGap {
        let is_carried = |input: &Input| match relation.replica_identity {
            ReplicaIdentity::Full => true,
            ReplicaIdentity::Nothing => false,
            ReplicaIdentity::Default | ReplicaIdentity::Index => {
                input.column.of(&relation.columns).is_some_and(|column| column.in_identity)
            }
        };
        let mut columns: Vec<String> = Vec::new();
        for input in inputs {
            if !is_carried(input) && !columns.contains(&input.name) {
                columns.push(input.name.clone());
            }
        }
        IdentityGap { columns, remedy: remedy(inputs, relation) }
    }

    pub(super) fn error(&self) -> Unmappable {
        Unmappable::Identity { columns: self.columns.join(", "), remedy: self.remedy.clone() }
    }
}

/// An index if possible: it needs columns that are NOT NULL, and json has no ordering.
fn remedy(inputs: &[&Input], relation: &Relation) -> String {
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
