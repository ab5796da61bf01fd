//! The statement of a batch, as text: rows and checkpoint together. Pure; the text depends only on the table's shape and
//! on the parts of the batch.
//!
//! Every part that writes rows refers to `guard`: otherwise it would write although the guard fails.

use super::notify::Notify;
use super::plan::Rows;
use super::shape::{COLUMNS, Shape};
use super::statement::guard_where;
use crate::model::Deletes;

/// The parts of a batch. The statement has no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Parts {
    /// Whole rows.
    pub(crate) upserts: bool,
    /// Columns of live rows.
    pub(crate) patches: bool,
    /// Deleted users.
    pub(crate) deletes: bool,
    /// One whole row and nothing else. Its values are parameters of their own instead of arrays of one element: the planner
    /// puts them where they are used, and the statement takes a fifth less time.
    pub(crate) single: bool,
    /// Part of an open transaction whose first statement was the guard: writes rows and leaves the
    /// checkpoint.
    pub(crate) chunk: bool,
    /// The target has signatures: guard and checkpoint include them.
    pub(crate) signs: bool,
    /// What is sent to listeners.
    pub(crate) notify: Notify,
}

impl Parts {
    /// The parts of a statement that writes these rows.
    pub(super) fn of(rows: &Rows<'_>, chunk: bool, signs: bool, notify: Notify) -> Parts {
        Parts {
            upserts: !rows.upserts.is_empty(),
            patches: !rows.patches.is_empty(),
            deletes: !rows.deletes.is_empty(),
            single: rows.single().is_some(),
            chunk,
            signs,
            notify,
        }
    }
}

/// The arrays of whole rows, in the order of their parameters.
const USER_ARRAYS: [(&str, &str); 8] = [
    ("id", "text"),
    ("raw_json", "jsonb"),
    ("name", "text"),
    ("email", "text"),
    ("created_at", "timestamptz"),
    ("updated_at", "timestamptz"),
    ("deleted_at", "timestamptz"),
    ("derived", "bool"),
];

/// The arrays of patches: each value with a flag that says whether it is set.
const PATCH_ARRAYS: [(&str, &str); 13] = [
    ("id", "text"),
    ("raw_json", "jsonb"),
    ("set_name", "bool"),
    ("name", "text"),
    ("set_email", "bool"),
    ("email", "text"),
    ("set_created_at", "bool"),
    ("created_at", "timestamptz"),
    ("set_updated_at", "bool"),
    ("updated_at", "timestamptz"),
    ("set_deleted_at", "bool"),
    ("deleted_at", "timestamptz"),
    ("derived", "bool"),
];

/// Whether triggers can skip rows: those that are BEFORE (2) or INSTEAD OF (64) in `tgtype`.
const MAY_SKIP: &str = "EXISTS (SELECT FROM pg_catalog.pg_trigger \
    WHERE tgrelid = 'neon_auth.users_sync'::regclass AND tgtype & 66 <> 0)";

/// What a row with another id adds to the number of skipped rows: more than there can be.
pub(super) const STRAYED: i64 = 1 << 32;

/// Ids that are looked up faster than the catalog's triggers.
const FEW: usize = 64;

/// Whether triggers can skip rows, or change their ids.
pub(crate) fn may_skip() -> String {
    format!("SELECT {MAY_SKIP}")
}

/// The number of rows that a merge did not write: triggers skipped them. Counted only if there are triggers that can.
pub(crate) fn count_skipped(shape: &Shape) -> String {
    format!(
        "SELECT CASE WHEN {MAY_SKIP} THEN (SELECT count(*) FROM pg_temp.users_sync_stage v \
         LEFT JOIN neon_auth.users_sync u ON u.id = v.id WHERE v.raw_json IS NOT NULL AND (u.id IS NULL OR {})) ELSE 0 END",
        shape.differs("v")
    )
}

/// The statement of a batch: guard, rows, and a count of the guard's rows. The guard's parameters are those of
/// [`lock_checkpoint`], the new position, and with signatures the new signature. After them come
/// the arrays of upserts (8), patches (13) and deletes (2), with documents as text.
///
/// Deletes come first, then updates, then inserts: a value that one user gives up is free for another. Each part refers
/// to a count of the part before, as the server does not run CTEs in their order.
///
/// A BEFORE trigger that returns NULL skips its row without an error, and one that changes the id writes another user's row.
/// The fourth output column of a chunk is the number of rows that were skipped, and [`STRAYED`] for each one with another id.
/// Any other statement fails if that may have happened, so that the checkpoint does not move
/// past it: to plan the joins that tell skipped rows from unchanged ones would double the time of a small batch.
pub(crate) fn batch_statement(shape: &Shape, deletes: Deletes, parts: Parts) -> String {
    let mut next = match (parts.chunk, parts.signs) {
        (true, _) => 1,
        (false, false) => 7,
        (false, true) => 10,
    };
    // unnest() in the select list parses a document when its row is built. In FROM it would copy every row,
    // and an array of jsonb every document (some 4 of 15 microseconds a row).
    let mut parameters = |columns: &[(&str, &str)]| {
        let ids = next;
        let listed = columns.iter().map(|(name, kind)| {
            let (sent, cast) = if *kind == "jsonb" { ("text", "::jsonb") } else { (*kind, "") };
            next += 1;
            if parts.single {
                format!("${}::{sent}{cast} AS {name}", next - 1)
            } else {
                format!("unnest(${}::{sent}[]){cast} AS {name}", next - 1)
            }
        });
        let listed = listed.collect::<Vec<_>>().join(", ");
        (listed, if parts.single { format!("ARRAY[${ids}::text]") } else { format!("${ids}::text[]") })
    };
    let mut with: Vec<String> = Vec::new();
    let mut deleted: Option<Write> = None;
    let mut patched: Option<Write> = None;
    let mut upserted: Option<Write> = None;
    let mut guard_where = guard_where(parts.signs);
    if parts.upserts {
        let (columns, ids) = parameters(&USER_ARRAYS);
        let kind = if parts.single { "NOT MATERIALIZED" } else { "MATERIALIZED" };
        with.push(format!("v AS {kind} (SELECT {columns})"));
        // Usually every row is an update. Then no id is looked up a second time.
        let insert = format!("{} AND {} < cardinality({ids})", shape.insert("v"), count("updated"));
        upserted = Some(Write {
            parts: vec![("updated", shape.update("v")), ("inserted", insert)],
            due: format!("cardinality({ids}) - {}", unchanged(shape, "v")),
            source: "v",
            ids,
        });
    }
    if parts.patches {
        let (columns, ids) = parameters(&PATCH_ARRAYS);
        with.push(format!("p AS MATERIALIZED (SELECT {columns})"));
        let value = |column: &str| match column {
            "raw_json" => "u.raw_json || p.raw_json AS raw_json".to_owned(),
            column => format!("CASE WHEN p.set_{column} THEN p.{column} ELSE u.{column} END AS {column}"),
        };
        let values = COLUMNS[1..].iter().map(|column| value(column)).collect::<Vec<_>>().join(", ");
        with.push(format!(
            "w AS MATERIALIZED (SELECT p.id, {values}, p.derived \
             FROM p JOIN neon_auth.users_sync u ON u.id = p.id AND u.deleted_at IS NULL)"
        ));
        let update = format!(
            "UPDATE neon_auth.users_sync u SET {} FROM w, guard WHERE u.id = w.id AND {}",
            shape.assignments("w"),
            shape.differs("w")
        );
        patched = Some(Write {
            parts: vec![("patched", update)],
            due: format!("cardinality({ids}) - {}", unchanged(shape, "w")),
            source: "w",
            ids,
        });
        guard_where.push_str(" AND (SELECT count(*) FROM p) = (SELECT count(*) FROM w)");
    }
    if parts.deletes {
        let (columns, ids) = parameters(&[("id", "text"), ("at", "timestamptz")]);
        with.push(format!("d AS MATERIALIZED (SELECT {columns})"));
        let (delete, live) = match deletes {
            Deletes::Soft => (
                "UPDATE neon_auth.users_sync u SET deleted_at = d.at FROM d, guard \
                 WHERE u.id = d.id AND u.deleted_at IS NULL",
                " WHERE u.deleted_at IS NULL",
            ),
            Deletes::Hard => ("DELETE FROM neon_auth.users_sync u USING d, guard WHERE u.id = d.id", ""),
        };
        deleted = Some(Write {
            parts: vec![("deleted", delete.to_owned())],
            due: format!("(SELECT count(*) FROM d JOIN neon_auth.users_sync u ON u.id = d.id{live})"),
            source: "d",
            ids,
        });
    }
    with.push(if !parts.chunk {
        let moved = if parts.signs { "position = $8, epoch = $4, mac = $9" } else { "position = $6, epoch = $4" };
        format!("guard AS (UPDATE users_sync.checkpoint SET {moved} WHERE {guard_where} RETURNING 1)")
    } else if parts.patches {
        "guard AS (SELECT 1 WHERE (SELECT count(*) FROM p) = (SELECT count(*) FROM w))".to_owned()
    } else {
        "guard AS (SELECT 1)".to_owned()
    });
    let mut written: Vec<&str> = Vec::new();
    let mut skipped: Vec<String> = Vec::new();
    for write in [deleted, patched, upserted].into_iter().flatten() {
        skipped.push(if parts.chunk { write.skipped() } else { write.is_incomplete() });
        for (part, sql) in &write.parts {
            let returning = write.returning(part);
            // The count is complete only once the part before has written all of its rows.
            let after = written.last().map_or_else(String::new, |before| format!(" AND {} >= 0", count(before)));
            with.push(format!("{part} AS ({sql}{after} RETURNING {returning})"));
            written.push(part);
        }
    }
    let skipped = match (skipped.is_empty(), parts.chunk) {
        (true, _) => "0::int8".to_owned(),
        (false, true) => format!("(CASE {} WHEN 0 THEN 0 ELSE {} END)::int8", count("guard"), skipped.join(" + ")),
        (false, false) => format!(
            // The text is not a constant, which the planner would convert.
            "CASE WHEN ({}) AND {guard} = 1 AND {MAY_SKIP} THEN ('rows are missing at ' || {guard})::int8 ELSE 0 END",
            skipped.join(" OR "),
            guard = count("guard")
        ),
    };
    format!(
        "WITH {} SELECT {}, pg_relation_filenode('neon_auth.users_sync'), \
         set_config('synchronous_commit', 'on', true), {skipped}{}",
        with.join(", "),
        count("guard"),
        parts.notify.of(&written)
    )
}

/// The parts of a batch's statement that write one kind of rows.
struct Write<'a> {
    /// Name and SQL of each part.
    parts: Vec<(&'a str, String)>,
    /// The CTE with the rows to write.
    source: &'a str,
    /// The array with the ids that were sent.
    ids: String,
    /// The number of these that have to be written: the others change nothing. Costs a join.
    due: String,
}

impl Write<'_> {
    /// What a part returns for each row that it has written. `arrived` tells whether the row has the id that was sent. INSERT
    /// cannot refer to its source there, so its rows are looked up, one by one in a generic plan: in a large batch only if there is
    /// a trigger that could have changed them.
    fn returning(&self, part: &str) -> String {
        match part {
            "inserted" => {
                format!("id, (cardinality({0}) > {FEW} AND NOT {MAY_SKIP} OR id = ANY ({0})) AS arrived", self.ids)
            }
            _ => format!("u.id, u.id = {}.id AS arrived", self.source),
        }
    }

    /// The number of rows that were written with any id.
    fn written(&self) -> String {
        self.parts.iter().map(|(part, _)| count(part)).collect::<Vec<_>>().join(" + ")
    }

    /// The number of rows that were written with their ids.
    fn arrived(&self) -> String {
        let count = |part: &str| format!("(SELECT count(*) FROM {part} WHERE arrived)");
        self.parts.iter().map(|(part, _)| count(part)).collect::<Vec<_>>().join(" + ")
    }

    /// Whether fewer rows arrived than were sent.
    fn is_incomplete(&self) -> String {
        format!("cardinality({}) <> {}", self.ids, self.arrived())
    }

    /// The number of rows that have to be written and were not: a BEFORE trigger returned NULL. Rows that were written with
    /// another id count as [`STRAYED`] each. The joins run only if fewer rows arrived than were sent.
    fn skipped(&self) -> String {
        let (written, arrived) = (self.written(), self.arrived());
        format!(
            "CASE WHEN {written} <> {arrived} THEN (({written}) - ({arrived})) * {STRAYED} \
             WHEN {} THEN {} - ({written}) ELSE 0 END",
            self.is_incomplete(),
            self.due
        )
    }
}

fn count(part: &str) -> String {
    format!("(SELECT count(*) FROM {part})")
}

/// The number of rows of `source` that the table has already.
fn unchanged(shape: &Shape, source: &str) -> String {
    format!(
        "(SELECT count(*) FROM {source} JOIN neon_auth.users_sync u ON u.id = {source}.id WHERE NOT {})",
        shape.differs(source)
    )
}

/// Gives rows a value that frees what others may want: no name, no email, and of the document only what a generated id needs.
/// `$1`: the ids.
pub(super) fn interim(shape: &Shape) -> String {
    let assign = |column| match column {
        "raw_json" => Some(
            "raw_json = CASE WHEN u.raw_json ? 'id' THEN jsonb_build_object('id', u.raw_json -> 'id') ELSE '{}' END",
        ),
        "name" => Some("name = NULL"),
        "email" => Some("email = NULL"),
        _ => None,
    };
    let assignments = shape.writable().filter_map(assign).collect::<Vec<_>>().join(", ");
    format!("UPDATE neon_auth.users_sync u SET {assignments} WHERE u.id = ANY($1)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::shape::tests::columns;

    const ALL: Parts = Parts {
        upserts: true,
        patches: true,
        deletes: true,
        single: false,
        chunk: false,
        signs: false,
        notify: Notify::Off,
    };

    #[test]
    fn every_part_that_writes_refers_to_the_guard() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        for chunk in [false, true] {
            let parts = Parts { chunk, ..ALL };
            for deletes in [Deletes::Soft, Deletes::Hard] {
                let sql = batch_statement(&shape, deletes, parts);
                for part in ["updated AS", "inserted AS", "patched AS", "deleted AS"] {
                    let body = sql.split(part).nth(1).unwrap().split(" AS (").next().unwrap();
                    assert!(body.contains(", guard "), "{part} without guard in {sql}");
                }
                assert!(sql.contains("(SELECT count(*) FROM p) = (SELECT count(*) FROM w)"));
                assert_eq!(sql.contains("UPDATE users_sync.checkpoint"), !chunk);
            }
        }
    }

    #[test]
    fn every_parameter_is_used_once_and_in_order() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        for (chunk, signs, first) in [(false, false, 7), (false, true, 10), (true, false, 1), (true, true, 1)] {
            let sql = batch_statement(&shape, Deletes::Soft, Parts { chunk, signs, ..ALL });
            let arrays: Vec<_> = sql.split('$').skip(1).filter_map(|rest| rest.split_once("::")).collect();
            let numbers: Vec<u32> = arrays.iter().filter_map(|(number, _)| number.parse().ok()).collect();
            let expected: Vec<u32> = (first..first + 8 + 13 + 2).collect();
            let arrays: Vec<_> = numbers.into_iter().filter(|number| *number >= first).collect();
            // The ids are counted, too.
            let used: Vec<_> = arrays.iter().copied().take(expected.len()).collect();
            assert_eq!(used, expected, "{sql}");
            assert!(arrays[expected.len()..].iter().all(|id| [first, first + 8, first + 21].contains(id)), "{sql}");
        }
    }

    #[test]
    fn deletes_come_before_updates_and_inserts_come_last() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        let sql = batch_statement(&shape, Deletes::Hard, ALL);
        for (part, before) in [("patched", "deleted"), ("updated", "patched"), ("inserted", "updated")] {
            let body = sql.split(&format!("{part} AS (")).nth(1).unwrap().split(" RETURNING").next().unwrap();
            assert!(body.ends_with(&format!("AND (SELECT count(*) FROM {before}) >= 0")), "{part} in {sql}");
        }
        assert!(sql.contains("AND (SELECT count(*) FROM updated) < cardinality($7::text[]) AND"), "{sql}");
    }

    #[test]
    fn a_single_row_has_a_parameter_for_each_value() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        for (chunk, signs, first) in [(false, false, 7), (false, true, 10), (true, false, 1)] {
            let parts = Parts { patches: false, deletes: false, single: true, chunk, signs, ..ALL };
            let sql = batch_statement(&shape, Deletes::Soft, parts);
            assert!(!sql.contains("unnest") && !sql.contains("text[]"), "{sql}");
            for (column, (name, kind)) in USER_ARRAYS.iter().enumerate() {
                let kind = if *kind == "jsonb" { "text::jsonb" } else { kind };
                assert!(sql.contains(&format!("${}::{kind} AS {name}", first + column)), "{name} in {sql}");
            }
            assert!(sql.contains(&format!("< cardinality(ARRAY[${first}::text])")), "{sql}");
        }
    }

    #[test]
    fn a_batch_without_rows_only_moves_the_checkpoint() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        for (signs, moved) in [(false, "SET position = $6, epoch = $4 WHERE"), (true, "mac = $9 WHERE")] {
            let parts = Parts { upserts: false, patches: false, deletes: false, signs, ..ALL };
            let sql = batch_statement(&shape, Deletes::Soft, parts);
            assert!(!sql.contains("neon_auth.users_sync u") && sql.contains(moved), "{sql}");
            assert_eq!(sql.contains("AND mac = $6 AND mapping = $7"), signs);
        }
    }
}
