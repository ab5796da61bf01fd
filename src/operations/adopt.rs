//! Looks at a target before `adopt` takes it over: what it holds, and which installation still writes there. Changes nothing.

use crate::apply::{Checkpoint, TargetError, observe};
use crate::capture::CaptureError;
use crate::capture::slot::read_slot;
use crate::config::{Config, Tenant};
use crate::model::{TenantId, shell_word};
use crate::operations::living::living_process;
use crate::pg::{ConnectError, PgClient, Statements, TargetClient, connect, connect_target};
use crate::replicator::source::old_sessions::{epoch_of, session_mark};
use crate::state::{Snapshot, StateError, StateStore};

/// Sessions in this database, other than this one.
const SESSIONS: &str = "\
SELECT left(application_name::text, 100), coalesce(usename::text, ''), pid FROM pg_catalog.pg_stat_activity \
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' LIMIT 10000";

/// The live users of a target.
const LIVE_USERS: &str = "SELECT count(*) FROM neon_auth.users_sync WHERE deleted_at IS NULL";

/// A target that may be taken over.
pub(crate) struct Survey {
    /// The checkpoint of the installation that wrote there before.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Its users without `deleted_at`; `None` if it has no `neon_auth.users_sync`.
    pub(crate) live: Option<u64>,
}

/// Why a target cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    #[error("cannot connect to the target: {0}")]
    Connect(#[from] ConnectError),
    #[error("cannot inspect the target: {0}")]
    Target(#[from] TargetError),
    #[error("cannot inspect the target: {0}")]
    Sql(String),
    #[error("cannot read the source: {0}")]
    Source(#[from] CaptureError),
    #[error("cannot read the state: {0}")]
    State(#[from] StateError),
    #[error("the target has no neon_auth.users_sync: there is nothing to adopt")]
    Nothing,
    #[error("the target's checkpoint belongs to tenant {0}, which the configuration has, too")]
    OtherTenant(TenantId),
    #[error("another installation writes to this target: {0}")]
    Writer(String),
    #[error("slot {slot} is in use by process {pid} of the server, but the state has no running process")]
    SlotInUse { slot: String, pid: i32 },
    #[error("{0} runs, though it does not replicate")]
    Alive(String),
}

impl Obstacle {
    /// How to remove it.
    pub(crate) fn remedy(&self, tenant: &TenantId) -> String {
        let word = shell_word(tenant.as_str());
        match self {
            Obstacle::Connect(_)
            | Obstacle::Target(_)
            | Obstacle::Sql(_)
            | Obstacle::Source(_)
            | Obstacle::State(_) => "users-sync check -c FILE".to_owned(),
            Obstacle::Nothing => "users-sync run -c FILE creates and fills it".to_owned(),
            Obstacle::OtherTenant(other) => {
                format!("correct the target of tenant {tenant} or of tenant {other}: each needs a database of its own")
            }
            Obstacle::Writer(_) => {
                format!(
                    "remove the tenant from that installation's configuration, or stop its process, then run: \
                         users-sync adopt -c FILE {word}"
                )
            }
            Obstacle::SlotInUse { .. } => {
                "stop that process, or correct state.url if it records its state elsewhere".to_owned()
            }
            Obstacle::Alive(_) => {
                "users-sync status -c FILE names why it does not replicate; fix that, or stop the process".to_owned()
            }
        }
    }
}

/// Looks at the target of a tenant. `known` is the state.
///
/// # Errors
/// Why the target cannot be taken over now.
pub(crate) async fn survey(
    config: &Config,
    tenant: &Tenant,
    state: &PgClient,
    known: &Snapshot,
) -> Result<Survey, Obstacle> {
    let client = connect_target(&tenant.target).await?;
    let observed = observe(&client).await?;
    if observed.created && observed.checkpoint.is_none() {
        return Err(Obstacle::Nothing);
    }
    if let Some(found) = &observed.checkpoint {
        let is_configured = |id: &TenantId| config.tenants.iter().any(|tenant| tenant.id == *id);
        if found.tenant != tenant.id && is_configured(&found.tenant) {
            return Err(Obstacle::OtherTenant(found.tenant.clone()));
        }
        let others = StateStore::other_writers(state, &config.source.slot, &found.target_id).await?;
        if let Some((slot, holder)) = others.first() {
            return Err(Obstacle::Writer(format!("slot {slot}, {holder}")));
        }
    }
    if let Some(writer) = connected_writer(config, &client, known).await? {
        return Err(Obstacle::Writer(writer));
    }
    if !known.source.as_ref().is_some_and(|source| source.is_held()) {
        let slot = &config.source.slot;
        let source = connect(&config.source.url).await.map_err(CaptureError::from)?;
        if let Some(pid) = read_slot(&source, slot).await?.and_then(|slot| slot.active_pid) {
            return Err(Obstacle::SlotInUse { slot: slot.clone(), pid });
        }
        if let Some(process) = living_process(state, slot).await? {
            return Err(Obstacle::Alive(process));
        }
    }
    let live = match observed.created {
        true => None,
        false => Some(count(&client, LIVE_USERS).await?),
    };
    Ok(Survey { checkpoint: observed.checkpoint, live })
}

/// Another installation that is connected to the target: its sessions carry slot and epoch.
async fn connected_writer(
    config: &Config,
    client: &TargetClient,
    known: &Snapshot,
) -> Result<Option<String>, Obstacle> {
    let failed = |error: tokio_postgres::Error| Obstacle::Sql(client.describe(&error));
    for row in client.query_typed(SESSIONS, &[]).await.map_err(failed)? {
        let (name, role): (&str, &str) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let Some((slot, epoch)) = session_mark(name) else { continue };
        let is_ours = epoch_of(name, &config.source.slot).is_some_and(|epoch| known.epochs.contains_key(&epoch));
        if !is_ours {
            let pid: i32 = row.try_get(2).map_err(failed)?;
            return Ok(Some(format!("slot {slot}, epoch {epoch}, as role {role} in session {pid} of the target")));
        }
    }
    Ok(None)
}

async fn count(client: &TargetClient, sql: &str) -> Result<u64, Obstacle> {
    let row = client.query_typed_one(sql, &[]).await.map_err(|error| Obstacle::Sql(client.describe(&error)))?;
    let count: i64 = row.try_get(0).map_err(|error| Obstacle::Sql(client.describe(&error)))?;
    Ok(count.unsigned_abs())
}
