//! Reads the rows of sources, and those of partitions of the users' topic, which have the same form.

use super::error::StateError;
use super::rows::{PartitionPlace, PartitionRow, SourceRow, TroubleRow, UserCountRow, findings_from_json};
use crate::model::{Anchor, CheckpointKey, Epoch, Generation, Lsn, SourceTrouble, TenantId, Xid};
use std::collections::BTreeMap;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error, Row};

/// Reads the rows of the partitions of a slot's topic that were ever applied, in their order. Tables of an earlier version have none.
pub(super) async fn read_partitions(client: &Client, slot: &str) -> Result<Vec<PartitionRow>, StateError> {
    let there = client.query_one("SELECT to_regclass('users_sync.partition') IS NOT NULL", &[]).await?;
    if !there.try_get(0)? {
        return Ok(Vec::new());
    }
    let places = "SELECT slot, partitions, committed_offset, end_offset, extract(epoch FROM now() - at)::float8 \
                  FROM users_sync.partition WHERE starts_with(slot, $1 || '/')";
    let mut known = BTreeMap::new();
    for row in client.query(places, &[&slot]).await? {
        let place = PartitionPlace {
            partitions: row.try_get(1)?,
            committed_offset: row.try_get(2)?,
            end_offset: row.try_get(3)?,
        };
        known.insert(row.try_get::<_, String>(0)?, (place, row.try_get::<_, f64>(4)?));
    }
    let mut partitions = Vec::new();
    for NamedSource { name, source, .. } in read_sources(client, "starts_with(slot, $1 || '/')", slot).await? {
        let (place, place_seconds) = known.remove(&name).map_or((None, 0.0), |(place, age)| (Some(place), age));
        // `SLOT/TOPIC/NUMBER`. Neither a slot nor a topic has a slash in its name.
        let mut parts = name.rsplitn(3, '/');
        let (Some(Ok(number)), Some(topic)) = (parts.next().map(str::parse), parts.next()) else { continue };
        partitions.push(PartitionRow { topic: topic.to_owned(), number, source, place, place_seconds });
    }
    partitions.sort_by(|a, b| (&a.topic, a.number).cmp(&(&b.topic, b.number)));
    Ok(partitions)
}

/// A row of a source or of a partition.
pub(super) struct NamedSource {
    /// `slot`.
    pub(super) name: String,
    pub(super) source: SourceRow,
    /// `None` for a partition, and before a version that signs checkpoints was started.
    pub(super) key: Option<CheckpointKey>,
}

/// Reads rows of sources and of partitions. `which`: a condition on `slot` with the parameter `slot`.
pub(super) async fn read_sources(client: &Client, which: &str, slot: &str) -> Result<Vec<NamedSource>, StateError> {
    let sql = format!(
        "SELECT generation, system_identifier, timeline, confirmed, epoch, holder, \
           extract(epoch FROM greatest(lease_until, to_timestamp(0)) - now())::float8, coalesce(to_jsonb(s) ->> 'publication', ''), \
           coalesce((to_jsonb(s) ->> 'received')::pg_lsn, '0/0'), \
           ARRAY(SELECT jsonb_array_elements_text(coalesce(to_jsonb(s) -> 'behind', '[]'))), \
           slot, to_jsonb(s) ->> 'shape', coalesce((to_jsonb(s) ->> 'shape_version')::bigint, 0), \
           coalesce((to_jsonb(s) ->> 'anchor')::pg_lsn, '0/0'), \
           coalesce((to_jsonb(s) ->> 'anchor_xid')::bigint, 0), \
           ARRAY(SELECT CASE WHEN isfinite(at) THEN extract(epoch FROM now() - at)::float8 END \
             FROM jsonb_array_elements_text(coalesce(to_jsonb(s) -> 'behind_since', '[]')) since, CAST(since AS timestamptz) at), \
           to_jsonb(s) ->> 'trouble', to_jsonb(s) ->> 'trouble_code', \
           coalesce(extract(epoch FROM now() - (to_jsonb(s) ->> 'trouble_since')::timestamptz)::float8, 0), \
           to_jsonb(s) ->> 'user_count', \
           coalesce(extract(epoch FROM now() - (to_jsonb(s) ->> 'user_count_at')::timestamptz)::float8, 0), \
           coalesce(to_jsonb(s) ->> 'findings', '[]'), decode(substr(to_jsonb(s) ->> 'checkpoint_key', 3), 'hex') \
         FROM users_sync.source s WHERE {which}"
    );
    let rows = client.query(&sql, &[&slot]).await?;
    let named = |row: &Row| {
        let key = row.try_get::<_, Option<&[u8]>>(22)?.and_then(CheckpointKey::new);
        Ok(NamedSource { name: row.try_get(10)?, source: source_row(row)?, key })
    };
    Ok(rows.iter().map(named).collect::<Result<_, Error>>()?)
}

fn source_row(row: &Row) -> Result<SourceRow, Error> {
    let behind: Vec<TenantId> = row.try_get::<_, Vec<&str>>(9)?.into_iter().map(TenantId::new).collect();
    let seconds: Vec<Option<f64>> = row.try_get(15)?;
    let trouble = |text| {
        let code = row.try_get::<_, Option<&str>>(17)?.and_then(SourceTrouble::parse);
        Ok::<_, Error>(TroubleRow { code, text, since_seconds: row.try_get(18)? })
    };
    Ok(SourceRow {
        behind_seconds: behind.iter().cloned().zip(seconds).filter_map(|(id, seconds)| Some((id, seconds?))).collect(),
        trouble: row.try_get::<_, Option<String>>(16)?.map(trouble).transpose()?,
        findings: findings_from_json(row.try_get(21)?),
        user_count: user_count(row)?,
        generation: Generation(row.try_get(0)?),
        system_identifier: row.try_get(1)?,
        timeline: row.try_get(2)?,
        confirmed: lsn(row, 3)?,
        epoch: Epoch(row.try_get(4)?),
        holder: row.try_get(5)?,
        lease_seconds: row.try_get(6)?,
        publication: row.try_get(7)?,
        shape: row.try_get(11)?,
        shape_version: row.try_get(12)?,
        anchor: Anchor { end: lsn(row, 13)?, xid: Xid(row.try_get::<_, i64>(14)? as u32) },
        received: lsn(row, 8)?,
        behind,
    })
}

/// `None` also for the form of a newer version.
fn user_count(row: &Row) -> Result<Option<UserCountRow>, Error> {
    let counted = row.try_get::<_, Option<&str>>(19)?.and_then(|text| serde_json::from_str(text).ok());
    Ok(match counted {
        Some(counted) => Some(UserCountRow { counted, age_seconds: row.try_get(20)? }),
        None => None,
    })
}

pub(super) fn lsn(row: &Row, column: usize) -> Result<Lsn, Error> {
    Ok(Lsn(u64::from(row.try_get::<_, PgLsn>(column)?)))
}
