//! The rows of partitions of the users' topic, which processes of `users-sync apply` write.

use super::error::StateError;
use super::rows::{LEASE, PartitionPlace};
use super::store::{StateStore, ensure_tables, new_key};
use crate::model::{CheckpointKey, Epoch, ParkCause, TenantId};
use crate::pg::PgClient;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

impl StateStore {
    /// The key that signs the checkpoints of a slot's tenants. Creates what is missing: the publisher may have another state, and then the row
    /// of the slot holds nothing but the key, and the tenants' rows refer to it.
    pub(crate) async fn ensure_slot(client: &Client, slot: &str) -> Result<CheckpointKey, StateError> {
        ensure_tables(client).await?;
        let sql = "INSERT INTO users_sync.source (slot, generation, system_identifier, timeline, confirmed, epoch, holder, held_since, \
                     lease_until, checkpoint_key) VALUES ($1, 0, '', 0, '0/0', 0, '', now(), to_timestamp(0), $2) \
                   ON CONFLICT (slot) DO UPDATE SET checkpoint_key = coalesce(users_sync.source.checkpoint_key, $2) \
                   RETURNING checkpoint_key";
        let new_key = new_key()?;
        let row = client.query_one(sql, &[&slot, &&new_key[..]]).await?;
        CheckpointKey::new(row.try_get(0)?).ok_or(StateError::Key)
    }

    /// As [`StateStore::acquire`], for a process that applies the tenants of one partition of a topic. `partition` names the
    /// row that fences it. The tenants' rows, and the key that signs their checkpoints, are those of `slot`, so that a process
    /// that reads the slot itself can take the targets over, and the other way round.
    ///
    /// # Errors
    /// As those of [`StateStore::acquire`].
    pub(crate) async fn acquire_partition(
        client: PgClient,
        slot: &str,
        partition: &str,
        holder: &str,
    ) -> Result<StateStore, StateError> {
        let key = StateStore::ensure_slot(&client, slot).await?;
        let sql = "INSERT INTO users_sync.source AS s (slot, generation, system_identifier, timeline, confirmed, epoch, holder, held_since, \
                     lease_until) \
                   VALUES ($1, 0, '', 0, '0/0', (extract(epoch FROM clock_timestamp()) * 1000)::bigint, $2, now(), \
                     now() + $3 * interval '1 second') \
                   ON CONFLICT (slot) DO UPDATE SET epoch = greatest(s.epoch + 1, excluded.epoch), holder = $2, held_since = now(), \
                     lease_until = excluded.lease_until, confirmed = '0/0', received = '0/0', behind = '{}', behind_since = '{}' \
                   RETURNING epoch";
        let row = client.query_one(sql, &[&partition, &holder, &LEASE.as_secs_f64()]).await?;
        let epoch: i64 = row.try_get(0)?;
        // A process that reads the source knows the writer of a checkpoint by it. The end of the source's log is unknown here.
        let sql = "INSERT INTO users_sync.epoch (slot, epoch, flushed) VALUES ($1, $2, 'FFFFFFFF/FFFFFFFF') ON CONFLICT DO NOTHING";
        client.execute(sql, &[&slot, &epoch]).await?;
        Ok(StateStore { epoch: Epoch(epoch), key, tenants_slot: slot.to_owned(), slot: partition.to_owned(), client })
    }

    /// Records what the tenants of a partition are before anything of it is read: `joining` have to be rebuilt, as what is read does
    /// not continue what they hold, and `absent` are not in the configuration, so that they miss what is read.
    pub(crate) async fn begin_partition(&self, joining: &[&str], absent: &[&str]) -> Result<(), StateError> {
        let sql = "UPDATE users_sync.tenant t SET since = now(), remedy = NULL, \
                     state = CASE WHEN tenant = ANY($5) THEN 'parked' ELSE 'joining' END, \
                     reason = CASE WHEN tenant = ANY($5) THEN $6 END, reason_code = CASE WHEN tenant = ANY($5) THEN $7 END \
                   FROM users_sync.source s WHERE s.slot = $1 AND s.epoch = $2 AND t.slot = $3 \
                   AND (tenant = ANY($4) OR tenant = ANY($5)) AND t.state <> 'parked'";
        let cause = ParkCause::NotConfigured;
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&self.slot, &self.epoch.0, &self.tenants_slot, &joining, &absent, &cause.text(), &cause.code()];
        self.client.execute(sql, &parameters).await?;
        self.fenced_unless(self.is_newest().await?)
    }

    /// The ids of the slot's tenants that are not parked.
    pub(crate) async fn unparked(&self) -> Result<Vec<TenantId>, StateError> {
        let sql = "SELECT tenant FROM users_sync.tenant WHERE slot = $1 AND state <> 'parked'";
        let rows = self.client.query(sql, &[&self.tenants_slot]).await?;
        Ok(rows.iter().map(|row| row.try_get(0).map(TenantId::new)).collect::<Result<_, _>>()?)
    }

    /// Records how far the partition has been applied.
    pub(crate) async fn put_place(&self, place: &PartitionPlace) -> Result<(), StateError> {
        let PartitionPlace { partitions, committed_offset, end_offset } = place;
        let sql = "INSERT INTO users_sync.partition AS p (slot, partitions, committed_offset, end_offset) \
                   SELECT slot, $3, $4, $5 FROM users_sync.source WHERE slot = $1 AND epoch = $2 FOR SHARE \
                   ON CONFLICT (slot) DO UPDATE SET partitions = excluded.partitions, at = now(), \
                     committed_offset = excluded.committed_offset, end_offset = excluded.end_offset";
        self.client.execute(sql, &[&self.slot, &self.epoch.0, partitions, committed_offset, end_offset]).await?;
        Ok(())
    }
}
