//! Reads the state's tables.

use super::error::StateError;
use super::rows::{Request, RequestId, Snapshot, SourceRow, TeeRow, TenantRow, TenantState};
use super::schema;
use crate::model::{Epoch, Generation, Lsn, Reason, TargetId, TenantId};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

/// Whether the tables exist.
pub(super) async fn exists(client: &Client) -> Result<bool, StateError> {
    Ok(client.query_one("SELECT to_regclass('users_sync.tee') IS NOT NULL", &[]).await?.get(0))
}

/// Whether the tables have every column of this version.
pub(super) async fn is_current(client: &Client) -> Result<bool, StateError> {
    Ok(client.query_one(schema::IS_CURRENT, &[]).await?.get(0))
}

/// Reads all rows of one slot, also from tables of an earlier version.
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
    let tee = read_tee(client, slot).await?;
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

pub(super) async fn read_tee(client: &Client, slot: &str) -> Result<Option<TeeRow>, StateError> {
    let sql = "SELECT tee_slot, state, extract(epoch FROM now() - since)::float8, reason, remedy, requested \
               FROM users_sync.tee WHERE slot = $1";
    Ok(client.query_opt(sql, &[&slot]).await?.map(|row| TeeRow {
        slot: row.get(0),
        state: TenantState::parse(row.get(1)),
        since_seconds: row.get(2),
        reason: row.get(3),
        remedy: row.get(4),
        requested: row.get(5),
    }))
}

/// A row of `id, tenant, allow_deletes`; `None` for an outer join without a match.
pub(super) fn request(row: &Row) -> Option<Request> {
    let id = RequestId(row.get::<_, Option<i64>>(0)?);
    Some(Request { id, tenant: TenantId::new(row.get(1)), allow_deletes: row.get(2) })
}

fn lsn(row: &Row, column: usize) -> Lsn {
    Lsn(u64::from(row.get::<_, PgLsn>(column)))
}
