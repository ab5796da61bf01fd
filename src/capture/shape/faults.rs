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

/// The first version in which a table refuses UPDATE and DELETE if its replica identity has a generated column that is not
/// published.
const GENERATED_REFUSED_SINCE: i32 = 180_000;

/// What the publication has to do about the generated columns of a table, so that the store's changes do not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GeneratedColumns {
    /// Nothing.
    Ignored,
    /// The replica identity has stored ones.
    Published,
    /// The replica identity has virtual ones, which no publication has.
    Impossible,
}

/// As of a partition's or a table's replica identity. `becomes_full`: it will be FULL.
pub(crate) fn generated_columns(
    shape: &SourceShape,
    table: &TableShape,
    leaf: &LeafShape,
    becomes_full: bool,
) -> GeneratedColumns {
    let is_full = becomes_full || leaf.identity == "f";
    let is_covered = |name: &String| is_full || leaf.identity_columns.contains(name);
    let mut covered = table.columns.iter().filter(|column| column.is_generated && is_covered(&column.name)).peekable();
    if shape.server_version < GENERATED_REFUSED_SINCE || covered.peek().is_none() {
        GeneratedColumns::Ignored
    } else if covered.any(|column| column.is_virtual) {
        GeneratedColumns::Impossible
    } else {
        GeneratedColumns::Published
    }
}

fn generated(shape: &SourceShape, table: &TableShape, publication: &str, faults: &mut Vec<Fault>) {
    let of = |leaf: &LeafShape| generated_columns(shape, table, leaf, false);
    let publishes = shape.publication.as_ref().is_some_and(|row| row.generated == "s");
    let quoted = quote_ident(publication);
    let harms = |leaf: &LeafShape, which: &str| {
        format!(
            "the replica identity of {} has a generated column that {which}: the store's own UPDATEs and DELETEs fail",
            leaf.table()
        )
    };
    if let Some(leaf) = table.leaves.iter().find(|leaf| of(leaf) == GeneratedColumns::Impossible) {
        faults.push(Fault {
            what: harms(leaf, "is virtual, and so is never published"),
            remedy: format!(
                "use an index on NOT NULL columns as its replica identity: ALTER TABLE {} REPLICA IDENTITY USING INDEX ...;",
                quote_table(&leaf.table())
            ),
        });
    } else if let Some(leaf) = table.leaves.iter().find(|leaf| of(leaf) == GeneratedColumns::Published && !publishes) {
        faults.push(Fault {
            what: harms(leaf, "is not published"),
            remedy: match &shape.publication {
                Some(_) => format!("ALTER PUBLICATION {quoted} SET (publish_generated_columns = 'stored');"),
                None => format!(
                    "CREATE PUBLICATION {quoted} FOR TABLE {} WITH (publish_via_partition_root = true, \
                     publish_generated_columns = 'stored');",
                    quote_table(&table.table())
                ),
            },
        });
    }
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
