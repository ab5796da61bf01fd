//! What makes changes of the source be missed, and how to fix it. Pure.

use super::model::{LeafShape, SourceShape, TableShape};
use crate::model::TableName;
use crate::pg::{quote_ident, quote_table};

/// Something that has to be fixed at the source before users-sync may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: String,
    /// Statements, or a sentence where none can be given.
    pub(crate) remedy: String,
}

/// The faults of the tables and of the publication. `is_read`: whether the mapping reads the column.
pub(crate) fn faults(
    shape: &SourceShape,
    publication: &str,
    is_read: &impl Fn(&TableName, &str) -> bool,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    for table in &shape.tables {
        structure(table, &mut faults);
        generated(shape, table, publication, &mut faults);
        published(shape, table, publication, is_read, &mut faults);
    }
    if let Some(row) = &shape.publication {
        let kinds =
            [("insert", row.inserts), ("update", row.updates), ("delete", row.deletes), ("truncate", row.truncates)];
        let missing: Vec<_> = kinds.iter().filter(|(_, is_published)| !is_published).map(|(kind, _)| *kind).collect();
        if !missing.is_empty() {
            faults.push(Fault {
                what: format!("publication {publication} does not publish {}", missing.join(", ")),
                remedy: format!(
                    "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
                    quote_ident(publication)
                ),
            });
        }
    }
    faults
}

/// Rows that would be read by a snapshot, and whose changes the stream would not have.
fn structure(table: &TableShape, faults: &mut Vec<Fault>) {
    let name = table.table();
    if !table.children.is_empty() {
        let children = table.children.join(", ");
        faults.push(Fault {
            what: format!("{name} has inheritance children ({children}): their changes are not in its stream"),
            remedy: format!(
                "detach each of them with ALTER TABLE ... NO INHERIT {}, or map them with users.query and watch",
                quote_table(&name)
            ),
        });
    }
    for leaf in &table.leaves {
        let what = match (&*leaf.kind, &*leaf.persistence) {
            ("r", "p") => continue,
            ("r", _) => "is an unlogged table",
            _ => "is a foreign table",
        };
        let table = quote_table(&leaf.table());
        faults.push(Fault {
            what: format!("{} {what}: its changes are not replicated", leaf.table()),
            remedy: match &*leaf.kind {
                "r" => format!("ALTER TABLE {table} SET LOGGED;"),
                _ => format!("ALTER TABLE {} DETACH PARTITION {table};", quote_table(&name)),
            },
        });
    }
}

/// From PostgreSQL 18 on, a table refuses UPDATE and DELETE if its replica identity has a generated column that is not
/// published.
fn generated(shape: &SourceShape, table: &TableShape, publication: &str, faults: &mut Vec<Fault>) {
    const REFUSED_SINCE: i32 = 180_000;
    let publishes = shape.publication.as_ref().is_some_and(|row| row.generated == "s");
    if shape.server_version < REFUSED_SINCE || publishes {
        return;
    }
    let generated: Vec<_> = table.columns.iter().filter(|column| column.is_generated).collect();
    let covers = |leaf: &LeafShape| {
        let in_index = |name: &String| leaf.identity_columns.contains(name);
        leaf.identity == "f" && !generated.is_empty() || generated.iter().any(|column| in_index(&column.name))
    };
    let Some(leaf) = table.leaves.iter().find(|leaf| covers(leaf)) else { return };
    let publication = quote_ident(publication);
    faults.push(Fault {
        what: format!(
            "the replica identity of {} has a generated column that is not published: the store's own UPDATEs and DELETEs \
             fail",
            leaf.table()
        ),
        remedy: match &shape.publication {
            Some(_) => format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = 'stored');"),
            None => format!(
                "CREATE PUBLICATION {publication} FOR TABLE {} WITH (publish_via_partition_root = true, \
                 publish_generated_columns = 'stored');",
                quote_table(&table.table())
            ),
        },
    });
}

fn published(
    shape: &SourceShape,
    table: &TableShape,
    publication: &str,
    is_read: &impl Fn(&TableName, &str) -> bool,
    faults: &mut Vec<Fault>,
) {
    let (Some(row), Some(published)) = (&shape.publication, &table.published) else { return };
    let name = table.table();
    if table.is_partitioned && !row.via_root {
        faults.push(Fault {
            what: format!(
                "{name} is partitioned, and publication {publication} publishes its changes under the partitions' names"
            ),
            remedy: format!("ALTER PUBLICATION {} SET (publish_via_partition_root = true);", quote_ident(publication)),
        });
    }
    let others = shape.tables.iter().filter(|other| other.oid != table.oid && other.published.is_some());
    let tables: Vec<_> = others.map(|other| quote_table(&other.table())).chain([quote_table(&name)]).collect();
    let whole = format!("ALTER PUBLICATION {} SET TABLE {};", quote_ident(publication), tables.join(", "));
    if published.has_row_filter {
        faults.push(Fault {
            what: format!("publication {publication} publishes only some rows of {name}"),
            remedy: whole.clone(),
        });
    }
    let Some(columns) = &published.columns else { return };
    let is_hidden = |number: i32| !columns.contains(&number);
    let read = table.columns.iter().filter(|column| is_read(&name, &column.name) && is_hidden(column.number));
    let hidden: Vec<_> = read.map(|column| &*column.name).collect();
    if !hidden.is_empty() {
        faults.push(Fault {
            what: format!("publication {publication} omits columns of {name}: {}", hidden.join(", ")),
            remedy: whole,
        });
    }
}
