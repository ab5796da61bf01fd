//! The SQL of a target, as text: pure, and the same for a shape and the parts that a batch has.
//!
//! Every part that writes rows refers to `guard`; one that did not would write even where the guard fails.
//! A plain UPDATE takes no lock that an application's foreign-key check waits for; ON CONFLICT would.

use super::notify::Notify;
use crate::model::Deletes;

/// The columns whose values a row of `users_sync` carries, in the order of the arrays.
const COLUMNS: [&str; 7] = ["id", "raw_json", "name", "email", "created_at", "updated_at", "deleted_at"];

/// Which columns of `neon_auth.users_sync` can be written: a generated one follows `raw_json` by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    writable: [bool; 7],
}

/// `neon_auth.users_sync` is not a table that can be written to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A column is not there.
    #[error("neon_auth.users_sync has no column {0}")]
    Missing(&'static str),
    /// A column that only we can write is generated.
    #[error("column {0} of neon_auth.users_sync is generated, but users-sync has to write it")]
    Generated(&'static str),
    /// A column has another type.
    #[error("column {column} of neon_auth.users_sync has the type {found} instead of {expected}")]
    Type {
        /// Which.
        column: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
}

impl Shape {
    /// From the catalog: name, `format_type`, and whether `attgenerated` is set, per column.
    pub fn from_columns(found: &[(String, String, bool)]) -> Result<Shape, ShapeError> {
        let types = ["text", "jsonb", "text", "text", TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ];
        let mut writable = [true; 7];
        for ((column, expected), writable) in COLUMNS.into_iter().zip(types).zip(&mut writable) {
            let (_, kind, generated) =
                found.iter().find(|(name, ..)| name == column).ok_or(ShapeError::Missing(column))?;
            if kind != expected {
                return Err(ShapeError::Type { column, expected, found: kind.clone() });
            }
            if *generated && matches!(column, "raw_json" | "updated_at" | "deleted_at") {
                return Err(ShapeError::Generated(column));
            }
            *writable = !generated;
        }
        Ok(Shape { writable })
    }

    /// The columns that a COPY or INSERT names.
    pub fn writable(&self) -> impl Iterator<Item = &'static str> + '_ {
        COLUMNS.into_iter().zip(self.writable).filter_map(|(column, writable)| writable.then_some(column))
    }

    /// Whether every column is written by us: the plain shape.
    pub fn is_plain(&self) -> bool {
        self.writable == [true; 7]
    }

    /// `prefix.column, ...` of the writable ones.
    fn list(&self, prefix: &str) -> String {
        self.writable().map(|column| format!("{prefix}{column}")).collect::<Vec<_>>().join(", ")
    }

    /// `column = source.column, ...` of the writable ones but the key.
    fn assignments(&self, source: &str) -> String {
        let assign = |column| format!("{column} = {source}.{column}");
        self.writable().filter(|column| *column != "id").map(assign).collect::<Vec<_>>().join(", ")
    }

    /// Whether the row `u` differs from `source` in what it holds. A derived time alone is no difference.
    pub fn differs(&self, source: &str) -> String {
        let compared = |prefix: &str| {
            let columns = self.writable().filter(|column| !matches!(*column, "id" | "updated_at"));
            columns.map(|column| format!("{prefix}.{column}")).collect::<Vec<_>>().join(", ")
        };
        format!(
            "(({}) IS DISTINCT FROM ({}) OR NOT {source}.derived AND u.updated_at IS DISTINCT FROM {source}.updated_at)",
            compared("u"),
            compared(source)
        )
    }

    /// UPDATE and INSERT that make `users_sync` hold the rows of `source`, a relation with the seven columns and
    /// `derived`, as CTEs that refer to `guard`; and what each of the two returns.
    fn upsert(&self, source: &str, [updated, inserted]: [&str; 2]) -> String {
        format!(
            "updated AS (UPDATE neon_auth.users_sync u SET {assignments} FROM {source} v, guard \
               WHERE u.id = v.id AND {differs}{updated}), \
             inserted AS (INSERT INTO neon_auth.users_sync ({columns}) SELECT {values} FROM {source} v, guard \
               WHERE NOT EXISTS (SELECT FROM neon_auth.users_sync u WHERE u.id = v.id){inserted})",
            assignments = self.assignments("v"),
            differs = self.differs("v"),
            columns = self.list(""),
            values = self.list("v."),
        )
    }
}

const TIMESTAMPTZ: &str = "timestamp with time zone";

/// What a target needs before anything else, in schema `users_sync`. Only run where it is missing.
pub const CREATE_CHECKPOINT: &str = "\
CREATE TABLE IF NOT EXISTS users_sync.checkpoint (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  tenant text NOT NULL,
  target_id uuid NOT NULL,
  generation bigint NOT NULL,
  position pg_lsn NOT NULL,
  epoch bigint NOT NULL,
  mapping text NOT NULL
)";

/// The users that a target refuses, in schema `users_sync`.
pub const CREATE_REJECTED: &str = "\
CREATE TABLE IF NOT EXISTS users_sync.rejected (
  id text PRIMARY KEY,
  reason text NOT NULL,
  sqlstate text NOT NULL,
  since timestamptz NOT NULL,
  tried_at timestamptz NOT NULL
)";

/// Writes down who is refused: `$1` to `$3` are ids, reasons, codes.
pub const INSERT_REJECTED: &str = "\
INSERT INTO users_sync.rejected AS r (id, reason, sqlstate, since, tried_at) \
SELECT unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), now(), now() \
ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, sqlstate = excluded.sqlstate, tried_at = now()";

/// Takes out who is not refused any more.
pub const DELETE_ACCEPTED: &str = "DELETE FROM users_sync.rejected WHERE id = ANY($1)";

/// Where a part of a transaction begins that may be taken back.
pub const SAVEPOINT: &str = "SAVEPOINT users_sync";
/// Takes it back; the savepoint stays.
pub const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT users_sync";

/// Takes away the tables that are ours in a target, but the users.
pub const DROP_OWN_TABLES: &str = "DROP TABLE IF EXISTS users_sync.checkpoint, users_sync.rejected";

/// The table that applications see, in schema `neon_auth`.
pub const CREATE_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS neon_auth.users_sync (
  id text PRIMARY KEY,
  raw_json jsonb NOT NULL,
  name text,
  email text,
  created_at timestamptz,
  deleted_at timestamptz,
  updated_at timestamptz
)";

/// Its index.
pub const CREATE_INDEX: &str =
    "CREATE INDEX IF NOT EXISTS users_sync_deleted_at_idx ON neon_auth.users_sync (deleted_at)";

/// What stands in a target: checkpoint table, users table, its columns, whether it has rows.
pub const FIND_TABLES: &str = "\
SELECT to_regclass('users_sync.checkpoint') IS NOT NULL,
       to_regclass('neon_auth.users_sync') IS NOT NULL,
       to_regclass('users_sync.rejected') IS NOT NULL";

/// Whether there is any user, and in which file they are.
pub const HAS_ROWS: &str =
    "SELECT EXISTS (SELECT FROM neon_auth.users_sync), pg_relation_filenode('neon_auth.users_sync')";

/// The columns of `users_sync`: name, type, generated.
pub const COLUMNS_OF_USERS: &str = "\
SELECT attname::text, format_type(atttypid, atttypmod), attgenerated <> ''
FROM pg_catalog.pg_attribute
WHERE attrelid = 'neon_auth.users_sync'::regclass AND attnum > 0 AND NOT attisdropped";

/// The checkpoint.
pub const READ_CHECKPOINT: &str = "\
SELECT tenant, target_id::text, generation, position, epoch, mapping FROM users_sync.checkpoint";

/// Moves the checkpoint, or locks it; `$1` to `$6`: tenant, target id, generation, epoch, from, to.
const GUARD_WHERE: &str =
    "tenant = $1 AND target_id = $2::text::uuid AND generation = $3 AND position = $5 AND epoch <= $4";

/// The first statement of a chunked transaction: holds the checkpoint's row until its end.
pub const LOCK_CHECKPOINT: &str = "\
SELECT 1 FROM users_sync.checkpoint \
WHERE tenant = $1 AND target_id = $2::text::uuid AND generation = $3 AND position = $5 AND epoch <= $4 \
FOR UPDATE";

/// Writes the first checkpoint of a target, or the one after a merge; a merge that was overtaken by a later one does not.
/// `$1` to `$6`: tenant, target id, generation, epoch, position, mapping.
pub const REPLACE_CHECKPOINT: &str = "\
INSERT INTO users_sync.checkpoint AS c (tenant, target_id, generation, epoch, position, mapping) \
VALUES ($1, $2::text::uuid, $3, $4, $5, $6) \
ON CONFLICT (only_row) DO UPDATE SET tenant = excluded.tenant, target_id = excluded.target_id, \
  generation = excluded.generation, epoch = excluded.epoch, position = excluded.position, mapping = excluded.mapping \
WHERE c.epoch <= excluded.epoch AND c.tenant = excluded.tenant \
  AND (c.generation <> excluded.generation OR c.target_id <> excluded.target_id OR c.position <= excluded.position)";

/// Which parts a batch has: the statement holds only those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parts {
    /// Whole rows.
    pub upserts: bool,
    /// Parts of live rows.
    pub patches: bool,
    /// Deletes.
    pub deletes: bool,
    /// Inside an open transaction, whose first statement was the guard: rows only, the checkpoint stays.
    pub chunk: bool,
    /// Who is told of what was written.
    pub notify: Notify,
}

/// The arrays of whole rows, in the order of the parameters.
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

/// The arrays of patches: beside each value whether it is set.
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

/// The statement for a batch: guard, rows, and a count of the guard's rows. The arrays follow the guard's
/// parameters in the order upserts (8), patches (13), deletes (2). Arrays of documents are sent as text.
pub fn batch_statement(shape: &Shape, deletes: Deletes, parts: Parts) -> String {
    let mut next = if parts.chunk { 1 } else { 7 };
    // In the select list the arrays are walked in step and a document is parsed when its row is made; FROM unnest()
    // would copy every row once more, and an array of jsonb all documents (some 4 of 15 microseconds a row).
    let mut arrays = |columns: &[(&str, &str)]| {
        let walked = columns.iter().map(|(name, kind)| {
            next += 1;
            match *kind {
                "jsonb" => format!("unnest(${}::text[])::jsonb AS {name}", next - 1),
                kind => format!("unnest(${}::{kind}[]) AS {name}", next - 1),
            }
        });
        walked.collect::<Vec<_>>().join(", ")
    };
    let mut with: Vec<String> = Vec::new();
    let mut tail: Vec<String> = Vec::new();
    let (of_u, of_new) = parts.notify.returning();
    let mut written: Vec<&str> = Vec::new();
    if parts.upserts {
        with.push(format!("v AS MATERIALIZED (SELECT {})", arrays(&USER_ARRAYS)));
        tail.push(shape.upsert("v", [of_u, of_new]));
        written.extend(["updated", "inserted"]);
    }
    let mut guard_where = GUARD_WHERE.to_owned();
    if parts.patches {
        with.push(format!("p AS MATERIALIZED (SELECT {})", arrays(&PATCH_ARRAYS)));
        let value = |column: &str| match column {
            "raw_json" => "u.raw_json || p.raw_json AS raw_json".to_owned(),
            column => format!("CASE WHEN p.set_{column} THEN p.{column} ELSE u.{column} END AS {column}"),
        };
        let values = COLUMNS[1..].iter().map(|column| value(column)).collect::<Vec<_>>().join(", ");
        with.push(format!(
            "w AS MATERIALIZED (SELECT p.id, {values}, p.derived \
             FROM p JOIN neon_auth.users_sync u ON u.id = p.id AND u.deleted_at IS NULL)"
        ));
        tail.push(format!(
            "patched AS (UPDATE neon_auth.users_sync u SET {} FROM w, guard WHERE u.id = w.id AND {}{of_u})",
            shape.assignments("w"),
            shape.differs("w")
        ));
        written.push("patched");
        guard_where.push_str(" AND (SELECT count(*) FROM p) = (SELECT count(*) FROM w)");
    }
    if parts.deletes {
        with.push(format!("d AS (SELECT {})", arrays(&[("id", "text"), ("at", "timestamptz")])));
        tail.push(match deletes {
            Deletes::Soft => format!(
                "deleted AS (UPDATE neon_auth.users_sync u SET deleted_at = d.at FROM d, guard \
                 WHERE u.id = d.id AND u.deleted_at IS NULL{of_u})"
            ),
            Deletes::Hard => {
                format!("deleted AS (DELETE FROM neon_auth.users_sync u USING d, guard WHERE u.id = d.id{of_u})")
            }
        });
        written.push("deleted");
    }
    with.push(match (parts.chunk, parts.patches) {
        (true, false) => "guard AS (SELECT 1)".to_owned(),
        (true, true) => "guard AS (SELECT 1 WHERE (SELECT count(*) FROM p) = (SELECT count(*) FROM w))".to_owned(),
        (false, _) => format!(
            "guard AS (UPDATE users_sync.checkpoint SET position = $6, epoch = $4 WHERE {guard_where} RETURNING 1)"
        ),
    });
    with.extend(tail);
    format!(
        "WITH {} SELECT (SELECT count(*) FROM guard), pg_relation_filenode('neon_auth.users_sync'), \
         set_config('synchronous_commit', 'on', true){}",
        with.join(", "),
        parts.notify.of(&written)
    )
}

/// The columns of a stage that a COPY names.
pub const STAGE_COLUMNS: [&str; 8] =
    ["id", "raw_json", "name", "email", "created_at", "updated_at", "deleted_at", "derived"];

/// The temporary table that a merge is staged in.
pub const CREATE_STAGE: &str = "\
CREATE TEMPORARY TABLE users_sync_stage (
  ordinal bigint GENERATED ALWAYS AS IDENTITY, id text PRIMARY KEY, raw_json jsonb NOT NULL, name text, email text,
  created_at timestamptz, updated_at timestamptz, deleted_at timestamptz, derived boolean NOT NULL
) ON COMMIT DROP";

/// The statements of a merge, after the stage was filled: update what differs, insert what is missing.
/// A derived time of a row that differs otherwise becomes the time of the merge. `part` narrows them down.
pub fn merge_statements(shape: &Shape, part: &str) -> [String; 2] {
    let assign = |column: &'static str| match column {
        "updated_at" => "updated_at = CASE WHEN v.derived THEN now() ELSE v.updated_at END".to_owned(),
        column => format!("{column} = v.{column}"),
    };
    let assignments = shape.writable().filter(|column| *column != "id").map(assign).collect::<Vec<_>>().join(", ");
    [
        format!(
            "UPDATE neon_auth.users_sync u SET {assignments} FROM pg_temp.users_sync_stage v \
             WHERE u.id = v.id AND {}{part}",
            shape.differs("v")
        ),
        format!(
            "INSERT INTO neon_auth.users_sync ({}) SELECT {} FROM pg_temp.users_sync_stage v \
             WHERE NOT EXISTS (SELECT FROM neon_auth.users_sync u WHERE u.id = v.id){part}",
            shape.list(""),
            shape.list("v.")
        ),
    ]
}

/// Narrows a merge down to the rows of the stage from `$1` on and before `$2`, as they came, counted from 0.
pub const PART_OF_STAGE: &str = " AND v.ordinal > $1 AND v.ordinal <= $2";
/// For [`PART_OF_STAGE`].
pub const INDEX_STAGE: &str = "CREATE INDEX ON pg_temp.users_sync_stage (ordinal)";
/// The users of a part of the stage.
pub const IDS_OF_STAGE: &str = "SELECT id FROM pg_temp.users_sync_stage v WHERE v.ordinal > $1 AND v.ordinal <= $2";

/// Whom the stage lacks, as a stage of its own: deletes are narrowed down, too.
pub fn create_absent(deletes: Deletes) -> String {
    let live = match deletes {
        Deletes::Soft => " AND u.deleted_at IS NULL",
        Deletes::Hard => "",
    };
    format!(
        "CREATE TEMPORARY TABLE users_sync_absent ON COMMIT DROP AS SELECT row_number() OVER () AS ordinal, u.id \
         FROM neon_auth.users_sync u \
         WHERE NOT EXISTS (SELECT FROM pg_temp.users_sync_stage v WHERE v.id = u.id){live}"
    )
}

/// Deletes a part of those.
pub fn delete_part_of_absent(deletes: Deletes) -> &'static str {
    match deletes {
        Deletes::Soft => {
            "UPDATE neon_auth.users_sync u SET deleted_at = now() FROM pg_temp.users_sync_absent v \
             WHERE u.id = v.id AND v.ordinal > $1 AND v.ordinal <= $2"
        }
        Deletes::Hard => {
            "DELETE FROM neon_auth.users_sync u USING pg_temp.users_sync_absent v \
             WHERE u.id = v.id AND v.ordinal > $1 AND v.ordinal <= $2"
        }
    }
}

/// The users of a part of those.
pub const IDS_OF_ABSENT: &str = "SELECT id FROM pg_temp.users_sync_absent v WHERE v.ordinal > $1 AND v.ordinal <= $2";

/// How many live users a target has, how many of them the stage lacks (what a merge would delete), how many of all the
/// stage lacks, and how many of the stage the target lacks.
pub const COUNT_ABSENT: &str = "\
SELECT count(u.id) FILTER (WHERE u.deleted_at IS NULL), \
  count(u.id) FILTER (WHERE v.id IS NULL AND u.deleted_at IS NULL), \
  count(u.id) FILTER (WHERE v.id IS NULL), count(v.id) FILTER (WHERE u.id IS NULL) \
FROM neon_auth.users_sync u FULL JOIN pg_temp.users_sync_stage v ON v.id = u.id";

/// Deletes whom the stage lacks.
pub fn delete_absent(deletes: Deletes) -> &'static str {
    match deletes {
        Deletes::Soft => {
            "UPDATE neon_auth.users_sync u SET deleted_at = now() WHERE u.deleted_at IS NULL \
             AND NOT EXISTS (SELECT FROM pg_temp.users_sync_stage v WHERE v.id = u.id)"
        }
        Deletes::Hard => {
            "DELETE FROM neon_auth.users_sync u \
             WHERE NOT EXISTS (SELECT FROM pg_temp.users_sync_stage v WHERE v.id = u.id)"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(generated: &[&str]) -> Vec<(String, String, bool)> {
        COLUMNS
            .iter()
            .map(|column| {
                let kind = match *column {
                    "raw_json" => "jsonb",
                    "id" | "name" | "email" => "text",
                    _ => TIMESTAMPTZ,
                };
                (column.to_string(), kind.to_owned(), generated.contains(column))
            })
            .collect()
    }

    #[test]
    fn both_table_shapes_are_recognised_and_others_are_reported() {
        assert!(Shape::from_columns(&columns(&[])).unwrap().is_plain());
        let neon = Shape::from_columns(&columns(&["id", "name", "email", "created_at"])).unwrap();
        assert_eq!(neon.writable().collect::<Vec<_>>(), ["raw_json", "updated_at", "deleted_at"]);
        assert!(!neon.is_plain());
        assert_eq!(Shape::from_columns(&columns(&["deleted_at"])), Err(ShapeError::Generated("deleted_at")));
        assert_eq!(Shape::from_columns(&columns(&[])[1..]), Err(ShapeError::Missing("id")));
        let mut uuid = columns(&[]);
        uuid[0].1 = "uuid".into();
        assert!(matches!(Shape::from_columns(&uuid), Err(ShapeError::Type { column: "id", .. })));
    }

    #[test]
    fn every_part_that_writes_refers_to_the_guard() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        for chunk in [false, true] {
            let parts = Parts { upserts: true, patches: true, deletes: true, chunk, notify: Notify::Off };
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
        for (chunk, first) in [(false, 7), (true, 1)] {
            let sql = batch_statement(
                &shape,
                Deletes::Soft,
                Parts { upserts: true, patches: true, deletes: true, chunk, notify: Notify::Off },
            );
            let arrays: Vec<_> = sql.split('$').skip(1).filter_map(|rest| rest.split_once("::")).collect();
            let numbers: Vec<u32> = arrays.iter().filter_map(|(number, _)| number.parse().ok()).collect();
            let expected: Vec<u32> = (first..first + 8 + 13 + 2).collect();
            let arrays: Vec<_> = numbers.into_iter().filter(|number| *number >= first).collect();
            assert!(arrays.ends_with(&expected), "{sql}");
        }
    }

    #[test]
    fn only_writable_columns_are_written_and_the_key_never_changes() {
        let neon = Shape::from_columns(&columns(&["id", "name", "email", "created_at"])).unwrap();
        assert_eq!(neon.list("v."), "v.raw_json, v.updated_at, v.deleted_at");
        assert_eq!(
            neon.assignments("v"),
            "raw_json = v.raw_json, updated_at = v.updated_at, deleted_at = v.deleted_at"
        );
        assert_eq!(
            neon.differs("v"),
            "((u.raw_json, u.deleted_at) IS DISTINCT FROM (v.raw_json, v.deleted_at) \
             OR NOT v.derived AND u.updated_at IS DISTINCT FROM v.updated_at)"
        );
        let plain = Shape::from_columns(&columns(&[])).unwrap();
        assert_eq!(plain.list(""), "id, raw_json, name, email, created_at, updated_at, deleted_at");
        for sql in
            [plain.assignments("v"), merge_statements(&plain, "")[0].clone(), merge_statements(&neon, "")[0].clone()]
        {
            assert!(!sql.contains("SET id =") && !sql.starts_with("id =") && sql.contains("raw_json = v.raw_json"));
        }
        assert!(merge_statements(&plain, "")[0].contains("SET raw_json = v.raw_json, name = v.name,"));
    }

    #[test]
    fn absent_users_are_marked_or_deleted() {
        assert!(delete_absent(Deletes::Soft).starts_with("UPDATE neon_auth.users_sync u SET deleted_at = now()"));
        assert!(delete_absent(Deletes::Hard).starts_with("DELETE FROM neon_auth.users_sync u "));
        for deletes in [Deletes::Soft, Deletes::Hard] {
            assert!(delete_absent(deletes).contains("NOT EXISTS (SELECT FROM pg_temp.users_sync_stage v"));
        }
    }

    #[test]
    fn a_batch_without_rows_only_moves_the_checkpoint() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        let parts = Parts { upserts: false, patches: false, deletes: false, chunk: false, notify: Notify::Off };
        let sql = batch_statement(&shape, Deletes::Soft, parts);
        assert!(!sql.contains("neon_auth.users_sync u") && sql.contains("position = $6"));
    }
}
