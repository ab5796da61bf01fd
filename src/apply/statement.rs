//! The SQL for a target, as text. Pure; the text depends only on the table's shape and on the parts of a
//! batch.
//!
//! Every part that writes rows refers to `guard`: otherwise it would write although the guard fails. A plain
//! UPDATE takes no lock that an application's foreign key check waits for; ON CONFLICT would.

use super::notify::Notify;
use super::shape::{COLUMNS, Shape};
use crate::model::Deletes;

/// The checkpoint's table. Executed only if it is missing.
pub(crate) const CREATE_CHECKPOINT: &str = "\
CREATE TABLE IF NOT EXISTS users_sync.checkpoint (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  tenant text NOT NULL,
  target_id uuid NOT NULL,
  generation bigint NOT NULL,
  position pg_lsn NOT NULL,
  epoch bigint NOT NULL,
  mapping text NOT NULL,
  mac bytea
)";

/// Adds the column for the signature to a table of an earlier version.
pub(crate) const ADD_MAC: &str = "ALTER TABLE users_sync.checkpoint ADD COLUMN IF NOT EXISTS mac bytea";

/// Whether the checkpoint's table has that column.
pub(crate) const HAS_MAC: &str = "\
SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('users_sync.checkpoint') \
  AND attname = 'mac' AND atttypid = 'bytea'::regtype AND NOT attisdropped)";

/// The table of refused users. Its key is the SHA-256 of the id's UTF-8: an id has any size.
pub(crate) const CREATE_REJECTED: &str = "\
CREATE TABLE IF NOT EXISTS users_sync.rejected (
  id text NOT NULL,
  reason text NOT NULL,
  sqlstate text NOT NULL,
  since timestamptz NOT NULL,
  tried_at timestamptz NOT NULL,
  id_hash bytea PRIMARY KEY
)";

/// Whether that table has its key. Version 0.2 had the id as the key, and the server's messages as reasons.
pub(crate) const HAS_ID_HASH: &str = "\
SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('users_sync.rejected') \
  AND attname = 'id_hash' AND atttypid = 'bytea'::regtype AND NOT attisdropped)";

/// Adds the key to a table of version 0.2. One transaction, as it is sent at once.
pub(crate) const ADD_ID_HASH: &str = "\
ALTER TABLE users_sync.rejected ADD COLUMN id_hash bytea; \
UPDATE users_sync.rejected SET id_hash = sha256(convert_to(id, 'UTF8')), reason = 'an earlier version recorded it'; \
ALTER TABLE users_sync.rejected DROP CONSTRAINT IF EXISTS rejected_pkey; \
ALTER TABLE users_sync.rejected ADD CONSTRAINT rejected_pkey PRIMARY KEY (id_hash), ALTER id SET NOT NULL";

/// The keys of at most `$1` refused users. The limits guard against what the owner of the database did to the table.
pub(crate) const READ_REJECTED: &str = "SELECT substr(id_hash::bytea, 1, 33) FROM users_sync.rejected LIMIT $1";

/// Records refused users; `$1` to `$4` are keys, ids, reasons and codes.
pub(crate) const INSERT_REJECTED: &str = "\
INSERT INTO users_sync.rejected AS r (id_hash, id, reason, sqlstate, since, tried_at) \
SELECT unnest($1::bytea[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]), now(), now() \
ON CONFLICT (id_hash) DO UPDATE SET reason = excluded.reason, sqlstate = excluded.sqlstate, tried_at = now()";

/// Removes users that are not refused any more, by their keys.
pub(crate) const DELETE_ACCEPTED: &str = "DELETE FROM users_sync.rejected WHERE id_hash = ANY($1)";

/// Starts a part of a transaction that can be rolled back.
pub(crate) const SAVEPOINT: &str = "SAVEPOINT users_sync";
/// Rolls back to the savepoint, which stays.
pub(crate) const ROLLBACK_TO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT users_sync";

/// Drops our own tables in a target, but not the users.
pub(crate) const DROP_OWN_TABLES: &str = "DROP TABLE IF EXISTS users_sync.checkpoint, users_sync.rejected";

/// The table that applications read, in schema `neon_auth`.
pub(crate) const CREATE_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS neon_auth.users_sync (
  id text PRIMARY KEY,
  raw_json jsonb NOT NULL,
  name text,
  email text,
  created_at timestamptz,
  deleted_at timestamptz,
  updated_at timestamptz
)";

/// An index for applications.
pub(crate) const CREATE_INDEX: &str =
    "CREATE INDEX IF NOT EXISTS users_sync_deleted_at_idx ON neon_auth.users_sync (deleted_at)";

/// Which of the tables a target has.
pub(crate) const FIND_TABLES: &str = "\
SELECT to_regclass('users_sync.checkpoint') IS NOT NULL,
       to_regclass('neon_auth.users_sync') IS NOT NULL,
       to_regclass('users_sync.rejected') IS NOT NULL,
       current_setting('server_encoding')";

/// Whether the table has rows, and its file.
pub(crate) const HAS_ROWS: &str = "SELECT EXISTS (SELECT FROM neon_auth.users_sync), pg_relation_filenode('neon_auth.users_sync'), \
     CASE WHEN row_security_active('neon_auth.users_sync') THEN current_user::text END";

/// Name and type of each column of `users_sync`, the type's name, and whether the column is generated.
pub(crate) const COLUMNS_OF_USERS: &str = "\
SELECT attname::text, atttypid, atttypmod, left(format_type(atttypid, atttypmod), 200), attgenerated <> ''
FROM pg_catalog.pg_attribute
WHERE attrelid = 'neon_auth.users_sync'::regclass AND attnum > 0 AND NOT attisdropped";

/// The checkpoint. The owner of the database may have changed the table: the casts keep its types out of the
/// answer, and the limits its amount.
pub(crate) fn read_checkpoint(has_mac: bool) -> String {
    // A signature has 32 bytes; a longer one is wrong.
    let mac = if has_mac { "substr(mac, 1, 33)" } else { "NULL::bytea" };
    format!(
        "SELECT left(tenant::text, 1000), left(target_id::text, 100), generation::int8, position::pg_lsn, \
         epoch::int8, left(mapping::text, 1000), {mac} FROM users_sync.checkpoint LIMIT 2"
    )
}

/// The condition under which the checkpoint may move, as `Identity::may_write`. `$1` to `$5`: tenant, target id,
/// generation, epoch, from.
const GUARD_WHERE: &str =
    "tenant = $1 AND target_id = $2::text::uuid AND generation = $3 AND position = $5 AND epoch <= $4";

/// The rest of the condition in a target with signatures. `$6` and `$7`: signature, mapping.
const GUARD_SIGNED: &str = " AND mac = $6 AND mapping = $7";

/// Row security would hide rows from updates and deletes, and their changes would be lost.
const GUARD_ROWS: &str = " AND NOT row_security_active('neon_auth.users_sync')";

/// The whole condition.
fn guard_where(signs: bool) -> String {
    format!("{GUARD_WHERE}{GUARD_ROWS}{}", if signs { GUARD_SIGNED } else { "" })
}

/// The first statement of a chunked transaction: locks the checkpoint's row until the commit.
pub(crate) fn lock_checkpoint(signs: bool) -> String {
    format!("SELECT 1 FROM users_sync.checkpoint WHERE {} FOR UPDATE", guard_where(signs))
}

/// Writes the first checkpoint of a target or the one after a merge, unless a later merge was faster. `$1` to
/// `$6`: tenant, target id, generation, epoch, position, mapping; with signatures `$7`: signature.
pub(crate) fn replace_checkpoint(signs: bool) -> String {
    let (column, value, set) = if signs { (", mac", ", $7", ", mac = excluded.mac") } else { ("", "", "") };
    format!(
        "INSERT INTO users_sync.checkpoint AS c (tenant, target_id, generation, epoch, position, mapping{column}) \
         VALUES ($1, $2::text::uuid, $3, $4, $5, $6{value}) \
         ON CONFLICT (only_row) DO UPDATE SET tenant = excluded.tenant, target_id = excluded.target_id, \
           generation = excluded.generation, epoch = excluded.epoch, position = excluded.position, \
           mapping = excluded.mapping{set} \
         WHERE c.epoch <= excluded.epoch AND c.tenant = excluded.tenant AND (c.generation <> excluded.generation \
           OR c.target_id <> excluded.target_id OR c.position <= excluded.position)"
    )
}

/// The parts of a batch. The statement has no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Parts {
    /// Whole rows.
    pub(crate) upserts: bool,
    /// Columns of live rows.
    pub(crate) patches: bool,
    /// Deleted users.
    pub(crate) deletes: bool,
    /// Part of an open transaction whose first statement was the guard: writes rows and leaves the
    /// checkpoint.
    pub(crate) chunk: bool,
    /// The target has signatures: guard and checkpoint include them.
    pub(crate) signs: bool,
    /// What is sent to listeners.
    pub(crate) notify: Notify,
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

/// The statement of a batch: guard, rows, and a count of the guard's rows. The guard's parameters are those of
/// [`lock_checkpoint`], the new position, and with signatures the new signature. After them come
/// the arrays of upserts (8), patches (13) and deletes (2), with documents as text.
///
/// Deletes come first, then updates, then inserts: a value that one user gives up is free for another. Each part refers
/// to a count of the part before, as the server does not run CTEs in their order.
///
/// A BEFORE trigger that returns NULL skips its row without an error. The fourth output column of a chunk is the number of
/// rows that were skipped. Any other statement fails if a row may have been skipped, so that the checkpoint does not move
/// past it: to plan the joins that tell skipped rows from unchanged ones would double the time of a small batch.
pub(crate) fn batch_statement(shape: &Shape, deletes: Deletes, parts: Parts) -> String {
    let mut next = match (parts.chunk, parts.signs) {
        (true, _) => 1,
        (false, false) => 7,
        (false, true) => 10,
    };
    // unnest() in the select list parses a document when its row is built. In FROM it would copy every row,
    // and an array of jsonb every document (some 4 of 15 microseconds a row).
    let mut arrays = |columns: &[(&str, &str)]| {
        let ids = next;
        let walked = columns.iter().map(|(name, kind)| {
            next += 1;
            match *kind {
                "jsonb" => format!("unnest(${}::text[])::jsonb AS {name}", next - 1),
                kind => format!("unnest(${}::{kind}[]) AS {name}", next - 1),
            }
        });
        (walked.collect::<Vec<_>>().join(", "), format!("cardinality(${ids}::text[])"))
    };
    let mut with: Vec<String> = Vec::new();
    let mut deleted: Option<Write> = None;
    let mut patched: Option<Write> = None;
    let mut upserted: Option<Write> = None;
    let returning = parts.notify.returning();
    let of_u = returning.update;
    let mut guard_where = guard_where(parts.signs);
    if parts.upserts {
        let (columns, sent) = arrays(&USER_ARRAYS);
        with.push(format!("v AS MATERIALIZED (SELECT {columns})"));
        upserted = Some(Write {
            parts: vec![("updated", shape.update("v", &returning)), ("inserted", shape.insert("v", &returning))],
            due: format!("{sent} - {}", unchanged(shape, "v")),
            sent,
        });
    }
    if parts.patches {
        let (columns, sent) = arrays(&PATCH_ARRAYS);
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
            parts: vec![("patched", (update, of_u))],
            due: format!("{sent} - {}", unchanged(shape, "w")),
            sent,
        });
        guard_where.push_str(" AND (SELECT count(*) FROM p) = (SELECT count(*) FROM w)");
    }
    if parts.deletes {
        let (columns, sent) = arrays(&[("id", "text"), ("at", "timestamptz")]);
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
            parts: vec![("deleted", (delete.to_owned(), of_u))],
            due: format!("(SELECT count(*) FROM d JOIN neon_auth.users_sync u ON u.id = d.id{live})"),
            sent,
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
        for (part, (sql, returning)) in write.parts {
            // The count is complete only once the part before has written all of its rows.
            let after = written.last().map_or_else(String::new, |before| format!(" AND {} >= 0", count(before)));
            with.push(format!("{part} AS ({sql}{after}{returning})"));
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
    /// Name, SQL and RETURNING of each part.
    parts: Vec<(&'a str, (String, &'a str))>,
    /// The number of rows that were sent.
    sent: String,
    /// The number of these that have to be written: the others change nothing. Costs a join.
    due: String,
}

impl Write<'_> {
    fn written(&self) -> String {
        self.parts.iter().map(|(part, _)| count(part)).collect::<Vec<_>>().join(" + ")
    }

    /// Whether fewer rows were written than sent.
    fn is_incomplete(&self) -> String {
        format!("{} <> {}", self.sent, self.written())
    }

    /// The number of rows that have to be written and were not: a BEFORE trigger returned NULL. The joins run only if fewer
    /// rows were written than sent.
    fn skipped(&self) -> String {
        format!("CASE WHEN {} THEN {} - ({}) ELSE 0 END", self.is_incomplete(), self.due, self.written())
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

/// The columns of the stage that COPY lists.
pub(crate) const STAGE_COLUMNS: [&str; 8] =
    ["id", "raw_json", "name", "email", "created_at", "updated_at", "deleted_at", "derived"];

/// The temporary table that stages a merge.
pub(crate) const CREATE_STAGE: &str = "\
CREATE TEMPORARY TABLE users_sync_stage (
  ordinal bigint GENERATED ALWAYS AS IDENTITY, id text PRIMARY KEY, raw_json jsonb NOT NULL, name text, email text,
  created_at timestamptz, updated_at timestamptz, deleted_at timestamptz, derived boolean NOT NULL
) ON COMMIT DROP";

/// The statements of a merge that write rows.
pub(crate) struct Merge {
    pub(crate) update: String,
    pub(crate) insert: String,
}

/// Merges the filled stage, restricted by `part`. A changed row with a derived time gets the time of the merge.
pub(crate) fn merge_statements(shape: &Shape, part: &str) -> Merge {
    let assign = |column: &'static str| match column {
        "updated_at" => "updated_at = CASE WHEN v.derived THEN now() ELSE v.updated_at END".to_owned(),
        column => format!("{column} = v.{column}"),
    };
    let assignments = shape.writable().filter(|column| *column != "id").map(assign).collect::<Vec<_>>().join(", ");
    Merge {
        update: format!(
            "UPDATE neon_auth.users_sync u SET {assignments} FROM pg_temp.users_sync_stage v \
             WHERE u.id = v.id AND {}{part}",
            shape.differs("v")
        ),
        insert: format!(
            "INSERT INTO neon_auth.users_sync ({}) SELECT {} FROM pg_temp.users_sync_stage v \
             WHERE NOT EXISTS (SELECT FROM neon_auth.users_sync u WHERE u.id = v.id){part}",
            shape.list(""),
            shape.list("v.")
        ),
    }
}

/// Restricts a merge to a part of the stage: rows `$1` (inclusive) to `$2` (exclusive), counted from 0.
pub(crate) const PART_OF_STAGE: &str = " AND v.ordinal > $1 AND v.ordinal <= $2";
/// The index for [`PART_OF_STAGE`].
pub(crate) const INDEX_STAGE: &str = "CREATE INDEX ON pg_temp.users_sync_stage (ordinal)";
/// The ids of a part of the stage.
pub(crate) const IDS_OF_STAGE: &str =
    "SELECT id FROM pg_temp.users_sync_stage v WHERE v.ordinal > $1 AND v.ordinal <= $2";

/// Creates a stage of the users that the merge's stage lacks, so that deletes can be done in parts too.
pub(crate) fn create_absent(deletes: Deletes) -> String {
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

/// Deletes a part of the users in that stage.
pub(crate) fn delete_part_of_absent(deletes: Deletes) -> &'static str {
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

/// The ids of a part of that stage.
pub(crate) const IDS_OF_ABSENT: &str =
    "SELECT id FROM pg_temp.users_sync_absent v WHERE v.ordinal > $1 AND v.ordinal <= $2";

/// Counts the target's live users, live users missing in the stage (which a merge would delete), all users
/// missing in the stage, and staged users missing in the target.
pub(crate) const COUNT_ABSENT: &str = "\
SELECT count(u.id) FILTER (WHERE u.deleted_at IS NULL), \
  count(u.id) FILTER (WHERE v.id IS NULL AND u.deleted_at IS NULL), \
  count(u.id) FILTER (WHERE v.id IS NULL), count(v.id) FILTER (WHERE u.id IS NULL) \
FROM neon_auth.users_sync u FULL JOIN pg_temp.users_sync_stage v ON v.id = u.id";

/// Deletes all users that the stage lacks.
pub(crate) fn delete_absent(deletes: Deletes) -> &'static str {
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
    use crate::apply::shape::tests::columns;

    #[test]
    fn every_part_that_writes_refers_to_the_guard() {
        let shape = Shape::from_columns(&columns(&[])).unwrap();
        for chunk in [false, true] {
            let parts = Parts { upserts: true, patches: true, deletes: true, chunk, signs: false, notify: Notify::Off };
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
            let sql = batch_statement(
                &shape,
                Deletes::Soft,
                Parts { upserts: true, patches: true, deletes: true, chunk, signs, notify: Notify::Off },
            );
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
        let parts =
            Parts { upserts: true, patches: true, deletes: true, chunk: false, signs: false, notify: Notify::Off };
        let sql = batch_statement(&shape, Deletes::Hard, parts);
        for (part, before) in [("patched", "deleted"), ("updated", "patched"), ("inserted", "updated")] {
            let body = sql.split(&format!("{part} AS (")).nth(1).unwrap().split(" RETURNING").next().unwrap();
            assert!(body.ends_with(&format!("AND (SELECT count(*) FROM {before}) >= 0")), "{part} in {sql}");
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
        for sql in [plain.assignments("v"), merge_statements(&plain, "").update, merge_statements(&neon, "").update] {
            assert!(!sql.contains("SET id =") && !sql.starts_with("id =") && sql.contains("raw_json = v.raw_json"));
        }
        assert!(merge_statements(&plain, "").update.contains("SET raw_json = v.raw_json, name = v.name,"));
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
        for (signs, moved) in [(false, "SET position = $6, epoch = $4 WHERE"), (true, "mac = $9 WHERE")] {
            let parts =
                Parts { upserts: false, patches: false, deletes: false, chunk: false, signs, notify: Notify::Off };
            let sql = batch_statement(&shape, Deletes::Soft, parts);
            assert!(!sql.contains("neon_auth.users_sync u") && sql.contains(moved), "{sql}");
            assert_eq!(sql.contains("AND mac = $6 AND mapping = $7"), signs);
        }
    }
}
