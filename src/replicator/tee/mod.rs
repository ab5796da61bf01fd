//! The tee: a session of its own beside the tenants', on a slot of its own. Whatever breaks it is its own: the tenants
//! never wait for Kafka.

mod batcher;
mod blocking;
mod kafka_sink;
mod session;
mod slot;
mod snapshot;
mod watchdog;

use crate::config::TopicsError;
use crate::config::{Config, Kafka};
use crate::replicator::backoff::Backoff;
use crate::replicator::error::ServiceError;
use crate::replicator::session::config_changes::replaced;
use crate::replicator::session::context::SessionContext;
use crate::state::{StateError, TenantState};
use crate::status::report::TeeReport;
use crate::tee::kafka::{self, Failure};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// A session that lasted this long was a good one: its end is a first failure.
const GOOD: Duration = Duration::from_secs(60);
/// What is on its way to Kafka when the process is told to stop gets there within this.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What mends a snapshot that does not come to its end.
const TAKES_TOO_LONG: &str =
    "find out why Kafka takes messages so slowly (quotas, its disks), or raise limits.snapshot_age";

/// What ends a session of the tee.
#[derive(Debug, thiserror::Error)]
enum TeeError {
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error("{0}")]
    Kafka(#[from] Failure),
    #[error("{0}")]
    Topics(#[from] TopicsError),
    #[error("its snapshot is older than limits.snapshot_age ({0:?}), and the source cannot clean up behind it")]
    SnapshotAge(Duration),
    #[error("slot {0} is not the tee's: it belongs to another database or plugin; choose another name for kafka.slot")]
    ForeignSlot(String),
}

impl From<crate::capture::CaptureError> for TeeError {
    fn from(error: crate::capture::CaptureError) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<crate::pg::ConnectError> for TeeError {
    fn from(error: crate::pg::ConnectError) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<tokio_postgres::Error> for TeeError {
    fn from(error: tokio_postgres::Error) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<crate::snapshot::SourceReadError> for TeeError {
    fn from(error: crate::snapshot::SourceReadError) -> Self {
        TeeError::Service(error.into())
    }
}

impl From<StateError> for TeeError {
    fn from(error: StateError) -> Self {
        TeeError::Service(error.into())
    }
}

impl TeeError {
    /// What went wrong, and what mends it.
    fn parts(&self) -> (String, Option<&'static str>) {
        match self {
            TeeError::Kafka(failure) => (failure.what.clone(), failure.remedy),
            TeeError::SnapshotAge(_) => (self.to_string(), Some(TAKES_TOO_LONG)),
            error => (error.to_string(), None),
        }
    }
}

/// A running tee, between its sessions.
struct Tee {
    context: Arc<SessionContext>,
    /// Why every tenant has to take a snapshot, where that is so.
    start_over: Option<&'static str>,
    retry: Backoff,
    /// What was said last: the same is not said again.
    said: Option<String>,
}

/// Why a session was left.
enum TeeExit {
    Drained,
    Replaced,
    /// Its slot holds back more than it may.
    HoldsLog(u64),
    /// A snapshot of every tenant is asked for.
    Requested,
    Broken(TeeError),
}

/// Runs the tee until the session drains. Its own trouble never ends anything else; what it returns is that this process
/// is not the newest any more.
pub(crate) async fn run(
    context: Arc<SessionContext>,
    mut configs: tokio::sync::watch::Receiver<Config>,
) -> Result<(), ServiceError> {
    let mut tee =
        Tee { context: context.clone(), start_over: None, retry: Backoff::new(RETRY_FIRST, RETRY_LAST), said: None };
    loop {
        let config = configs.borrow_and_update().clone();
        tee.show_known().await?;
        give_up_others(&context, config.kafka.as_ref()).await?;
        let Some(kafka) = &config.kafka else { return Ok(()) };
        let begun = Instant::now();
        let left = {
            let session = session::session(&context, &config, kafka, &mut tee.start_over);
            tokio::select! {
                left = session => match left {
                    Ok(()) => TeeExit::Drained,
                    Err(error) => TeeExit::Broken(error),
                },
                left = watchdog::slot(&context, kafka) => left,
                () = replaced(&mut configs) => TeeExit::Replaced,
                () = context.drain.cancelled() => TeeExit::Drained,
            }
        };
        if begun.elapsed() > GOOD {
            tee.recovered();
        }
        match left {
            TeeExit::Drained => {
                // What is not in Kafka by then is published after the next start.
                let _ = timeout(LAST_WORDS, kafka::ended()).await;
                return Ok(());
            }
            TeeExit::Replaced => continue,
            TeeExit::HoldsLog(bytes) => tee.park(kafka, bytes).await?,
            TeeExit::Requested => continue,
            TeeExit::Broken(TeeError::Service(ServiceError::State(StateError::Fenced { slot, epoch }))) => {
                return Err(StateError::Fenced { slot, epoch }.into());
            }
            TeeExit::Broken(TeeError::Service(ServiceError::StartOver(why))) => {
                tracing::warn!(reason = why, "the tee starts over: a snapshot of every tenant");
                tee.start_over = Some(why);
            }
            TeeExit::Broken(error) => tee.broken(kafka, &error).await?,
        }
    }
}

/// A slot that the configuration does not have any more would hold back the log for ever.
async fn give_up_others(context: &SessionContext, kafka: Option<&Kafka>) -> Result<(), ServiceError> {
    let Some(row) = context.state.tee().await? else { return Ok(()) };
    if kafka.is_some_and(|kafka| kafka.slot == row.slot) {
        return Ok(());
    }
    match slot::drop_slot(context, &row.slot).await {
        Ok(()) => {
            tracing::info!(
                slot = row.slot,
                "the configuration does not have this slot of a tee any more: it is dropped"
            );
            context.state.forget_tee().await?;
            context.live.tee_is(None);
            Ok(())
        }
        Err(error) => {
            tracing::error!(slot = row.slot, %error, "the slot of a former tee could not be dropped: drop it");
            Ok(())
        }
    }
}

impl Tee {
    /// Shows what was written down of it by whoever ran it before.
    async fn show_known(&self) -> Result<(), ServiceError> {
        let known = self.context.state.tee().await?;
        self.context.live.tee_is(known.as_ref().map(TeeReport::of_state));
        Ok(())
    }

    fn recovered(&mut self) {
        self.retry.reset();
        self.said = None;
    }

    /// Writes down and says what broke, once, and waits before it is tried again.
    async fn broken(&mut self, kafka: &Kafka, error: &TeeError) -> Result<(), ServiceError> {
        self.context.live.metrics.tee_reconnects.inc();
        let (reason, remedy) = error.parts();
        let wal = watchdog::held_back(&self.context, kafka).await;
        let state = match self.context.state.tee().await? {
            Some(row) if row.state == TenantState::Parked => TenantState::Parked,
            _ => TenantState::Joining,
        };
        self.context.put_tee(&kafka.slot, state, Some(&reason), remedy).await?;
        if self.said.as_ref() != Some(&reason) {
            match remedy {
                Some(remedy) => tracing::error!(reason, remedy, holds_back = wal, "the tee waits until this is mended"),
                None => tracing::warn!(reason, holds_back = wal, "the tee ended and is tried again until it works"),
            }
            self.said = Some(reason.clone());
        } else {
            tracing::debug!(reason, holds_back = wal, "the tee is still not able to go on");
        }
        self.wait(kafka).await
    }

    /// Its slot is given up, so that the source can let go of its log. It comes back by itself, with a snapshot.
    async fn park(&mut self, kafka: &Kafka, bytes: u64) -> Result<(), ServiceError> {
        let limit = self.context.config.limits.kafka_wal;
        let reason =
            format!("its slot held back {bytes} bytes of the source's log, more than limits.kafka_wal ({limit})");
        let remedy = "it comes back by itself once Kafka takes messages, with a snapshot of every tenant";
        self.context.put_tee(&kafka.slot, TenantState::Parked, Some(&reason), Some(remedy)).await?;
        tracing::error!(reason, remedy, "the tee is parked");
        if let Err(error) = slot::drop_slot(&self.context, &kafka.slot).await {
            tracing::error!(%error, slot = kafka.slot, "the tee's slot could not be dropped: it is tried again");
        }
        self.wait(kafka).await
    }

    /// The log may fill up meanwhile.
    async fn wait(&mut self, kafka: &Kafka) -> Result<(), ServiceError> {
        let wait = self.retry.step();
        tokio::select! {
            () = sleep(wait) => Ok(()),
            () = self.context.drain.cancelled() => Ok(()),
            left = watchdog::slot(&self.context, kafka) => match left {
                TeeExit::HoldsLog(bytes) => Box::pin(self.park(kafka, bytes)).await,
                _ => Ok(()),
            },
        }
    }
}
