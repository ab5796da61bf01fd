//! The Kafka output (tee): sessions of its own beside the tenants', on a slot of its own. Its failures affect nothing
//! else: tenants never wait for Kafka.

mod attempts;
mod batcher;
mod error;
mod kafka_sink;
mod left_out;
mod recorder;
mod session;
mod slot;
mod snapshot;
mod snapshot_records;
mod watchdog;

use crate::config::{Config, Kafka};
use crate::replicator::error::ServiceError;
use crate::replicator::session::config_changes::replaced;
use crate::replicator::session::context::SessionContext;
use crate::replicator::tee::attempts::Attempts;
use crate::replicator::tee::error::{TeeError, TeeExit};
use crate::replicator::tee::recorder::Recorder;
use crate::replicator::tee::session::Carried;
use crate::state::{StateError, TeeFailure, TenantState};
use crate::status::report::{TeeReport, tee_code};
use crate::sync::{Panicked, catch_panic};
use crate::tee::kafka::{self, Failure};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// Time limit for messages in flight when the process stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

type Configs = watch::Receiver<Config>;

/// What outlives a session of the Kafka output.
struct Tee {
    context: Arc<SessionContext>,
    carried: Carried,
    attempts: Attempts,
}

/// Runs the Kafka output until the session drains. Its failures are retried here.
///
/// # Errors
/// The state was fenced: another process holds the slot.
pub(crate) async fn run(context: Arc<SessionContext>, mut configs: Configs) -> Result<(), ServiceError> {
    let mut tee = Tee { context: context.clone(), carried: Carried::default(), attempts: Attempts::new() };
    loop {
        let config = configs.borrow_and_update().clone();
        tee.show_recorded().await?;
        drop_former_slot(&context, config.kafka.as_ref()).await?;
        let Some(kafka) = &config.kafka else { return Ok(()) };
        let begun = Instant::now();
        let takes_snapshot = AtomicBool::new(false);
        let left = {
            let session = session::session(&context, &config, kafka, &mut tee.carried, &takes_snapshot);
            tokio::select! {
                left = catch_panic(session) => match left {
                    Ok(Ok(())) => TeeExit::Drained,
                    Ok(Err(error)) => TeeExit::Broken(error),
                    Err(Panicked) => {
                        context.status.metrics.internal_errors.inc();
                        TeeExit::Broken(TeeError::Internal)
                    }
                },
                left = watchdog::slot(&context, kafka, &takes_snapshot) => left,
                () = replaced(&mut configs) => TeeExit::Replaced,
                () = context.drain.cancelled() => TeeExit::Drained,
            }
        };
        let has_progressed = tee.carried.recorder.as_ref().is_some_and(Recorder::has_progressed);
        tee.attempts.session_ended(begun.elapsed(), has_progressed);
        match left {
            TeeExit::Drained => {
                // Messages that are not in Kafka by then are published after the next start.
                let _ = timeout(DRAIN_TIMEOUT, kafka::ended()).await;
                if let Some(recorder) = &mut tee.carried.recorder {
                    recorder.record(&context).await?;
                }
                return Ok(());
            }
            TeeExit::Replaced => tee.carried.refusals.clear(),
            TeeExit::Broken(TeeError::Kafka(Failure { is_repeated: true, .. })) => continue,
            TeeExit::HoldsLog(bytes) => tee.park(kafka, bytes, &mut configs).await?,
            TeeExit::Requested => continue,
            TeeExit::Broken(TeeError::Service(ServiceError::State(StateError::Fenced { slot, epoch }))) => {
                return Err(StateError::Fenced { slot, epoch }.into());
            }
            TeeExit::Broken(TeeError::Service(ServiceError::StartOver(why))) => {
                tracing::warn!(reason = %why, "Kafka output starts over with a snapshot of every tenant");
                tee.carried.start_over = Some(why);
            }
            TeeExit::Broken(error) => tee.broken(kafka, &error, &mut configs).await?,
        }
    }
}

/// Drops the slot of an earlier configuration, which would retain WAL without limit.
async fn drop_former_slot(context: &SessionContext, kafka: Option<&Kafka>) -> Result<(), ServiceError> {
    let Some(row) = context.state.tee().await? else { return Ok(()) };
    if kafka.is_some_and(|kafka| kafka.slot == row.slot) {
        return Ok(());
    }
    match slot::drop_slot(context, &row.slot).await {
        Ok(()) => {
            tracing::info!(
                slot = row.slot,
                "dropped the slot of a former Kafka output: the configuration no longer has it"
            );
            context.state.forget_tee().await?;
            context.status.set_tee(None);
            Ok(())
        }
        Err(error) => {
            tracing::error!(slot = row.slot, %error, "could not drop the slot of a former Kafka output: drop it by hand");
            Ok(())
        }
    }
}

impl Tee {
    /// Publishes the recorded state of the Kafka output to the status API.
    async fn show_recorded(&self) -> Result<(), ServiceError> {
        let known = self.context.state.tee().await?;
        self.context.status.set_tee(known.as_ref().map(TeeReport::of_state));
        Ok(())
    }

    /// Records and logs the failure, and waits before the next attempt.
    async fn broken(&mut self, kafka: &Kafka, error: &TeeError, configs: &mut Configs) -> Result<(), ServiceError> {
        self.context.status.metrics.tee_reconnects.inc();
        let (reason, code, remedy) = error.parts();
        let wal = watchdog::held_back(&self.context, kafka).await;
        let state = match self.context.state.tee().await? {
            Some(row) if row.state == TenantState::Parked => TenantState::Parked,
            _ => TenantState::Joining,
        };
        self.context.put_tee(&kafka.slot, state, Some(TeeFailure { reason: &reason, code, remedy })).await?;
        let reason_code = tee_code(code);
        if self.attempts.is_news(&reason) {
            match remedy {
                Some(remedy) => {
                    tracing::error!(
                        reason,
                        reason_code,
                        remedy,
                        holds_back = wal,
                        "Kafka output stopped until this is fixed"
                    )
                }
                None => tracing::warn!(reason, reason_code, holds_back = wal, "Kafka output failed, retrying"),
            }
        } else {
            tracing::debug!(reason, reason_code, holds_back = wal, "Kafka output still failing");
        }
        self.wait(kafka, configs).await
    }

    /// Drops the slot, so that the source can remove WAL. The Kafka output recovers on its own, with a snapshot.
    async fn park(&mut self, kafka: &Kafka, bytes: u64, configs: &mut Configs) -> Result<(), ServiceError> {
        let limit = self.context.config.limits.kafka_wal;
        let reason =
            format!("its slot retained {bytes} bytes of the source's WAL, more than limits.kafka_wal ({limit})");
        let remedy = "it recovers on its own once Kafka accepts messages, with a snapshot of every tenant";
        let failure = TeeFailure { reason: &reason, remedy: Some(remedy), ..TeeFailure::default() };
        self.context.put_tee(&kafka.slot, TenantState::Parked, Some(failure)).await?;
        tracing::error!(reason, reason_code = tee_code(None), remedy, "Kafka output parked");
        if let Err(error) = slot::drop_slot(&self.context, &kafka.slot).await {
            tracing::error!(%error, slot = kafka.slot, "could not drop the slot of the Kafka output, retrying");
        }
        self.wait(kafka, configs).await
    }

    /// Waits before the next attempt, which a new configuration begins at once. Parks if the slot retains too much WAL in the meantime.
    async fn wait(&mut self, kafka: &Kafka, configs: &mut Configs) -> Result<(), ServiceError> {
        let wait = self.attempts.next_pause();
        let takes_snapshot = AtomicBool::new(false);
        tokio::select! {
            () = sleep(wait) => Ok(()),
            () = self.context.drain.cancelled() => Ok(()),
            () = replaced(configs) => {
                self.attempts = Attempts::new();
                Ok(())
            }
            left = watchdog::slot(&self.context, kafka, &takes_snapshot) => match left {
                TeeExit::HoldsLog(bytes) => Box::pin(self.park(kafka, bytes, configs)).await,
                _ => Ok(()),
            },
        }
    }
}
