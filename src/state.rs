//! What outlives the process: schema `users_sync` in the state database, one row per slot and one per tenant.
//!
//! Every write is conditional on the epoch: a process that another one has followed can write nothing any more.
//! Status readers use [`StateStore::read`], which changes nothing.

use crate::model::{Epoch, Generation, Lsn, TargetId, TenantId};
use crate::pg::{PgClient, create_schema, describe};
use std::collections::BTreeMap;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};

const CREATE: &str = "\
CREATE TABLE IF NOT EXISTS users_sync.source (
  slot text PRIMARY KEY,
  generation bigint NOT NULL,
  system_identifier text NOT NULL,
  timeline integer NOT NULL,
  confirmed pg_lsn NOT NULL,
  epoch bigint NOT NULL,
  holder text NOT NULL,
  held_since timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS users_sync.tenant (
  slot text NOT NULL REFERENCES users_sync.source ON DELETE CASCADE,
  tenant text NOT NULL,
  state text NOT NULL CHECK (state IN ('joining', 'following', 'parked')),
  since timestamptz NOT NULL,
  reason text,
  remedy text,
  target text NOT NULL,
  target_id uuid,
  generation bigint NOT NULL,
  position pg_lsn NOT NULL,
  position_at timestamptz NOT NULL,
  PRIMARY KEY (slot, tenant)
)";

/// What the state could not do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state database refused, or the connection was lost.
    #[error("{}", describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// Another process has raised the epoch.
    #[error("another process holds slot {slot} now: this one had epoch {epoch}")]
    Fenced {
        /// Which slot.
        slot: String,
        /// The epoch that is no longer the newest.
        epoch: Epoch,
    },
}

/// What the state says of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRow {
    /// The current history.
    pub generation: Generation,
    /// Of the server that the slot was made on.
    pub system_identifier: String,
    /// Its timeline then.
    pub timeline: i32,
    /// The position confirmed last.
    pub confirmed: Lsn,
    /// The newest process.
    pub epoch: Epoch,
    /// Who that is, for people.
    pub holder: String,
}

/// The states of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantState {
    /// It takes a snapshot.
    Joining,
    /// Its target follows the stream.
    Following,
    /// It waits for its target, or for a person.
    Parked,
}

impl TenantState {
    /// The word in the state's table and in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            TenantState::Joining => "joining",
            TenantState::Following => "following",
            TenantState::Parked => "parked",
        }
    }

    fn parse(text: &str) -> TenantState {
        match text {
            "joining" => TenantState::Joining,
            "following" => TenantState::Following,
            // The table's check admits no fourth word.
            _ => TenantState::Parked,
        }
    }
}

/// What the state says of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantRow {
    /// Parked, joining or following.
    pub state: TenantState,
    /// Why it is parked.
    pub reason: Option<String>,
    /// What mends that.
    pub remedy: Option<String>,
    /// Host, port and database of its target.
    pub target: String,
    /// The target's id, once given.
    pub target_id: Option<TargetId>,
    /// The history of `position`.
    pub generation: Generation,
    /// What the target held when the slot was confirmed last.
    pub position: Lsn,
    /// How long it has been in its state, in seconds.
    pub since_seconds: f64,
    /// How long ago the position was written, in seconds.
    pub position_age_seconds: f64,
}

/// Everything that the state says of one slot.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the source, where a process has ever held the slot.
    pub source: Option<SourceRow>,
    /// Of its tenants.
    pub tenants: BTreeMap<TenantId, TenantRow>,
}

/// The state of one slot, as one process writes it.
pub struct StateStore {
    client: PgClient,
    slot: String,
    epoch: Epoch,
}

impl StateStore {
    /// Creates what is missing and becomes the newest process of this slot: raises the epoch. To be called once
    /// the slot is ours; whatever the state says is read after it. A new slot's row starts at generation 0.
    pub async fn acquire(client: PgClient, slot: &str, holder: &str) -> Result<StateStore, StateError> {
        if !exists(&client).await? {
            create_schema(&client, "users_sync").await?;
            client.batch_execute(CREATE).await?;
        }
        let row = client
            .query_one(
                "INSERT INTO users_sync.source AS s \
                   (slot, generation, system_identifier, timeline, confirmed, epoch, holder, held_since) \
                 VALUES ($1, 0, '', 0, '0/0', 1, $2, now()) \
                 ON CONFLICT (slot) DO UPDATE SET epoch = s.epoch + 1, holder = $2, held_since = now() \
                 RETURNING epoch",
                &[&slot, &holder],
            )
            .await?;
        Ok(StateStore { client, slot: slot.to_owned(), epoch: Epoch(row.get(0)) })
    }

    /// This process's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What is written down.
    pub async fn load(&self) -> Result<Snapshot, StateError> {
        read_rows(&self.client, &self.slot).await
    }

    /// Reads the state without taking part: for `status`. Empty where there is none.
    pub async fn read(client: &Client, slot: &str) -> Result<Snapshot, StateError> {
        match exists(client).await? {
            true => read_rows(client, slot).await,
            false => Ok(Snapshot::default()),
        }
    }

    /// Drops everything that is written down of one slot; with the last one the tables and, where it is empty, the
    /// schema go. For `teardown`.
    pub async fn forget(client: &Client, slot: &str) -> Result<(), StateError> {
        if !exists(client).await? {
            return Ok(());
        }
        client.execute("DELETE FROM users_sync.source WHERE slot = $1", &[&slot]).await?;
        if client.query_opt("SELECT FROM users_sync.source LIMIT 1", &[]).await?.is_none() {
            client.batch_execute("DROP TABLE users_sync.tenant, users_sync.source").await?;
            let others = "SELECT FROM pg_catalog.pg_class WHERE relnamespace = 'users_sync'::regnamespace LIMIT 1";
            if client.query_opt(others, &[]).await?.is_none() {
                client.batch_execute("DROP SCHEMA users_sync").await?;
            }
        }
        Ok(())
    }

    /// A new history begins at `position`: the slot was made anew, or the source is another one.
    pub async fn begin_generation(
        &self,
        generation: Generation,
        system_identifier: &str,
        timeline: i32,
        position: Lsn,
    ) -> Result<(), StateError> {
        let written = self
            .client
            .execute(
                "UPDATE users_sync.source SET generation = $3, system_identifier = $4, timeline = $5, confirmed = $6 \
                 WHERE slot = $1 AND epoch = $2",
                &[&self.slot, &self.epoch.0, &generation.0, &system_identifier, &timeline, &PgLsn::from(position.0)],
            )
            .await?;
        self.fenced_unless(written == 1)
    }

    /// Writes a tenant's state, before anything is done that depends on it.
    pub async fn put_tenant(&self, tenant: &TenantId, row: &TenantRow) -> Result<(), StateError> {
        let target_id = row.target_id.as_ref().map(TargetId::as_str);
        let written = self
            .client
            .execute(
                "INSERT INTO users_sync.tenant AS t (slot, tenant, state, since, reason, remedy, target, target_id, \
                   generation, position, position_at) \
                 SELECT slot, $3, $4, now(), $5, $6, $7, $8::text::uuid, $9, $10, now() FROM users_sync.source \
                 WHERE slot = $1 AND epoch = $2 FOR SHARE \
                 ON CONFLICT (slot, tenant) DO UPDATE SET state = excluded.state, \
                   since = CASE WHEN t.state = excluded.state THEN t.since ELSE now() END, \
                   reason = excluded.reason, remedy = excluded.remedy, target = excluded.target, \
                   target_id = excluded.target_id, generation = excluded.generation, \
                   position = excluded.position, position_at = now()",
                &[
                    &self.slot,
                    &self.epoch.0,
                    &tenant.as_str(),
                    &row.state.as_str(),
                    &row.reason,
                    &row.remedy,
                    &row.target,
                    &target_id,
                    &row.generation.0,
                    &PgLsn::from(row.position.0),
                ],
            )
            .await?;
        self.fenced_unless(written == 1)
    }

    /// What comes next is another history: the next session begins a generation. Asks for no epoch, as it can only
    /// cost a resync.
    pub async fn break_history(client: &Client, slot: &str) -> Result<(), StateError> {
        if exists(client).await? {
            client.execute("UPDATE users_sync.source SET system_identifier = '' WHERE slot = $1", &[&slot]).await?;
        }
        Ok(())
    }

    /// Parks the tenants that the configuration no longer has. They are not forgotten: one that comes back is
    /// resynced into the target that it had.
    pub async fn park_others(&self, tenants: &[&str]) -> Result<u64, StateError> {
        let sql = "UPDATE users_sync.tenant t SET state = 'parked', since = now(), remedy = NULL, \
                     reason = 'the configuration does not have it any more' \
                   FROM users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot \
                   AND t.tenant <> ALL($3) AND t.state <> 'parked'";
        Ok(self.client.execute(sql, &[&self.slot, &self.epoch.0, &tenants]).await?)
    }

    /// Writes what the targets hold, and the position that is about to be confirmed.
    pub async fn record(&self, confirmed: Lsn, positions: &[(TenantId, Lsn)]) -> Result<(), StateError> {
        let tenants: Vec<&str> = positions.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let positions: Vec<PgLsn> = positions.iter().map(|(_, position)| PgLsn::from(position.0)).collect();
        let row = self
            .client
            .query_one(
                "WITH s AS (UPDATE users_sync.source SET confirmed = greatest(confirmed, $3) \
                   WHERE slot = $1 AND epoch = $2 RETURNING slot), \
                 t AS (UPDATE users_sync.tenant t SET position = greatest(t.position, n.position), position_at = now() \
                   FROM s, unnest($4::text[], $5::pg_lsn[]) AS n(tenant, position) \
                   WHERE t.slot = s.slot AND t.tenant = n.tenant) \
                 SELECT count(*) FROM s",
                &[&self.slot, &self.epoch.0, &PgLsn::from(confirmed.0), &tenants, &positions],
            )
            .await?;
        self.fenced_unless(row.get::<_, i64>(0) == 1)
    }

    fn fenced_unless(&self, written: bool) -> Result<(), StateError> {
        match written {
            true => Ok(()),
            false => Err(StateError::Fenced { slot: self.slot.clone(), epoch: self.epoch }),
        }
    }
}

async fn exists(client: &Client) -> Result<bool, StateError> {
    Ok(client.query_one("SELECT to_regclass('users_sync.tenant') IS NOT NULL", &[]).await?.get(0))
}

async fn read_rows(client: &Client, slot: &str) -> Result<Snapshot, StateError> {
    let sql = "SELECT generation, system_identifier, timeline, confirmed, epoch, holder \
               FROM users_sync.source WHERE slot = $1";
    let source = client.query_opt(sql, &[&slot]).await?.map(|row| SourceRow {
        generation: Generation(row.get(0)),
        system_identifier: row.get(1),
        timeline: row.get(2),
        confirmed: lsn(&row, 3),
        epoch: Epoch(row.get(4)),
        holder: row.get(5),
    });
    let sql = "SELECT tenant, state, reason, remedy, target, target_id::text, generation, position, \
                 extract(epoch FROM now() - since)::float8, extract(epoch FROM now() - position_at)::float8 \
               FROM users_sync.tenant WHERE slot = $1";
    let tenants = client.query(sql, &[&slot]).await?.iter().map(tenant_row).collect();
    Ok(Snapshot { source, tenants })
}

fn tenant_row(row: &Row) -> (TenantId, TenantRow) {
    let found = TenantRow {
        state: TenantState::parse(row.get(1)),
        reason: row.get(2),
        remedy: row.get(3),
        target: row.get(4),
        target_id: row.get::<_, Option<&str>>(5).map(TargetId::new),
        generation: Generation(row.get(6)),
        position: lsn(row, 7),
        since_seconds: row.get(8),
        position_age_seconds: row.get(9),
    };
    (TenantId::new(row.get(0)), found)
}

fn lsn(row: &Row, column: usize) -> Lsn {
    Lsn(u64::from(row.get::<_, PgLsn>(column)))
}
