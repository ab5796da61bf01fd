//! The timeline: what happened to the tenants and the process, bounded per slot.

use super::error::StateError;
use super::store::StateStore;
use crate::pg::PgTimestamp;
use serde::Serialize;
use tokio_postgres::{Client, Row};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = TimelineEvent))]
pub(crate) struct Event {
    /// Orders the events.
    pub(crate) id: i64,
    /// When it happened.
    pub(crate) at: String,
    /// `joined`, `resynced`, `parked`, `reloaded` or `failed_over`. A newer version may add others.
    pub(crate) kind: String,
    /// The tenant; null if it concerns all of them.
    pub(crate) tenant: Option<String>,
    /// The reason code: why it was parked, or took a snapshot.
    pub(crate) code: Option<String>,
    /// More about it, in words.
    pub(crate) text: Option<String>,
}

impl StateStore {
    /// Records that the configuration was reloaded.
    pub(crate) async fn note_reload(&self, what: &str) -> Result<(), StateError> {
        let sql = "INSERT INTO users_sync.event (slot, kind, text) \
                   SELECT slot, 'reloaded', $3 FROM users_sync.source WHERE slot = $1 AND epoch = $2";
        let written = self.client.execute(sql, &[&self.slot, &self.epoch.0, &what]).await?;
        self.fenced_unless(written == 1)
    }

    /// A page of events, the newest first: those before `before`, and the number of all of them.
    pub(crate) async fn timeline(
        client: &Client,
        slot: &str,
        tenant: Option<&str>,
        before: Option<i64>,
        limit: i64,
    ) -> Result<(Vec<Event>, u64), StateError> {
        let exists = "SELECT to_regclass('users_sync.event') IS NOT NULL";
        if !client.query_one(exists, &[]).await?.try_get::<_, bool>(0)? {
            return Ok((Vec::new(), 0));
        }
        let sql = "SELECT id, at, kind, tenant, code, text FROM users_sync.event \
                   WHERE slot = $1 AND ($2::text IS NULL OR tenant = $2) AND ($3::bigint IS NULL OR id < $3) \
                   ORDER BY id DESC LIMIT $4";
        let events =
            client.query(sql, &[&slot, &tenant, &before, &limit]).await?.iter().map(event).collect::<Result<_, _>>()?;
        let sql = "SELECT count(*) FROM users_sync.event WHERE slot = $1 AND ($2::text IS NULL OR tenant = $2)";
        let total: i64 = client.query_one(sql, &[&slot, &tenant]).await?.try_get(0)?;
        Ok((events, total.unsigned_abs()))
    }
}

fn event(row: &Row) -> Result<Event, tokio_postgres::Error> {
    let PgTimestamp(at) = row.try_get(1)?;
    Ok(Event {
        id: row.try_get(0)?,
        at: at.to_string(),
        kind: row.try_get(2)?,
        tenant: row.try_get(3)?,
        code: row.try_get(4)?,
        text: row.try_get(5)?,
    })
}
