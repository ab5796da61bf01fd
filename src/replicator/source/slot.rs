//! The replication slot: used if it is free, created if it is missing, waited for as a standby if it is in use.

use crate::capture::shape::{ShapeReader, SourceShape, outdates_slot};
use crate::capture::slot;
use crate::capture::{ReplicationConnection, publication};
use crate::config::{Config, OnSlotLoss};
use crate::model::{Lsn, SlotLoss};
use crate::pg::PgClient;
use crate::replicator::error::ServiceError;
use crate::replicator::source::own_slot::{create_own_slot, read_own_slot};
use crate::replicator::source::shape::recorded_shape;
use crate::snapshot::Export;
use crate::state::{LEASE, StateStore};
use crate::status::process::ProcessStatus;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a standby checks whether the slot is free.
const STANDBY_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The slot, ready to be read.
pub(crate) struct EnsuredSlot {
    /// The position after which the slot sends.
    pub(crate) position: Lsn,
    /// If this session created it.
    pub(crate) created: Option<CreatedSlot>,
}

/// A new slot.
pub(crate) struct CreatedSlot {
    pub(crate) export: Export,
    /// The source's shape before it was created.
    pub(crate) shape: SourceShape,
}

/// Waits until the slot is free, or creates it if it does not exist or cannot be used.
///
/// # Errors
/// If the slot belongs to another program or database, and with `on_slot_loss: stop` if it was lost.
pub(crate) async fn ensure_slot(
    config: &Config,
    client: &PgClient,
    state: &PgClient,
    connection: &mut ReplicationConnection,
    shapes: &ShapeReader,
    unpublished: bool,
    status: &ProcessStatus,
) -> Result<EnsuredSlot, ServiceError> {
    let name = &config.source.slot;
    let source = &config.source.url;
    let foreign = |why: String| ServiceError::ForeignSlot { slot: name.clone(), why };
    let mut standby = Standby::default();
    let loss = loop {
        let Some(row) = read_own_slot(client, source, name, foreign).await? else {
            let known = StateStore::read(state, name).await?;
            break known.source.is_some_and(|source| source.generation.0 > 0).then_some(SlotLoss::Gone);
        };
        let loss = match row.active_pid {
            Some(_) => None,
            None if row.invalid => Some(SlotLoss::Invalidated),
            None if unpublished => Some(SlotLoss::OlderThanPublication),
            None => outdated(config, client, state, connection, shapes).await?,
        };
        match (loss, row.active_pid, row.confirmed_flush) {
            (Some(loss), ..) => {
                check_loss(config, loss)?;
                slot::drop_slot(connection, name).await?;
                break Some(loss);
            }
            (None, None, Some(position)) => return Ok(EnsuredSlot { position, created: None }),
            (None, pid, confirmed) => {
                // A slot that is being created has no position yet. Its creation may take long.
                let holder = pid.filter(|_| confirmed.is_some());
                if holder.is_some() {
                    status.set_standby();
                }
                standby.wait(client, state, name, holder).await?;
            }
        }
    };
    status.set_starting(None);
    if let Some(loss) = loss {
        check_loss(config, loss)?;
        tracing::warn!(slot = name, reason = %loss, reason_code = loss.code(), "creating a new slot: resyncing every tenant");
    }
    tracing::info!(slot = name, "creating the replication slot (waits for open transactions)");
    let shape = shapes.read(client).await?;
    let export =
        create_own_slot(connection, source, name, false, |wait| status.set_starting(Some(wait.to_string()))).await?;
    Ok(EnsuredSlot { position: export.position, created: Some(CreatedSlot { export, shape }) })
}

/// Whether the slot still has to send changes that the server would publish in another way than it does now.
async fn outdated(
    config: &Config,
    client: &PgClient,
    state: &PgClient,
    connection: &mut ReplicationConnection,
    shapes: &ShapeReader,
) -> Result<Option<SlotLoss>, ServiceError> {
    // Versions of another server cannot be compared. A new generation begins there anyway.
    let system = slot::identify_system(connection).await?.system_identifier;
    let known = StateStore::read(state, &config.source.slot).await?;
    let Some(known) = known.source.filter(|known| known.is_of(&system)) else { return Ok(None) };
    let version = publication::read_version(client, &config.source.publication, &config.users.tables()).await?;
    // For changes from before it was created again, the server looks up the publication of that time (ERROR 42704).
    if version.is_some_and(|version| version.was_recreated_since(&known.publication)) {
        return Ok(Some(SlotLoss::OlderThanPublication));
    }
    let is_outdated = match recorded_shape(Some(&known)) {
        Some(Ok(known)) => outdates_slot(&known, &shapes.read(client).await?),
        _ => false,
    };
    Ok(is_outdated.then_some(SlotLoss::OlderThanPartitions))
}

/// An error if the configuration says to stop on this loss.
fn check_loss(config: &Config, why: SlotLoss) -> Result<(), ServiceError> {
    match config.on_slot_loss {
        OnSlotLoss::Resync => Ok(()),
        OnSlotLoss::Stop => Err(ServiceError::SlotLost { slot: config.source.slot.clone(), why }),
    }
}

/// The server process that uses the slot.
struct SlotHolder {
    pid: i32,
    /// When it was first seen.
    since: Instant,
}

/// A process that waits for the slot.
#[derive(Default)]
struct Standby {
    holder: Option<SlotHolder>,
    is_logged: bool,
}

impl Standby {
    /// Waits for one interval. A holder whose lease has expired is frozen or cut off: its server process is terminated,
    /// because the server may keep it for minutes.
    async fn wait(
        &mut self,
        client: &PgClient,
        state: &PgClient,
        slot: &str,
        holder: Option<i32>,
    ) -> Result<(), ServiceError> {
        if !self.is_logged {
            tracing::info!(slot, pid = holder, "slot in use, waiting as a standby");
            self.is_logged = true;
        }
        match (holder, &self.holder) {
            (Some(pid), Some(known)) if pid == known.pid => {
                // A process that has just started holds the slot before it holds the lease.
                if known.since.elapsed() > LEASE && self.has_expired(state, slot).await? {
                    let ended: bool = client.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await?.try_get(0)?;
                    tracing::warn!(slot, pid, ended, "lease of the active process expired, taking over");
                    self.holder = None;
                }
            }
            (holder, _) => self.holder = holder.map(|pid| SlotHolder { pid, since: Instant::now() }),
        }
        sleep(STANDBY_POLL_INTERVAL).await;
        Ok(())
    }

    async fn has_expired(&self, state: &PgClient, slot: &str) -> Result<bool, ServiceError> {
        let known = StateStore::read(state, slot).await?;
        Ok(known.source.is_some_and(|source| !source.is_held()))
    }
}
