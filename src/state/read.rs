//! Reads the state's tables.

use super::error::StateError;
use super::read_source::{NamedSource, lsn, read_partitions, read_sources};
use super::rows::{
    LEASE, Pause, Pauses, Request, RequestId, RequestKind, SeenProcess, Snapshot, TeePublished, TeeRow, TenantRow,
    TenantState,
};
use super::schema::{self, LEFT_OUT_TABLES};
use crate::model::{Epoch, ExtraRows, Generation, Lsn, Reason, TargetId, TenantId, TopicTrouble};
use crate::pg::PgTimestamp;
use std::collections::BTreeMap;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error, Row};

/// Whether the tables exist.
pub(super) async fn exists(client: &Client) -> Result<bool, StateError> {
    Ok(client.query_one("SELECT to_regclass('users_sync.tee') IS NOT NULL", &[]).await?.try_get(0)?)
}

/// Whether the tables have every column of this version.
pub(super) async fn is_current(client: &Client) -> Result<bool, StateError> {
    Ok(client.query_one(schema::IS_CURRENT, &[]).await?.try_get(0)?)
}

/// An error if the tables lack the columns of this version: the first `run` of this version adds them.
pub(super) async fn require_current(client: &Client) -> Result<(), StateError> {
    if is_current(client).await? { Ok(()) } else { Err(StateError::Outdated) }
}

/// The paused tenants of slot `$1` as JSON. `paused` is an expression over a row `t` of `users_sync.tenant`.
macro_rules! pauses {
    ($paused:literal) => {
        concat!(
            "(SELECT jsonb_object_agg(tenant, jsonb_build_object('reason', paused ->> 'reason', 'by', paused ->> 'by', \
               'since_seconds', extract(epoch FROM now() - (paused ->> 'since')::timestamptz)::float8, \
               'is_effective', paused ? 'stopped_at'))::text \
             FROM (SELECT tenant, ",
            $paused,
            " AS paused FROM users_sync.tenant t WHERE slot = $1) t WHERE jsonb_typeof(paused) = 'object')"
        )
    };
}

/// The paused tenants, from tables of this version.
pub(super) const PAUSES: &str = pauses!("t.paused");
/// The same, also from tables of an earlier version.
pub(super) const PAUSES_OF_ANY_VERSION: &str = pauses!("to_jsonb(t) -> 'paused'");

/// Reads the column that one of these expressions makes. What another program wrote there counts as no pause.
pub(super) fn pauses(row: &Row, column: usize) -> Result<Pauses, Error> {
    let text: Option<&str> = row.try_get(column)?;
    let read = text.and_then(|text| serde_json::from_str::<BTreeMap<String, Pause>>(text).ok());
    Ok(read.unwrap_or_default().into_iter().map(|(tenant, pause)| (TenantId::new(&tenant), pause)).collect())
}

/// Reads all rows of one slot, also from tables of an earlier version.
pub(super) async fn read_rows(client: &Client, slot: &str) -> Result<Snapshot, StateError> {
    let source = read_sources(client, "slot = $1", slot).await?.pop();
    let (source, key) = source.map_or((None, None), |NamedSource { source, key, .. }| (Some(source), key));
    let (tenants, pauses) = read_tenants(client, slot, None).await?;
    let rows = client.query("SELECT epoch, flushed FROM users_sync.epoch WHERE slot = $1", &[&slot]).await?;
    let epochs = rows.iter().map(|row| Ok((Epoch(row.try_get(0)?), lsn(row, 1)?))).collect::<Result<_, Error>>()?;
    let tee = read_tee(client, slot).await?;
    let seen = seen_processes(client, slot).await?;
    let idle_processes = seen.into_iter().filter(|process| !process.holds_lease).map(|process| process.name).collect();
    let partitions = read_partitions(client, slot).await?;
    Ok(Snapshot { source, tenants, epochs, tee, partitions, pauses, idle_processes, key })
}

/// Reads the rows of a slot's tenants, of all or of those named, and which of the slot's tenants are paused.
pub(super) async fn read_tenants(
    client: &Client,
    slot: &str,
    only: Option<&[&str]>,
) -> Result<(BTreeMap<TenantId, TenantRow>, Pauses), StateError> {
    let sql = "SELECT tenant, state, reason, remedy, target, target_id::text, generation, position, \
                 extract(epoch FROM now() - since)::float8, rejected, relation, to_jsonb(t) ->> 'reason_code', \
                 coalesce((to_jsonb(t) ->> 'signed')::boolean, false), \
                 coalesce((to_jsonb(t) ->> 'failures')::bigint, 0), \
                 extract(epoch FROM now() - (to_jsonb(t) ->> 'failing_since')::timestamptz)::float8, \
                 to_jsonb(t) ->> 'opened_as', (to_jsonb(t) ->> 'purge_due')::timestamptz \
               FROM users_sync.tenant t WHERE slot = $1 AND ($2::text[] IS NULL OR tenant = ANY($2))";
    let tenants = client.query(sql, &[&slot, &only]).await?.iter().map(tenant_row).collect::<Result<_, _>>()?;
    let pauses = pauses(&client.query_one(&format!("SELECT {PAUSES_OF_ANY_VERSION}"), &[&slot]).await?, 0)?;
    Ok((tenants, pauses))
}

fn tenant_row(row: &Row) -> Result<(TenantId, TenantRow), Error> {
    let found = TenantRow {
        state: TenantState::parse(row.try_get(1)?),
        reason_code: row.try_get::<_, Option<&str>>(11)?.and_then(Reason::parse),
        reason: row.try_get(2)?,
        remedy: row.try_get(3)?,
        target: row.try_get(4)?,
        target_id: row.try_get::<_, Option<&str>>(5)?.map(TargetId::new),
        generation: Generation(row.try_get(6)?),
        position: lsn(row, 7)?,
        since_seconds: row.try_get(8)?,
        rejected: row.try_get::<_, i64>(9)?.unsigned_abs(),
        relation: row.try_get::<_, Option<u32>>(10)?,
        signed: row.try_get(12)?,
        failures: row.try_get::<_, i64>(13)?.unsigned_abs(),
        failing_seconds: row.try_get(14)?,
        opened_as: row.try_get(15)?,
        purge_due: row.try_get::<_, Option<PgTimestamp>>(16)?.map(|due| due.0),
    };
    Ok((TenantId::new(row.try_get(0)?), found))
}

pub(super) async fn read_tee(client: &Client, slot: &str) -> Result<Option<TeeRow>, StateError> {
    // Tables of an earlier version lack some columns.
    let sql = "SELECT tee_slot, state, extract(epoch FROM now() - since)::float8, reason, remedy, requested, \
                 to_jsonb(t) ->> 'reason_code', (to_jsonb(t) ->> 'position')::pg_lsn, \
                 coalesce(to_jsonb(t) ->> 'system_identifier', ''), \
                 ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(t) -> 'tenants', '[]'))) \
               FROM users_sync.tee t WHERE slot = $1";
    let Some(row) = client.query_opt(sql, &[&slot]).await? else { return Ok(None) };
    // Tables of an earlier version lack some.
    let there = "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass('users_sync.' || name) IS NOT NULL";
    let there = client.query(there, &[&&LEFT_OUT_TABLES[..]]).await?;
    let tables: Vec<&str> = there.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let rejected = count_left_out(client, slot, &tables).await?;
    let published = |position: PgLsn| {
        let tenants: Vec<&str> = row.try_get(9)?;
        let tenants = tenants.into_iter().map(TenantId::new).collect();
        Ok::<_, Error>(TeePublished { position: Lsn(u64::from(position)), system: row.try_get(8)?, tenants })
    };
    Ok(Some(TeeRow {
        rejected,
        reason_code: row.try_get::<_, Option<&str>>(6)?.and_then(TopicTrouble::parse),
        published: row.try_get::<_, Option<PgLsn>>(7)?.map(published).transpose()?,
        slot: row.try_get(0)?,
        state: TenantState::parse(row.try_get(1)?),
        since_seconds: row.try_get(2)?,
        reason: row.try_get(3)?,
        remedy: row.try_get(4)?,
        requested: row.try_get(5)?,
    }))
}

/// Whether the table of processes exists. Before the first session of this version it does not.
pub(super) async fn has_processes(client: &Client) -> Result<bool, StateError> {
    Ok(client.query_one("SELECT to_regclass('users_sync.process') IS NOT NULL", &[]).await?.try_get(0)?)
}

/// The processes that were alive within the length of a lease.
pub(super) async fn seen_processes(client: &Client, slot: &str) -> Result<Vec<SeenProcess>, StateError> {
    if !has_processes(client).await? {
        return Ok(Vec::new());
    }
    let sql = "SELECT holder, true, lease_until::text FROM users_sync.source WHERE slot = $1 AND lease_until > now() \
               UNION ALL SELECT process, false, seen_at::text FROM users_sync.process \
                 WHERE slot = $1 AND seen_at > now() - $2 * interval '1 second' ORDER BY 1, 2";
    let read = |row: &Row| {
        Ok::<_, StateError>(SeenProcess { name: row.try_get(0)?, holds_lease: row.try_get(1)?, mark: row.try_get(2)? })
    };
    client.query(sql, &[&slot, &LEASE.as_secs_f64()]).await?.iter().map(read).collect()
}

/// A row of `id, tenant, allow_deletes, adopt, kind, user_id`; `None` for an outer join without a match, and for a kind of a newer
/// version.
pub(super) fn request(row: &Row) -> Result<Option<Request>, Error> {
    let Some(id) = row.try_get::<_, Option<i64>>(0)?.map(RequestId) else { return Ok(None) };
    let adopt = row.try_get::<_, Option<&str>>(3)?.and_then(ExtraRows::parse);
    let kind = RequestKind::of_row(row.try_get(4)?, row.try_get(2)?, adopt, row.try_get(5)?);
    let tenant = TenantId::new(row.try_get(1)?);
    Ok(kind.map(|kind| Request { id, tenant, kind }))
}

/// The number of users that the Kafka output of a slot leaves out, in these tables.
pub(super) async fn count_left_out(client: &Client, slot: &str, tables: &[&str]) -> Result<u64, StateError> {
    let count = |table: &&str| format!(" + (SELECT count(*) FROM users_sync.{table} WHERE slot = $1)");
    let counts: String = tables.iter().map(count).collect();
    if counts.is_empty() {
        return Ok(0);
    }
    let row = client.query_one(&format!("SELECT 0{counts}"), &[&slot]).await?;
    Ok(row.try_get::<_, i64>(0)?.unsigned_abs())
}
