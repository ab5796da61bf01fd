//! A paused tenant: its target is not connected to, and its changes wait under the limits of a target that is away.

use crate::model::{ParkCause, RestartSignal, ResyncReason, shell_word};
use crate::replicator::error::ServiceError;
use crate::replicator::tenant::outcome::StopReason;
use crate::replicator::tenant::phase::Phase;
use crate::replicator::tenant::target::Connector;
use crate::replicator::tenant::worker::Worker;
use crate::state::StateAccess;

impl<S: StateAccess, C: Connector> Worker<S, C> {
    /// Waits until the tenant is resumed, without a connection. `None` when it is resumed or the session drains.
    ///
    /// # Errors
    /// The session has to end.
    pub(super) async fn stay_paused(&mut self, phase: &mut Phase) -> Result<Option<StopReason>, ServiceError> {
        self.give_up_snapshot(phase).await?;
        // Of each user only the last change is kept.
        self.handle.set_unavailable(true);
        self.context.state.note_paused(self.id()).await?;
        tracing::info!("paused");
        let handle = self.handle.clone();
        let stop = tokio::select! {
            biased;
            signal = handle.mailbox.interrupted() => Some(self.interrupted_while_paused(signal)),
            () = self.context.drain.cancelled() => None,
            () = handle.paused(false) => {
                tracing::info!("resumed");
                // Failures from before say nothing about the target as it is now.
                self.mark_healthy();
                // The pause was for work on the target: it is looked at, also if nothing waits for it.
                phase.wake();
                None
            }
        };
        handle.set_unavailable(false);
        Ok(stop)
    }

    /// A snapshot that was to be taken is not: another one is once the tenant is resumed, and until then nothing waits for it.
    async fn give_up_snapshot(&mut self, phase: &mut Phase) -> Result<(), ServiceError> {
        match phase {
            // The state may say `following` already, as the pause may come right after that is written.
            Phase::Joining { reason, .. } => {
                let reason = reason.unwrap_or(ResyncReason::Unfinished);
                self.require_snapshot(phase, reason).await?;
            }
            Phase::Starting { since_creation: since_creation @ true, .. } => {
                *since_creation = false;
                self.handle.mailbox.close();
                self.context.release(self.id());
            }
            Phase::Starting { .. } | Phase::Following(_) | Phase::Idle(_) | Phase::Parked { .. } => {}
        }
        // No other tenant waits for it.
        drop(phase.take_expected_join());
        Ok(())
    }

    fn interrupted_while_paused(&self, signal: RestartSignal) -> StopReason {
        match StopReason::from(signal) {
            StopReason::Park { cause, .. } => {
                let limit = match cause {
                    ParkCause::Log => "limits.source_wal",
                    _ => "limits.tenant_memory or limits.memory",
                };
                let why = self.handle.pause().map_or_else(String::new, |pause| format!(" ({})", pause.reason()));
                StopReason::Park {
                    cause,
                    reason: format!("it was paused{why}, and what waits for it exceeds {limit}"),
                    remedy: format!("users-sync resume {}", shell_word(self.id().as_str())),
                }
            }
            other => other,
        }
    }
}
