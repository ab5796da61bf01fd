//! Writes the state of one slot, as one process.

use super::error::StateError;
use super::read::{PAUSES, exists, is_current, pauses, read_rows, read_tenants, request};
use super::rows::{LEASE, Pauses, Reached, Recorded, Snapshot, TenantRow, findings_to_json};
use super::schema::{CREATE, NOTE_STATE, UPGRADE};
use crate::model::{
    CHECKPOINT_KEY_BYTES, CheckpointKey, Epoch, Generation, Lsn, Made, ParkCause, Reason, SourceTrouble, TargetId,
    TenantId, UserCount,
};
use crate::pg::{PgClient, PgTimestamp, create_schema};
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::BTreeMap;
use tokio_postgres::Client;
use tokio_postgres::types::{PgLsn, ToSql};

/// Number of epochs that are remembered. The checkpoint of an older epoch is believed without a check.
const EPOCHS_KEPT: i64 = 1_000;

/// The advisory lock under which the tables are created and upgraded: "users_sy".
const TABLES_LOCK: i64 = 0x7573_6572_735f_7379;

/// The state of one slot, written by one process.
pub struct StateStore {
    pub(super) client: PgClient,
    /// The row that fences this process: that of its slot, or of its partition of a topic.
    pub(super) slot: String,
    /// The slot that the tenants' rows belong to. The same, unless the process applies from a topic.
    pub(super) tenants_slot: String,
    pub(super) epoch: Epoch,
    pub(super) key: CheckpointKey,
}

impl StateStore {
    /// Creates or upgrades the tables, and raises the epoch: this process becomes the newest of the slot. Call it once the slot
    /// is acquired, and read the state afterwards. The row of a new slot starts at generation 0. `flushed` is the end of the
    /// source's log.
    ///
    /// Epochs are taken from the clock, so that none is used twice even if the state is restored to an older point.
    ///
    /// # Errors
    /// `StateError::Outdated` if the role may not upgrade the tables.
    pub async fn acquire(client: PgClient, slot: &str, holder: &str, flushed: Lsn) -> Result<StateStore, StateError> {
        ensure_tables(&client).await?;
        let new_key = new_key()?;
        let row = client
            .query_one(
                "WITH p AS (SELECT holder FROM users_sync.source WHERE slot = $1), \
                 s AS (INSERT INTO users_sync.source AS s \
                   (slot, generation, system_identifier, timeline, confirmed, epoch, holder, held_since, lease_until, \
                    checkpoint_key) \
                 VALUES ($1, 0, '', 0, '0/0', (extract(epoch FROM clock_timestamp()) * 1000)::bigint, $2, now(), \
                   now() + $3 * interval '1 second', $5) \
                 ON CONFLICT (slot) DO UPDATE SET epoch = greatest(s.epoch + 1, excluded.epoch), holder = $2, \
                   held_since = now(), lease_until = now() + $3 * interval '1 second', \
                   checkpoint_key = coalesce(s.checkpoint_key, excluded.checkpoint_key) \
                 RETURNING slot, epoch, checkpoint_key), \
                 e AS (INSERT INTO users_sync.epoch (slot, epoch, flushed) SELECT slot, epoch, $4 FROM s), \
                 v AS (INSERT INTO users_sync.event (slot, kind, text) \
                   SELECT slot, 'failed_over', format('%s took over from %s', $2, p.holder) FROM s, p WHERE p.holder <> $2) \
                 SELECT epoch, checkpoint_key FROM s",
                &[&slot, &holder, &LEASE.as_secs_f64(), &PgLsn::from(flushed.0), &&new_key[..]],
            )
            .await?;
        let prune = "DELETE FROM users_sync.epoch WHERE slot = $1 AND epoch < (SELECT min(epoch) FROM \
                       (SELECT epoch FROM users_sync.epoch WHERE slot = $1 ORDER BY epoch DESC LIMIT $2) kept)";
        client.execute(prune, &[&slot, &EPOCHS_KEPT]).await?;
        let key = CheckpointKey::new(row.try_get(1)?).ok_or(StateError::Key)?;
        let slot = slot.to_owned();
        Ok(StateStore { client, tenants_slot: slot.clone(), slot, epoch: Epoch(row.try_get(0)?), key })
    }

    /// The rows of the partitions of a topic that were ever applied, by name, and whether a process has each of them.
    pub(crate) async fn partitions(&self, topic: &str) -> Result<Vec<(String, bool)>, StateError> {
        let sql = "SELECT slot, lease_until > now() FROM users_sync.source WHERE starts_with(slot, $1 || '/' || $2 || '/') \
                   ORDER BY slot";
        let rows = self.client.query(sql, &[&self.slot, &topic]).await?;
        Ok(rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect::<Result<_, tokio_postgres::Error>>()?)
    }

    /// The rows of these tenants, and which tenants are paused.
    pub(crate) async fn load_tenants(
        &self,
        tenants: &[&str],
    ) -> Result<(BTreeMap<TenantId, TenantRow>, Pauses), StateError> {
        read_tenants(&self.client, &self.tenants_slot, Some(tenants)).await
    }

    /// The connection.
    pub(crate) fn session(&self) -> &Client {
        &self.client
    }

    /// The epoch of this process.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Signs and verifies the checkpoints in the targets. Created with the slot's row, and never changed.
    pub(crate) fn checkpoint_key(&self) -> &CheckpointKey {
        &self.key
    }

    /// Reads all rows of the slot.
    pub async fn load(&self) -> Result<Snapshot, StateError> {
        read_rows(&self.client, &self.slot).await
    }

    /// Reads all rows of a slot without becoming its newest process, for commands such as `status`. Empty without tables.
    pub async fn read(client: &Client, slot: &str) -> Result<Snapshot, StateError> {
        if exists(client).await? { read_rows(client, slot).await } else { Ok(Snapshot::default()) }
    }

    /// Deletes the rows of a slot, for `teardown`, and the record of what `setup` made, except what stays. Drops the tables with
    /// the last slot, and the schema if it is empty then.
    pub(crate) async fn forget(client: &Client, slot: &str, stays: &[Made]) -> Result<(), StateError> {
        StateStore::forget_made(client, slot, stays).await?;
        if !exists(client).await? {
            return StateStore::drop_empty_schema(client).await;
        }
        // And the rows of the partitions that were applied. A slot's name has no slash.
        let sql = "DELETE FROM users_sync.source WHERE slot = $1 OR starts_with(slot, $1 || '/')";
        client.execute(sql, &[&slot]).await?;
        if client.query_opt("SELECT FROM users_sync.source LIMIT 1", &[]).await?.is_none() {
            client
                .batch_execute(
                    "DROP TABLE IF EXISTS users_sync.process, users_sync.event, users_sync.tee_accepted, users_sync.tee_unmappable, \
                       users_sync.tee_rejected, users_sync.tee, users_sync.partition, \
                       users_sync.request, users_sync.epoch, users_sync.tenant, users_sync.source",
                )
                .await?;
            StateStore::drop_empty_schema(client).await?;
        }
        Ok(())
    }

    /// Drops the schema if nothing is left in it, and if it belongs to this role.
    async fn drop_empty_schema(client: &Client) -> Result<(), StateError> {
        let sql = "SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'users_sync' AND pg_has_role(n.nspowner, 'USAGE') \
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid) \
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.pronamespace = n.oid)";
        if client.query_opt(sql, &[]).await?.is_some() {
            client.batch_execute("DROP SCHEMA users_sync").await?;
        }
        Ok(())
    }

    /// Deletes the row of a tenant, for `forget`.
    pub async fn forget_tenant(client: &Client, slot: &str, tenant: &TenantId) -> Result<(), StateError> {
        let sql = "DELETE FROM users_sync.tenant WHERE slot = $1 AND tenant = $2";
        client.execute(sql, &[&slot, &tenant.as_str()]).await?;
        Ok(())
    }

    /// Begins a new generation at `position`, because the slot or the source is not the one of the last generation.
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
                "UPDATE users_sync.source SET generation = $3, system_identifier = $4, timeline = $5, confirmed = $6, \
                   received = $6, behind = '{}', anchor = '0/0', anchor_xid = 0 \
                 WHERE slot = $1 AND epoch = $2",
                &[&self.slot, &self.epoch.0, &generation.0, &system_identifier, &timeline, &PgLsn::from(position.0)],
            )
            .await?;
        self.fenced_unless(written == 1)
    }

    /// Records the publication's current version: everything that an altered one left out has been handled.
    pub async fn saw_publication(&self, version: &str) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.source SET publication = $3 WHERE slot = $1 AND epoch = $2";
        let written = self.client.execute(sql, &[&self.slot, &self.epoch.0, &version]).await?;
        self.fenced_unless(written == 1)
    }

    /// Records the source's shape. Call it once everything that the change requires is recorded, too.
    pub async fn saw_shape(&self, shape: &str, version: i64) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.source SET shape = $3, shape_version = $4 WHERE slot = $1 AND epoch = $2";
        let written = self.client.execute(sql, &[&self.slot, &self.epoch.0, &shape, &version]).await?;
        self.fenced_unless(written == 1)
    }

    /// Writes the row of a tenant. Write it before anything that depends on it.
    pub async fn put_tenant(&self, tenant: &TenantId, row: &TenantRow) -> Result<(), StateError> {
        let target_id = row.target_id.as_ref().map(TargetId::as_str);
        let written = self
            .client
            .execute(
                &format!("WITH w AS (INSERT INTO users_sync.tenant AS t (slot, tenant, state, since, reason, remedy, target, target_id, \
                   generation, position, position_at, rejected, relation, reason_code, signed, failures, failing_since, \
                   opened_as, purge_due) \
                 SELECT $1, $3, $4, now(), $5, $6, $7, $8::text::uuid, $9, $10, now(), $11, $12, $13, $14, $15, \
                   now() - $16 * interval '1 second', $17, $18 \
                 FROM users_sync.source \
                 WHERE slot = $19 AND epoch = $2 FOR SHARE \
                 ON CONFLICT (slot, tenant) DO UPDATE SET state = excluded.state, \
                   since = CASE WHEN t.state = excluded.state THEN t.since ELSE now() END, \
                   reason = excluded.reason, remedy = excluded.remedy, target = excluded.target, \
                   target_id = excluded.target_id, generation = excluded.generation, \
                   position = excluded.position, position_at = now(), rejected = excluded.rejected, \
                   relation = excluded.relation, reason_code = excluded.reason_code, signed = excluded.signed, \
                   failures = excluded.failures, failing_since = excluded.failing_since, \
                   opened_as = excluded.opened_as, purge_due = excluded.purge_due \
                 RETURNING slot, tenant, state, reason, reason_code), {NOTE_STATE} SELECT FROM w"),
                &[
                    &self.tenants_slot,
                    &self.epoch.0,
                    &tenant.as_str(),
                    &row.state.as_str(),
                    &row.reason,
                    &row.remedy,
                    &row.target,
                    &target_id,
                    &row.generation.0,
                    &PgLsn::from(row.position.0),
                    &i64::try_from(row.rejected).unwrap_or(i64::MAX),
                    &row.relation,
                    &row.reason_code.map(Reason::code),
                    &row.signed,
                    &i64::try_from(row.failures).unwrap_or(i64::MAX),
                    &row.failing_seconds,
                    &row.opened_as,
                    &row.purge_due.map(PgTimestamp),
                    &self.slot,
                ],
            )
            .await?;
        self.fenced_unless(written == 1)
    }

    /// Writes the reason of a tenant's row and nothing else of it. The position may have been recorded since.
    pub(crate) async fn note_reason(&self, tenant: &TenantId, row: &TenantRow) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.tenant t SET reason = $4, reason_code = $5, remedy = $6, \
                     failing_since = now() - $7 * interval '1 second' \
                   FROM users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = $8 AND t.tenant = $3";
        let TenantRow { reason, reason_code, remedy, failing_seconds, .. } = row;
        let code = reason_code.map(Reason::code);
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&self.slot, &self.epoch.0, &tenant.as_str(), reason, &code, remedy, failing_seconds, &self.tenants_slot];
        self.client.execute(sql, &parameters).await?;
        Ok(())
    }

    /// Records why a session on the source ended or could not begin, unless another process replicates. Does nothing before
    /// the first session and with tables of an earlier version.
    pub(crate) async fn note_trouble(
        client: &Client,
        slot: &str,
        holder: &str,
        code: SourceTrouble,
        text: &str,
    ) -> Result<(), StateError> {
        if exists(client).await? && is_current(client).await? {
            let sql = "UPDATE users_sync.source SET trouble = $3, trouble_code = $4, \
                         trouble_since = CASE WHEN trouble_code = $4 THEN trouble_since ELSE now() END \
                       WHERE slot = $1 AND (holder = $2 OR lease_until < now())";
            client.execute(sql, &[&slot, &holder, &text, &code.code()]).await?;
        }
        Ok(())
    }

    /// Records the count of the users without a tenant.
    pub(crate) async fn note_user_count(&self, counted: &UserCount) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.source SET user_count = $3, user_count_at = now() WHERE slot = $1 AND epoch = $2";
        // Numbers, texts and lists of them always become JSON.
        let text = serde_json::to_string(counted).ok();
        let written = self.client.execute(sql, &[&self.slot, &self.epoch.0, &text]).await?;
        self.fenced_unless(written == 1)
    }

    /// Marks the history as broken: the next session begins a new generation. Needs no epoch, as its worst effect is a resync.
    pub async fn break_history(client: &Client, slot: &str) -> Result<(), StateError> {
        if exists(client).await? {
            client.execute("UPDATE users_sync.source SET system_identifier = '' WHERE slot = $1", &[&slot]).await?;
        }
        Ok(())
    }

    /// Marks the history as broken, and raises the epoch above `seen`, which a process unknown to the state has used.
    pub async fn break_own_history(&self, seen: Epoch) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.source SET system_identifier = '', epoch = greatest(epoch, $3) + 1 \
                   WHERE slot = $1 AND epoch = $2";
        let written = self.client.execute(sql, &[&self.slot, &self.epoch.0, &seen.0]).await?;
        self.fenced_unless(written == 1)
    }

    /// Whether no later process has raised the epoch.
    pub async fn is_newest(&self) -> Result<bool, StateError> {
        let sql = "SELECT FROM users_sync.source WHERE slot = $1 AND epoch = $2";
        Ok(self.client.query_opt(sql, &[&self.slot, &self.epoch.0]).await?.is_some())
    }

    /// Parks the tenants that are not in the configuration. Their rows stay: a tenant that is added again is resynced into
    /// the same target.
    pub async fn park_others(&self, tenants: &[&str]) -> Result<u64, StateError> {
        let sql = "UPDATE users_sync.tenant t SET state = 'parked', since = now(), remedy = NULL, \
                     reason = $4, reason_code = $5 \
                   FROM users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = s.slot \
                   AND t.tenant <> ALL($3) AND t.state <> 'parked'";
        let cause = ParkCause::NotConfigured;
        let parameters: [&(dyn ToSql + Sync); 5] = [&self.slot, &self.epoch.0, &tenants, &cause.text(), &cause.code()];
        Ok(self.client.execute(sql, &parameters).await?)
    }

    /// Writes the positions of the targets and the position that is about to be confirmed, and renews the lease. Returns the
    /// open requests and the paused tenants.
    pub(crate) async fn record(
        &self,
        reached: &Reached,
        positions: &[(TenantId, Lsn)],
    ) -> Result<Recorded, StateError> {
        let Reached { confirmed, received, behind, behind_since, anchor, findings } = reached;
        let behind_since: Vec<Option<PgTimestamp>> = behind_since.iter().map(|at| at.map(PgTimestamp)).collect();
        let behind: Vec<&str> = behind.iter().map(TenantId::as_str).collect();
        let tenants: Vec<&str> = positions.iter().map(|(tenant, _)| tenant.as_str()).collect();
        let positions: Vec<PgLsn> = positions.iter().map(|(_, position)| PgLsn::from(position.0)).collect();
        let rows = self
            .client
            .query(
                &format!(
                    "WITH s AS (UPDATE users_sync.source \
                     SET confirmed = greatest(confirmed, $3), lease_until = now() + $6 * interval '1 second', \
                       received = $7, behind = $8, anchor = $9, anchor_xid = $10, behind_since = $11, trouble = NULL, \
                       trouble_code = NULL, trouble_since = NULL, findings = $12 \
                   WHERE slot = $13 AND epoch = $2 RETURNING slot), \
                 t AS (UPDATE users_sync.tenant t SET position = greatest(t.position, n.position), position_at = now() \
                   FROM s, unnest($4::text[], $5::pg_lsn[]) AS n(tenant, position) \
                   WHERE t.slot = $1 AND t.tenant = n.tenant) \
                 SELECT r.id, r.tenant, r.allow_deletes, r.adopt, r.kind, r.user_id, {PAUSES} \
                 FROM s LEFT JOIN users_sync.request r ON r.slot = $1 ORDER BY r.id"
                ),
                &[
                    &self.tenants_slot,
                    &self.epoch.0,
                    &PgLsn::from(confirmed.0),
                    &tenants,
                    &positions,
                    &LEASE.as_secs_f64(),
                    &PgLsn::from(received.0),
                    &behind,
                    &PgLsn::from(anchor.end.0),
                    &i64::from(anchor.xid.0),
                    &behind_since,
                    &findings_to_json(findings),
                    &self.slot,
                ],
            )
            .await?;
        self.fenced_unless(!rows.is_empty())?;
        let requests = rows.iter().filter_map(|row| request(row).transpose()).collect::<Result<_, _>>()?;
        let pauses = rows.first().map(|row| pauses(row, 6)).transpose()?.unwrap_or_default();
        Ok(Recorded { requests, pauses })
    }

    /// Ends the lease, so that a standby need not wait for it.
    pub async fn release(&self) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.source SET lease_until = now() WHERE slot = $1 AND epoch = $2";
        self.client.execute(sql, &[&self.slot, &self.epoch.0]).await?;
        Ok(())
    }

    pub(super) fn fenced_unless(&self, written: bool) -> Result<(), StateError> {
        if written { Ok(()) } else { Err(StateError::Fenced { slot: self.slot.clone(), epoch: self.epoch }) }
    }
}

/// Creates or upgrades the tables.
pub(super) async fn ensure_tables(client: &Client) -> Result<(), StateError> {
    if exists(client).await? && is_current(client).await? {
        return Ok(());
    }
    // Processes of an installation may start at the same time, and `IF NOT EXISTS` does not keep two of them apart.
    client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let done = create_tables(client).await;
    match done {
        Ok(()) => client.batch_execute("COMMIT").await?,
        // The error that caused it says more than one of the rollback.
        Err(_) => drop(client.batch_execute("ROLLBACK").await),
    }
    done
}

async fn create_tables(client: &Client) -> Result<(), StateError> {
    client.batch_execute(&format!("SELECT pg_catalog.pg_advisory_xact_lock({TABLES_LOCK})")).await?;
    if !exists(client).await? {
        create_schema(client, "users_sync").await?;
        client.batch_execute(CREATE).await?;
    }
    if !is_current(client).await? {
        client.batch_execute(UPGRADE).await.map_err(StateError::of_upgrade)?;
    }
    Ok(())
}

/// A random key for checkpoints.
pub(super) fn new_key() -> Result<[u8; CHECKPOINT_KEY_BYTES], StateError> {
    let mut key = [0; CHECKPOINT_KEY_BYTES];
    SystemRandom::new().fill(&mut key).map_err(|_| StateError::Key)?;
    Ok(key)
}
