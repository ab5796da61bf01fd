//! Tries rejected users again, in a transaction of their own at the tenant's position.

use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::ApplyState;
use crate::replicator::tenant::target::{Connection, Connector};
use crate::replicator::tenant::worker::Worker;
use crate::state::StateAccess;
use tokio::time::Instant;

/// Users of one attempt while changes wait.
const BUSY: usize = 100;
/// Users of one attempt while nothing waits.
const IDLE: usize = 1000;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Tries rejected users, if that is due. Their rows are read from the source, with what the stream brings up to there.
    pub(super) async fn retry_rejected(
        &mut self,
        connection: &mut Connection<C::Target>,
        apply: &mut ApplyState,
    ) -> Result<(), StopReason> {
        if apply.pending.is_some() || !self.rejected.is_due() || self.context.drain.is_cancelled() {
            return Ok(());
        }
        let (started, before) = (Instant::now(), self.rejected.accepted());
        let is_idle = self.handle.mailbox.waiting().users == 0;
        let ids = self.rejected.take(if is_idle { IDLE } else { BUSY });
        if ids.is_empty() {
            return Ok(());
        }
        let Some(mut batch) = self.read_again(apply, &ids).await else { return Ok(()) };
        let resolved = self.resolve(apply, &mut batch).await;
        let written = match resolved {
            Ok(()) => self.write_isolated(connection, apply, &mut batch).await,
            Err(stop) => Err(stop),
        };
        match written {
            Ok(end) => {
                self.handle.mailbox.finish(batch.bytes);
                self.acknowledge(apply, end);
                self.count(batch.entries.len(), &batch, started);
                self.context.status.user_watch.notify(self.id(), batch.entries.keys());
                let accepted = self.rejected.accepted() - before;
                if accepted > 0 {
                    tracing::info!(accepted, rejected = self.rejected.len(), "rejected users were tried again");
                }
                self.rejected.tried(started, accepted);
                Ok(())
            }
            Err(stop) => {
                apply.pending = Some(batch);
                Err(stop)
            }
        }
    }
}
