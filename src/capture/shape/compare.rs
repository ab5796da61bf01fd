//! What a difference between two shapes means for the rows that targets hold. Pure.

use super::model::{LeafShape, SourceShape, TableShape, TypeShape};
use crate::model::{Oid, TableName};
use std::collections::BTreeSet;

/// Until this version a walsender that has seen a change of a table goes on to publish it as it did then, whether or not it
/// is still a partition. Later ones look again (`rel_sync_cache_relation_cb`).
pub(super) const REMEMBERS_UNTIL_VERSION: i32 = 150_000;

/// What has to be done because the shape changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ShapeChange {
    /// Nothing: every row reads as before, and the stream has every change.
    Harmless,
    /// These partitions may have brought rows that the stream does not have.
    NewLeaves(Vec<LeafShape>),
    /// Rows may have changed, appeared or vanished without a message in the stream. Holds the reason.
    Rows(String),
}

/// Compares the shape that the targets' rows were read with and the current one. `is_read`: whether a row depends on the
/// column. Columns that were added, and changes of a column's type, change the mapping's fingerprint, which is compared
/// elsewhere.
pub(crate) fn compare(
    known: &SourceShape,
    now: &SourceShape,
    is_read: &impl Fn(&TableName, &str) -> bool,
) -> ShapeChange {
    let mut new_leaves = Vec::new();
    for table in &now.tables {
        let name = table.table();
        // A table that is new to the mapping changes the fingerprint.
        let Some(before) = known.table(&name) else { continue };
        let is_read = |column: &str| is_read(&name, column);
        if let Some(why) = changed_rows(before, table, &is_read) {
            return ShapeChange::Rows(format!("{name}: {why}"));
        }
        let is_new = |leaf: &&LeafShape| !before.leaves.iter().any(|known| known.oid == leaf.oid);
        new_leaves.extend(table.leaves.iter().filter(is_new).cloned());
    }
    if new_leaves.is_empty() { ShapeChange::Harmless } else { ShapeChange::NewLeaves(new_leaves) }
}

/// Whether the server would publish too little or too much of a partition from a slot that still has to send changes from before
/// it was attached or detached. A slot that is created afterwards has none of them.
pub(crate) fn outdates_slot(known: &SourceShape, now: &SourceShape) -> bool {
    let is_outdated = |table: &TableShape| {
        let Some(before) = known.table(&table.table()).filter(|before| before.oid == table.oid) else { return false };
        let is_new = |leaf: &LeafShape| !before.leaves.iter().any(|known| is_still_attached(known, leaf));
        let is_gone = |leaf: &LeafShape| !table.leaves.iter().any(|now| now.oid == leaf.oid);
        table.leaves.iter().any(|leaf| is_new(leaf) && !leaf.is_created_attached) || before.leaves.iter().any(is_gone)
    };
    now.server_version < REMEMBERS_UNTIL_VERSION && now.tables.iter().any(is_outdated)
}

/// Whether it is the same partition, and was not detached in between.
fn is_still_attached(known: &LeafShape, now: &LeafShape) -> bool {
    // Earlier versions did not record it.
    known.oid == now.oid && (known.attached_by.is_empty() || known.attached_by == now.attached_by)
}

fn changed_rows(before: &TableShape, now: &TableShape, is_read: &impl Fn(&str) -> bool) -> Option<String> {
    if before.oid != now.oid {
        return Some("the table was replaced".to_owned());
    }
    let mut is_rewritten = false;
    for column in now.columns.iter().filter(|column| is_read(&column.name)) {
        let Some(known) = before.columns.iter().find(|known| known.name == column.name) else { continue };
        let name = &column.name;
        if known.number != column.number {
            return Some(format!("column {name} was dropped and added again"));
        }
        if known.typmod != column.typmod || known.is_generated != column.is_generated {
            return Some(format!("column {name} was altered"));
        }
        is_rewritten |= known.version != column.version;
    }
    for oid in read_types(now, is_read) {
        let Some(known) = before.types.get(&oid) else { continue };
        if now.types.get(&oid).is_some_and(|now| !reads_alike(known, now)) {
            return Some("a type of its columns was altered".to_owned());
        }
    }
    for leaf in &before.leaves {
        match now.leaves.iter().find(|now| now.oid == leaf.oid) {
            None => return Some(format!("partition {} was detached or dropped", leaf.table())),
            Some(now) if !is_still_attached(leaf, now) => {
                return Some(format!("partition {} was detached and attached again", leaf.table()));
            }
            Some(now) if now.filenode == leaf.filenode => {}
            // TRUNCATE of a partition is not in the stream, and looks like VACUUM FULL.
            Some(_) if leaf.oid != before.oid => {
                return Some(format!("partition {} was truncated or rewritten", leaf.table()));
            }
            // ALTER TABLE writes the column's row, VACUUM FULL and pg_repack do not.
            Some(_) if is_rewritten => return Some("its rows were rewritten".to_owned()),
            Some(_) => {}
        }
    }
    None
}

/// The types that are not built in and that the columns that are read are made of.
fn read_types(table: &TableShape, is_read: &impl Fn(&str) -> bool) -> BTreeSet<Oid> {
    let mut found = BTreeSet::new();
    let read = table.columns.iter().filter(|column| is_read(&column.name));
    let mut next: Vec<Oid> = read.map(|column| column.type_oid).collect();
    while let Some(oid) = next.pop() {
        let Some(kind) = table.types.get(&oid) else { continue };
        if found.insert(oid) {
            next.push(kind.inner);
            next.extend(kind.attributes.iter().map(|(_, _, type_oid, _)| *type_oid));
        }
    }
    found
}

/// Whether a value reads as before. A new label of an enum changes no row.
fn reads_alike(known: &TypeShape, now: &TypeShape) -> bool {
    let has_label = |(oid, label)| now.labels.get(oid) == Some(label);
    known.attributes == now.attributes
        && known.inner == now.inner
        && known.json_cast == now.json_cast
        && known.labels.iter().all(has_label)
}
