//! What a table's replica identity lacks to tell whose row a DELETE removed, and the SQL that adds it. Pure.

use super::unmappable::Unmappable;
use super::value::{Form, Input};
use crate::model::{Relation, ReplicaIdentity, TableName};
use crate::pg::{quote_ident, quote_table};
use std::collections::BTreeSet;

/// Longest name of an index (`NAMEDATALEN - 1`).
const NAME_BYTES: usize = 63;

/// The input columns that old tuples do not carry.
#[derive(Debug)]
pub(super) struct IdentityGap {
    pub columns: Vec<String>,
    /// The SQL that lets old tuples carry all inputs, also if nothing is missing.
    pub remedy: String,
}

impl IdentityGap {
    /// The gap of the table, or of all its partitions together.
    pub(super) fn of(inputs: &[&Input], relation: &Relation) -> IdentityGap {
        let mut columns: Vec<String> = Vec::new();
        let (mut lacking, mut holders) = (Vec::new(), Vec::new());
        for holder in relation.row_holders() {
            let missing = missing(inputs, &holder);
            if !missing.is_empty() {
                lacking.push(alternatives(inputs, &holder));
            }
            holders.push(alternatives(inputs, &holder));
            columns.extend(missing);
        }
        let mut named = BTreeSet::new();
        columns.retain(|column| named.insert(column.clone()));
        IdentityGap { columns, remedy: remedy(if lacking.is_empty() { &holders } else { &lacking }) }
    }

    pub(super) fn error(&self) -> Unmappable {
        Unmappable::Identity { columns: self.columns.join(", "), remedy: self.remedy.clone() }
    }
}

/// The inputs that the old tuples of one table lack.
fn missing(inputs: &[&Input], holder: &Relation) -> Vec<String> {
    let is_carried = |input: &Input| match holder.replica_identity {
        ReplicaIdentity::Full => true,
        ReplicaIdentity::Nothing => false,
        ReplicaIdentity::Default | ReplicaIdentity::Index => {
            input.column.of(&holder.columns).is_some_and(|column| column.in_identity)
        }
    };
    inputs.iter().filter(|input| !is_carried(input)).map(|input| input.name.clone()).collect()
}

/// The statements that let the old tuples of one table carry all inputs.
struct Alternatives {
    /// An index, which needs columns that are NOT NULL; `None` for json, which has no ordering.
    index: Option<String>,
    full: String,
}

fn alternatives(inputs: &[&Input], holder: &Relation) -> Alternatives {
    let table = quote_table(&holder.table);
    let full = format!("ALTER TABLE {table} REPLICA IDENTITY FULL;");
    if inputs.iter().any(|input| matches!(input.form, Form::Json { .. })) {
        return Alternatives { index: None, full };
    }
    let mut columns: Vec<String> = Vec::new();
    for column in inputs.iter().map(|input| quote_ident(&input.name)) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let (index, columns) = (quote_ident(&identity_index(&holder.table)), columns.join(", "));
    let index = format!(
        "CREATE UNIQUE INDEX CONCURRENTLY {index} ON {table} ({columns}); \
         ALTER TABLE {table} REPLICA IDENTITY USING INDEX {index};"
    );
    Alternatives { index: Some(index), full }
}

fn remedy(tables: &[Alternatives]) -> String {
    let full = tables.iter().map(|table| &*table.full).collect::<Vec<_>>().join(" ");
    match tables.iter().map(|table| table.index.as_deref()).collect::<Option<Vec<_>>>() {
        None => format!("run: {full}"),
        Some(indexes) => format!(
            "run: {} (each column has to be NOT NULL; dropping the index later makes the store's own UPDATEs and \
             DELETEs fail), or: {full}",
            indexes.join(" ")
        ),
    }
}

/// The name of the index that serves as replica identity, unique among the tables of a schema.
pub(crate) fn identity_index(table: &TableName) -> String {
    const SUFFIX: &str = "_users_sync_identity";
    let room = NAME_BYTES - SUFFIX.len();
    if table.name.len() <= room {
        return format!("{}{SUFFIX}", table.name);
    }
    // Partitions often differ in the end of their names.
    let hash = format!("{:08x}", table.name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte)));
    let end = table.name.floor_char_boundary(room - hash.len());
    format!("{}{hash}{SUFFIX}", &table.name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_identity_indexes_fit_and_differ() {
        let name = |name: &str| identity_index(&TableName { schema: "auth".to_owned(), name: name.to_owned() });
        assert_eq!(name("users"), "users_users_sync_identity");
        let [first, second] = ["1", "2"].map(|end| name(&format!("{}{end}", "\u{e9}".repeat(31))));
        assert!(first != second && first.len() <= NAME_BYTES && second.len() <= NAME_BYTES, "{first} {second}");
    }
}
