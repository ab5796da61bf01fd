//! The SQL for a target, as text: its tables, the guard, and merges; [`super::batch`] has batches. Pure; the text depends
//! only on the table's shape and on the part of the stage.
//!
//! A plain UPDATE takes no lock that an application's foreign key check waits for; ON CONFLICT would.

use super::shape::Shape;
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

/// At most `$1` refused users: key, id and code. The limits guard against what the owner of the database did to the table. A
/// longer id does not fit into an index, so its user is not tried again.
pub(crate) const READ_REJECTED: &str = "\
SELECT substr(id_hash::bytea, 1, 33), CASE WHEN octet_length(id::text) <= 8192 THEN id::text END, left(sqlstate::text, 10) \
FROM users_sync.rejected LIMIT $1";

/// The keys of at most `$1` refused users.
pub(crate) const READ_REJECTED_KEYS: &str = "SELECT substr(id_hash::bytea, 1, 33) FROM users_sync.rejected LIMIT $1";

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
/// Keeps what was written since the savepoint, and ends it.
pub(crate) const RELEASE_SAVEPOINT: &str = "RELEASE SAVEPOINT users_sync";
/// Undoes what was written since the savepoint, and ends it.
pub(crate) const UNDO_SAVEPOINT: &str = "ROLLBACK TO SAVEPOINT users_sync; RELEASE SAVEPOINT users_sync";

/// The users that only the target had when it was taken over, and that stay.
pub(crate) const CREATE_KEPT: &str = "CREATE TABLE IF NOT EXISTS users_sync.kept (id text PRIMARY KEY)";

/// Whether that table exists.
pub(crate) const HAS_KEPT: &str = "SELECT to_regclass('users_sync.kept') IS NOT NULL";

/// Removes the checkpoint of an earlier installation, unless it was replaced since it was read. `$1` and `$2`: target id and
/// epoch.
pub(crate) const REMOVE_CHECKPOINT: &str =
    "DELETE FROM users_sync.checkpoint WHERE target_id::text = $1 AND epoch = $2";

/// Drops our own tables in a target, but not the users.
pub(crate) const DROP_OWN_TABLES: &str =
    "DROP TABLE IF EXISTS users_sync.checkpoint, users_sync.rejected, users_sync.kept";

/// The table that applications read, in schema `neon_auth`. Each page keeps space for new versions of its rows, so that
/// nearly all updates are HOT: of ten updates of each row, in small and large batches, 99.6 %, where a fillfactor of 100 gave 96.0 %
/// and, after them, a larger table (47 instead of 41 MB for 100,000 users).
pub(crate) const CREATE_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS neon_auth.users_sync (
  id text PRIMARY KEY,
  raw_json jsonb NOT NULL,
  name text,
  email text,
  created_at timestamptz,
  deleted_at timestamptz,
  updated_at timestamptz
) WITH (fillfactor = 85)";

/// An index for applications.
pub(crate) const CREATE_INDEX: &str =
    "CREATE INDEX IF NOT EXISTS users_sync_deleted_at_idx ON neon_auth.users_sync (deleted_at)";

/// What has the names of the tables in a target, as `relkind`.
pub(crate) const FIND_TABLES: &str = "\
SELECT (SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = to_regclass('users_sync.checkpoint')),
       (SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = to_regclass('neon_auth.users_sync')),
       (SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = to_regclass('users_sync.rejected')),
       current_setting('server_encoding')";

/// Whether the table has rows, and its file.
pub(crate) const HAS_ROWS: &str = "SELECT EXISTS (SELECT FROM neon_auth.users_sync), pg_relation_filenode('neon_auth.users_sync'), \
     CASE WHEN row_security_active('neon_auth.users_sync') THEN current_user::text END";

/// Name and type of each column of `users_sync`, the type's name, and whether the column is generated.
pub(crate) const COLUMNS_OF_USERS: &str = "\
SELECT attname::text, atttypid, atttypmod, left(format_type(atttypid, atttypmod), 200), attgenerated <> '',
       attnotnull AND NOT atthasdef AND attidentity = ''
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
pub(super) fn guard_where(signs: bool) -> String {
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

/// The columns of the stage that COPY lists.
pub(crate) const STAGE_COLUMNS: [&str; 8] =
    ["id", "raw_json", "name", "email", "created_at", "updated_at", "deleted_at", "derived"];

/// The temporary table that stages a merge. A row without a document cannot be mapped: its user is there, and the
/// target's row stays as it was.
pub(crate) const CREATE_STAGE: &str = "\
CREATE TEMPORARY TABLE users_sync_stage (
  ordinal bigint GENERATED ALWAYS AS IDENTITY, id text PRIMARY KEY, raw_json jsonb, name text, email text,
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
             WHERE u.id = v.id AND v.raw_json IS NOT NULL AND {}{part}",
            shape.differs("v")
        ),
        insert: format!(
            "INSERT INTO neon_auth.users_sync ({}) SELECT {} FROM pg_temp.users_sync_stage v \
             WHERE v.raw_json IS NOT NULL AND NOT EXISTS (SELECT FROM neon_auth.users_sync u WHERE u.id = v.id){part}",
            shape.list(""),
            shape.list("v.")
        ),
    }
}

/// Restricts a merge to a part of the stage: rows `$1` (inclusive) to `$2` (exclusive), counted from 0.
pub(crate) const PART_OF_STAGE: &str = " AND v.ordinal > $1 AND v.ordinal <= $2";
/// The index for [`PART_OF_STAGE`].
pub(crate) const INDEX_STAGE: &str = "CREATE INDEX ON pg_temp.users_sync_stage (ordinal)";

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

/// Counts the target's live users, live users missing in the stage (which a merge would delete), all users
/// missing in the stage, and staged users missing in the target.
pub(crate) const COUNT_ABSENT: &str = "\
SELECT count(u.id) FILTER (WHERE u.deleted_at IS NULL), \
  count(u.id) FILTER (WHERE v.id IS NULL AND u.deleted_at IS NULL), \
  count(u.id) FILTER (WHERE v.id IS NULL), count(v.raw_json) FILTER (WHERE u.id IS NULL) \
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
}
