//! The tables of the state, and how their rows are read.

use super::{Snapshot, SourceRow, StateError, TenantRow, TenantState};
use crate::model::{Epoch, Generation, Lsn, Reason, TargetId, TenantId};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

pub(super) const CREATE: &str = "\
CREATE TABLE IF NOT EXISTS users_sync.source (
  slot text PRIMARY KEY,
  generation bigint NOT NULL,
  system_identifier text NOT NULL,
  timeline integer NOT NULL,
  confirmed pg_lsn NOT NULL,
  received pg_lsn NOT NULL DEFAULT '0/0',
  behind text[] NOT NULL DEFAULT '{}',
  publication text NOT NULL DEFAULT '',
  epoch bigint NOT NULL,
  holder text NOT NULL,
  held_since timestamptz NOT NULL,
  lease_until timestamptz NOT NULL
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
  requested_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS users_sync.tee (
  slot text PRIMARY KEY REFERENCES users_sync.source ON DELETE CASCADE,
  tee_slot text NOT NULL,
  state text NOT NULL CHECK (state IN ('joining', 'following', 'parked')),
  since timestamptz NOT NULL,
  reason text,
  remedy text,
  requested boolean NOT NULL DEFAULT false
)";

/// Upgrades the tables of an earlier version. Version 0.1 had no codes: behaviour depended on one of its sentences, which
/// therefore stays here as that version wrote it.
pub(super) const ADD_COLUMNS: &str = "\
ALTER TABLE users_sync.source
  ADD COLUMN IF NOT EXISTS publication text NOT NULL DEFAULT '',
  ADD COLUMN IF NOT EXISTS received pg_lsn NOT NULL DEFAULT '0/0',
  ADD COLUMN IF NOT EXISTS behind text[] NOT NULL DEFAULT '{}';
ALTER TABLE users_sync.tenant ADD COLUMN IF NOT EXISTS reason_code text;
UPDATE users_sync.tenant SET reason_code = 'not_configured'
  WHERE reason_code IS NULL AND state = 'parked' AND reason = 'the configuration does not have it any more'";

/// Whether the tables have every column of this version.
pub(super) async fn has_all_columns(client: &Client) -> Result<bool, StateError> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = 'users_sync.tenant'::regclass \
               AND attname = 'reason_code' AND NOT attisdropped)";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

pub(super) async fn exists(client: &Client) -> Result<bool, StateError> {
    Ok(client.query_one("SELECT to_regclass('users_sync.tee') IS NOT NULL", &[]).await?.get(0))
}

pub(super) async fn read_rows(client: &Client, slot: &str) -> Result<Snapshot, StateError> {
    let sql = "SELECT generation, system_identifier, timeline, confirmed, epoch, holder, \
                 extract(epoch FROM lease_until - now())::float8, coalesce(to_jsonb(s) ->> 'publication', ''), \
                 coalesce((to_jsonb(s) ->> 'received')::pg_lsn, '0/0'), \
                 ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(s) -> 'behind', '[]'))) \
               FROM users_sync.source s WHERE slot = $1";
    let source = client.query_opt(sql, &[&slot]).await?.map(|row| SourceRow {
        generation: Generation(row.get(0)),
        system_identifier: row.get(1),
        timeline: row.get(2),
        confirmed: lsn(&row, 3),
        epoch: Epoch(row.get(4)),
        holder: row.get(5),
        lease_seconds: row.get(6),
        publication: row.get(7),
        received: lsn(&row, 8),
        behind: row.get::<_, Vec<&str>>(9).into_iter().map(TenantId::new).collect(),
    });
    let sql = "SELECT tenant, state, reason, remedy, target, target_id::text, generation, position, \
                 extract(epoch FROM now() - since)::float8, extract(epoch FROM now() - position_at)::float8, \
                 rejected, relation, to_jsonb(t) ->> 'reason_code' \
               FROM users_sync.tenant t WHERE slot = $1";
    let tenants = client.query(sql, &[&slot]).await?.iter().map(tenant_row).collect();
    let rows = client.query("SELECT epoch, flushed FROM users_sync.epoch WHERE slot = $1", &[&slot]).await?;
    let epochs = rows.iter().map(|row| (Epoch(row.get(0)), lsn(row, 1))).collect();
    let tee = super::tee::read(client, slot).await?;
    Ok(Snapshot { source, tenants, epochs, tee })
}

fn tenant_row(row: &Row) -> (TenantId, TenantRow) {
    let found = TenantRow {
        state: TenantState::parse(row.get(1)),
        reason_code: row.get::<_, Option<&str>>(12).and_then(Reason::parse),
        reason: row.get(2),
        remedy: row.get(3),
        target: row.get(4),
        target_id: row.get::<_, Option<&str>>(5).map(TargetId::new),
        generation: Generation(row.get(6)),
        position: lsn(row, 7),
        since_seconds: row.get(8),
        position_age_seconds: row.get(9),
        rejected: row.get::<_, i64>(10).unsigned_abs(),
        relation: row.get::<_, Option<u32>>(11),
    };
    (TenantId::new(row.get(0)), found)
}

fn lsn(row: &Row, column: usize) -> Lsn {
    Lsn(u64::from(row.get::<_, PgLsn>(column)))
}
