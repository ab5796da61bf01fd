//! The slot: found free, made, or waited for as a standby.

use crate::capture::slot::{self, CreatedSlot};
use crate::capture::{ReplicationConnection, publication};
use crate::config::{Config, OnSlotLoss};
use crate::model::{Lsn, SlotLoss};
use crate::pg::{PgClient, connect};
use crate::replicator::error::ServiceError;
use crate::snapshot::{Export, hold_export};
use crate::state::{LEASE, StateStore};
use crate::status::live::ProcessStatus;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a standby looks whether the slot is free.
const STANDBY_EVERY: Duration = Duration::from_millis(500);

/// Finds the slot free, or makes it; gives the position that it sends from, and the snapshot of a new one.
pub(crate) async fn take_slot(
    config: &Config,
    client: &PgClient,
    state: &PgClient,
    connection: &mut ReplicationConnection,
    unpublished: bool,
    live: &ProcessStatus,
) -> Result<(Lsn, Option<Export>), ServiceError> {
    let name = &config.source.slot;
    let mut standby = Standby::default();
    let why = loop {
        let Some(row) = slot::read_slot(client, name).await? else {
            let known = StateStore::read(state, name).await?;
            break known.source.is_some_and(|source| source.generation.0 > 0).then_some(SlotLoss::Gone);
        };
        let foreign = |why: String| ServiceError::ForeignSlot { slot: name.clone(), why };
        if row.plugin.as_deref() != Some(slot::PLUGIN) {
            return Err(foreign(format!("its plugin is {}", row.plugin.as_deref().unwrap_or("none (it is physical)"))));
        }
        if row.database.as_deref() != Some(&*config.source.url.database) {
            return Err(foreign(format!("it belongs to database {}", row.database.unwrap_or_default())));
        }
        let unpublished = unpublished
            || row.active_pid.is_none() && is_older_than_its_publication(config, client, state, connection).await?;
        match (row.active_pid, row.confirmed_flush) {
            (None, _) if row.invalid || unpublished => {
                let why = if row.invalid { SlotLoss::Invalidated } else { SlotLoss::OlderThanPublication };
                lost(config, why)?;
                slot::drop_slot(connection, name).await?;
                break Some(why);
            }
            (None, Some(confirmed)) => return Ok((confirmed, None)),
            (pid, confirmed) => {
                // One that is being made has no position yet, and may wait for long.
                let holder = pid.filter(|_| confirmed.is_some());
                if holder.is_some() {
                    live.waits_as_standby();
                }
                standby.wait(client, state, name, holder).await?;
            }
        }
    };
    live.starts(None);
    if let Some(why) = why {
        lost(config, why)?;
        tracing::warn!(slot = name, reason = %why, "a new slot is made, every tenant is resynced");
    }
    tracing::info!(slot = name, "making the slot; this waits for the transactions that are running now");
    let CreatedSlot { consistent_point, snapshot_name } = slot::create_slot(connection, name, false).await?;
    let export = hold_export(connect(&config.source.url).await?, &snapshot_name, consistent_point).await?;
    Ok((consistent_point, Some(export)))
}

/// Whether the publication was dropped and made anew: what the slot still has to send was written before, and the server
/// looks for the publication of that time (ERROR 42704).
async fn is_older_than_its_publication(
    config: &Config,
    client: &PgClient,
    state: &PgClient,
    connection: &mut ReplicationConnection,
) -> Result<bool, ServiceError> {
    // On another server nothing can be told from them, and everything begins anew there.
    let system = slot::identify_system(connection).await?.system_identifier;
    let version = publication::read_version(client, &config.source.publication, &config.users.tables()).await?;
    let known = StateStore::read(state, &config.source.slot).await?;
    let known = known.source.filter(|known| known.is_of(&system));
    Ok(version.zip(known).is_some_and(|(version, known)| version.was_recreated_since(&known.publication)))
}

fn lost(config: &Config, why: SlotLoss) -> Result<(), ServiceError> {
    match config.on_slot_loss {
        OnSlotLoss::Resync => Ok(()),
        OnSlotLoss::Stop => Err(ServiceError::SlotLost { slot: config.source.slot.clone(), why }),
    }
}

/// A process that waits for the slot.
#[derive(Default)]
struct Standby {
    /// The server process that uses the slot, and since when it has been seen to.
    holder: Option<(i32, Instant)>,
    said: bool,
}

impl Standby {
    /// Waits a little. A holder whose lease has lapsed is frozen or cut off: the server would keep its connection for a
    /// minute or for ever, so it is ended.
    async fn wait(
        &mut self,
        client: &PgClient,
        state: &PgClient,
        slot: &str,
        holder: Option<i32>,
    ) -> Result<(), ServiceError> {
        if !self.said {
            tracing::info!(slot, pid = holder, "the slot is in use: waiting as a standby");
            self.said = true;
        }
        match (holder, self.holder) {
            (Some(pid), Some((known, since))) if pid == known => {
                // A process that has just begun has the slot before it has the lease.
                if since.elapsed() > LEASE && self.has_lapsed(state, slot).await? {
                    let ended: bool = client.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await?.get(0);
                    tracing::warn!(
                        slot,
                        pid,
                        ended,
                        "the lease of the process that holds the slot has lapsed: taking over"
                    );
                    self.holder = None;
                }
            }
            (holder, _) => self.holder = holder.map(|pid| (pid, Instant::now())),
        }
        sleep(STANDBY_EVERY).await;
        Ok(())
    }

    async fn has_lapsed(&self, state: &PgClient, slot: &str) -> Result<bool, ServiceError> {
        let known = StateStore::read(state, slot).await?;
        Ok(known.source.is_some_and(|source| !source.is_held()))
    }
}
