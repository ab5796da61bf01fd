//! The state's tables, and how those of an earlier version are upgraded.

/// A table of users of the Kafka output, with these columns besides their tenant and id.
macro_rules! kafka_users {
    ($table:literal, $columns:literal) => {
        concat!(
            "CREATE TABLE IF NOT EXISTS users_sync.",
            $table,
            " (
  slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
  tenant text NOT NULL,
  id_hash bytea NOT NULL,
  id text NOT NULL,
  ",
            $columns,
            ",
  PRIMARY KEY (slot, tenant, id_hash)
)"
        )
    };
}

/// The users that the Kafka output leaves out, because the message is too large or because the row cannot be mapped, and those that it
/// publishes again.
macro_rules! left_out {
    () => {
        concat!(
            kafka_users!(
                "tee_rejected",
                "bytes bigint NOT NULL,
  max_bytes bigint NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now()"
            ),
            "; ",
            kafka_users!(
                "tee_unmappable",
                "reason text NOT NULL,
  since timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now()"
            ),
            "; ",
            kafka_users!("tee_accepted", "at timestamptz NOT NULL DEFAULT now()")
        )
    };
}

/// The tables of users that the Kafka output leaves out.
pub(super) const LEFT_OUT_TABLES: [&str; 2] = ["tee_rejected", "tee_unmappable"];

/// How far the partitions of the users' topic have been applied. `slot` is the row in `users_sync.source` that fences the processes of the
/// partition: `SLOT/TOPIC/NUMBER`.
macro_rules! partition {
    () => {
        "\
CREATE TABLE IF NOT EXISTS users_sync.partition (
  slot text PRIMARY KEY REFERENCES users_sync.source ON DELETE CASCADE,
  partitions integer NOT NULL,
  committed_offset bigint NOT NULL,
  end_offset bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
)"
    };
}

/// What happened to the tenants and the process: the last thousand events of a slot.
macro_rules! event {
    () => {
        "\
CREATE TABLE IF NOT EXISTS users_sync.event (
  slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
  id bigint GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  kind text NOT NULL,
  tenant text,
  code text,
  text text,
  PRIMARY KEY (slot, id)
)"
    };
}

/// The processes that run without the lease.
macro_rules! process {
    () => {
        "\
CREATE TABLE IF NOT EXISTS users_sync.process (
  slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
  process text NOT NULL,
  seen_at timestamptz NOT NULL,
  PRIMARY KEY (slot, process)
)"
    };
}

/// Creates the tables.
pub(super) const CREATE: &str = concat!(
    "\
CREATE TABLE IF NOT EXISTS users_sync.source (
  slot text PRIMARY KEY,
  generation bigint NOT NULL,
  system_identifier text NOT NULL,
  timeline integer NOT NULL,
  confirmed pg_lsn NOT NULL,
  received pg_lsn NOT NULL DEFAULT '0/0',
  behind text[] NOT NULL DEFAULT '{}',
  publication text NOT NULL DEFAULT '',
  shape text,
  shape_version bigint NOT NULL DEFAULT 0,
  anchor pg_lsn NOT NULL DEFAULT '0/0',
  anchor_xid bigint NOT NULL DEFAULT 0,
  epoch bigint NOT NULL,
  holder text NOT NULL,
  held_since timestamptz NOT NULL,
  lease_until timestamptz NOT NULL,
  checkpoint_key bytea,
  behind_since timestamptz[] NOT NULL DEFAULT '{}',
  trouble text,
  trouble_code text,
  trouble_since timestamptz,
  findings text,
  user_count text,
  user_count_at timestamptz
);
CREATE TABLE IF NOT EXISTS users_sync.tenant (
  slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
  tenant text NOT NULL,
  state text NOT NULL CHECK (state IN ('joining', 'following', 'parked')),
  since timestamptz NOT NULL,
  reason text,
  reason_code text,
  remedy text,
  target text NOT NULL,
  target_id uuid,
  generation bigint NOT NULL,
  position pg_lsn NOT NULL,
  position_at timestamptz NOT NULL,
  rejected bigint NOT NULL DEFAULT 0,
  relation oid,
  signed boolean NOT NULL DEFAULT false,
  failures bigint NOT NULL DEFAULT 0,
  failing_since timestamptz,
  paused jsonb,
  opened_as text,
  purge_due timestamptz,
  PRIMARY KEY (slot, tenant)
);
CREATE TABLE IF NOT EXISTS users_sync.epoch (
  slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
  epoch bigint NOT NULL,
  flushed pg_lsn NOT NULL,
  PRIMARY KEY (slot, epoch)
);
CREATE TABLE IF NOT EXISTS users_sync.request (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
  tenant text NOT NULL,
  allow_deletes boolean NOT NULL,
  adopt text,
  requested_at timestamptz NOT NULL DEFAULT now(),
  kind text NOT NULL DEFAULT 'resync',
  user_id text
);
CREATE TABLE IF NOT EXISTS users_sync.tee (
  slot text PRIMARY KEY REFERENCES users_sync.source ON DELETE CASCADE,
  tee_slot text NOT NULL,
  state text NOT NULL CHECK (state IN ('joining', 'following', 'parked')),
  since timestamptz NOT NULL,
  reason text,
  remedy text,
  requested boolean NOT NULL DEFAULT false,
  reason_code text,
  position pg_lsn,
  system_identifier text NOT NULL DEFAULT '',
  tenants text[] NOT NULL DEFAULT '{}'
);
",
    left_out!(),
    "; ",
    partition!(),
    "; ",
    event!(),
    "; ",
    process!()
);

/// Upgrades the tables of an earlier version. Version 0.1 compared the text of a reason, so this text must stay as that
/// version wrote it.
pub(super) const UPGRADE: &str = concat!(
    left_out!(),
    "; ",
    partition!(),
    "; ",
    event!(),
    "; ",
    process!(),
    "; \
ALTER TABLE users_sync.source
  ADD COLUMN IF NOT EXISTS publication text NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS received pg_lsn NOT NULL DEFAULT '0/0',
  ADD COLUMN IF NOT EXISTS behind text[] NOT NULL DEFAULT '{}',
  ADD COLUMN IF NOT EXISTS checkpoint_key bytea,
  ADD COLUMN IF NOT EXISTS shape text,
  ADD COLUMN IF NOT EXISTS shape_version bigint NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS anchor pg_lsn NOT NULL DEFAULT '0/0',
  ADD COLUMN IF NOT EXISTS anchor_xid bigint NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS behind_since timestamptz[] NOT NULL DEFAULT '{}',
  ADD COLUMN IF NOT EXISTS trouble text,
  ADD COLUMN IF NOT EXISTS trouble_code text,
  ADD COLUMN IF NOT EXISTS trouble_since timestamptz,
  ADD COLUMN IF NOT EXISTS findings text,
  ADD COLUMN IF NOT EXISTS user_count text,
  ADD COLUMN IF NOT EXISTS user_count_at timestamptz;
ALTER TABLE users_sync.tenant
  ADD COLUMN IF NOT EXISTS reason_code text,
  ADD COLUMN IF NOT EXISTS signed boolean NOT NULL DEFAULT false,
  ADD COLUMN IF NOT EXISTS failures bigint NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS failing_since timestamptz,
  ADD COLUMN IF NOT EXISTS paused jsonb,
  ADD COLUMN IF NOT EXISTS opened_as text,
  ADD COLUMN IF NOT EXISTS purge_due timestamptz;
ALTER TABLE users_sync.request
  ADD COLUMN IF NOT EXISTS adopt text,
  ADD COLUMN IF NOT EXISTS kind text NOT NULL DEFAULT 'resync',
  ADD COLUMN IF NOT EXISTS user_id text;
ALTER TABLE users_sync.tee_rejected
  ADD COLUMN IF NOT EXISTS seen_at timestamptz NOT NULL DEFAULT now();
ALTER TABLE users_sync.tee
  ADD COLUMN IF NOT EXISTS reason_code text,
  ADD COLUMN IF NOT EXISTS position pg_lsn,
  ADD COLUMN IF NOT EXISTS system_identifier text NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS tenants text[] NOT NULL DEFAULT '{}';
UPDATE users_sync.tenant SET reason_code = 'not_configured'
  WHERE reason_code IS NULL AND state = 'parked' AND reason = 'the configuration does not have it any more'"
);

/// Whether the tables have the newest columns. An earlier version may lack any of them.
pub(super) const IS_CURRENT: &str = "\
SELECT count(*) = 19 FROM pg_catalog.pg_attribute WHERE NOT attisdropped
  AND (attrelid, attname) IN (
    ('users_sync.source'::regclass, 'behind'), ('users_sync.tenant'::regclass, 'reason_code'),
    ('users_sync.source'::regclass, 'checkpoint_key'), ('users_sync.source'::regclass, 'anchor_xid'),
    ('users_sync.tenant'::regclass, 'signed'), ('users_sync.source'::regclass, 'trouble_since'),
    ('users_sync.tenant'::regclass, 'failing_since'), ('users_sync.tenant'::regclass, 'paused'),
    ('users_sync.tenant'::regclass, 'purge_due'),
    ('users_sync.source'::regclass, 'findings'), ('users_sync.source'::regclass, 'user_count_at'), ('users_sync.request'::regclass, 'user_id'),
    (to_regclass('users_sync.tee_rejected'), 'seen_at'),
    (to_regclass('users_sync.tee_unmappable'), 'reason'), (to_regclass('users_sync.tee_accepted'), 'at'),
    (to_regclass('users_sync.partition'), 'end_offset'), (to_regclass('users_sync.event'), 'code'),
    (to_regclass('users_sync.process'), 'seen_at'), ('users_sync.tee'::regclass, 'tenants'))";

/// Follows the `w` of a write of a tenant's row, with its slot `$1` and name `$3`: an event if the state has changed. All parts of
/// the statement see the row as it was before. Older events than the last thousand are deleted.
pub(super) const NOTE_STATE: &str = "\
o AS (SELECT state, reason_code FROM users_sync.tenant WHERE slot = $1 AND tenant = $3), \
v AS (INSERT INTO users_sync.event (slot, kind, tenant, code, text) \
  SELECT w.slot, CASE WHEN w.state = 'parked' THEN 'parked' \
      WHEN o.state IS NULL OR o.reason_code IN ('new_target', 'handed_over', 'table_missing') THEN 'joined' \
      WHEN o.state = 'parked' OR EXISTS (SELECT FROM users_sync.event e \
        WHERE e.slot = $1 AND e.tenant = $3 AND e.kind IN ('joined', 'resynced')) THEN 'resynced' \
      ELSE 'joined' END, \
    w.tenant, CASE WHEN w.state = 'parked' THEN w.reason_code ELSE o.reason_code END, \
    CASE WHEN w.state = 'parked' THEN left(w.reason, 500) END \
  FROM w LEFT JOIN o ON true WHERE w.state <> 'joining' AND w.state IS DISTINCT FROM o.state RETURNING slot), \
d AS (DELETE FROM users_sync.event WHERE slot = $1 AND EXISTS (SELECT FROM v) AND id <= \
  (SELECT id FROM users_sync.event WHERE slot = $1 ORDER BY id DESC OFFSET 1000 LIMIT 1))";
