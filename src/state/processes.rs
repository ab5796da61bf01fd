//! Which processes run. One that replicates is known by its lease; the others, a standby for example, record here that they
//! are alive, so that a command does not work beside them.

use super::error::StateError;
use super::read::{has_processes, seen_processes};
use super::rows::SeenProcess;
use super::store::StateStore;
use tokio_postgres::Client;

/// The age after which a process that ended without deleting its row is forgotten.
const FORGOTTEN_AFTER: &str = "1 day";

impl StateStore {
    /// Records that a process without the lease is alive. Does nothing before the first session on this slot.
    pub(crate) async fn note_alive(client: &Client, slot: &str, process: &str) -> Result<(), StateError> {
        if has_processes(client).await? {
            let prune = format!(
                "DELETE FROM users_sync.process WHERE slot = $1 AND seen_at < now() - interval '{FORGOTTEN_AFTER}'"
            );
            client.execute(&prune, &[&slot]).await?;
            let sql = "INSERT INTO users_sync.process (slot, process, seen_at) \
                       SELECT slot, $2, now() FROM users_sync.source WHERE slot = $1 \
                       ON CONFLICT (slot, process) DO UPDATE SET seen_at = now()";
            client.execute(sql, &[&slot, &process]).await?;
        }
        Ok(())
    }

    /// Records that a process has ended, or that its lease shows from now on that it is alive.
    pub(crate) async fn forget_process(client: &Client, slot: &str, process: &str) -> Result<(), StateError> {
        if has_processes(client).await? {
            let sql = "DELETE FROM users_sync.process WHERE slot = $1 AND process = $2";
            client.execute(sql, &[&slot, &process]).await?;
        }
        Ok(())
    }

    /// The processes that were alive within the length of a lease, with the one that holds the lease. One of them may have
    /// ended since, without a trace.
    pub(crate) async fn seen_processes(client: &Client, slot: &str) -> Result<Vec<SeenProcess>, StateError> {
        seen_processes(client, slot).await
    }
}
