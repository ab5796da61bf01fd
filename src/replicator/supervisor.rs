//! Runs one session after another: reconnects with backoff, and decides which errors end the process.

use crate::config::Config;
use crate::model::SourceTrouble;
use crate::pg::{PgUrl, connect_state};
use crate::replicator::backoff::Backoffs;
use crate::replicator::error::ServiceError;
use crate::replicator::heartbeat::show_alive;
use crate::replicator::prepare::{holder, prepare};
use crate::replicator::session::config_changes::replaced;
use crate::replicator::tasks::{SessionExit, SessionTasks};
use crate::state::StateStore;
use crate::status::process::ProcessStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const RECONNECT_MIN: Duration = Duration::from_millis(200);
/// With the time of an attempt, everything streams 10 s after the source can be reached again.
const RECONNECT_MAX: Duration = Duration::from_secs(5);
/// A session that has streamed for this long resets the backoff. The wait for a slot does not count.
const STABLE_AFTER: Duration = Duration::from_secs(60);
/// Time limit for recording an error in the state.
const NOTE_TIMEOUT: Duration = Duration::from_secs(5);

/// Replicates until `stop` is cancelled.
///
/// # Errors
/// An error at the start that a person has to fix, and later one that a fix at the source cannot resolve.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), ServiceError> {
    let (_keep, configs) = watch::channel(config);
    run_reloading(configs, Arc::default(), stop).await
}

/// As [`run`], with a configuration that can change: added and removed tenants start and stop, any other change restarts
/// the session. `status` shows the status of the process.
pub async fn run_reloading(
    configs: watch::Receiver<Config>,
    status: Arc<ProcessStatus>,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let ended = CancellationToken::new();
    let replicating = async {
        let done = sessions(configs.clone(), &status, stop).await;
        ended.cancel();
        done
    };
    // Boxed: it is idle while a session runs.
    let (done, ()) = tokio::join!(replicating, Box::pin(show_alive(configs.clone(), &status, &ended)));
    done
}

/// One session after another.
async fn sessions(
    mut configs: watch::Receiver<Config>,
    status: &Arc<ProcessStatus>,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let mut reconnect = Backoffs::new(RECONNECT_MIN, RECONNECT_MAX);
    let mut has_streamed = false;
    loop {
        let mut streaming_since = None;
        let config = configs.borrow_and_update().clone();
        let (slot, state_url) = (config.source.slot.clone(), config.state_url.clone());
        let ended = session(config, &mut configs, status, &stop, &mut streaming_since).await;
        has_streamed |= streaming_since.is_some();
        let error = match ended {
            Ok(SessionExit::Stopped) => return Ok(()),
            Ok(SessionExit::Reconfigured) => {
                status.set_starting(None);
                continue;
            }
            // The session had been healthy. Keep retrying: an operator will fix the source without restarting us.
            Err(error) if has_streamed && error.is_fixed_without_restart() => {
                tracing::error!(%error, reason_code = error.trouble().code(), "replication has stopped until this is fixed");
                error
            }
            Err(error) if error.is_final() => {
                note_trouble(slot, state_url, error.trouble(), error.to_string()).await;
                return Err(error);
            }
            Err(error) => error,
        };
        if streaming_since.is_some_and(|since| since.elapsed() > STABLE_AFTER) {
            reconnect.reset();
        }
        let wait = reconnect.step(error.trouble());
        status.metrics.source_reconnects.inc();
        status.set_failing(error.trouble(), error.to_string());
        tracing::warn!(%error, reason_code = error.trouble().code(), ?wait, "session on the source ended, reconnecting");
        // The next attempt does not wait for it. What comes too late is cleared by the session's first record.
        tokio::spawn(note_trouble(slot, state_url, error.trouble(), error.to_string()));
        tokio::select! {
            () = sleep(wait) => {}
            () = replaced(&mut configs) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Records why no session works, for `status`. The state may be down as well; then only the log says it.
async fn note_trouble(slot: String, state_url: PgUrl, trouble: SourceTrouble, text: String) {
    let noted = timeout(NOTE_TIMEOUT, async {
        let client = connect_state(&state_url).await.map_err(ServiceError::StateConnect)?;
        StateStore::note_trouble(&client, &slot, &holder(), trouble, &text).await?;
        client.close().await;
        Ok::<_, ServiceError>(())
    });
    match noted.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "cannot record the error in the state"),
        Err(_) => tracing::debug!("cannot record the error in the state in time"),
    }
}

async fn session(
    config: Config,
    configs: &mut watch::Receiver<Config>,
    status: &Arc<ProcessStatus>,
    stop: &CancellationToken,
    streaming_since: &mut Option<Instant>,
) -> Result<SessionExit, ServiceError> {
    let prepared = tokio::select! {
        // Boxed: its future is large, and dead for most of the session.
        prepared = Box::pin(prepare(&config, status)) => prepared?,
        () = replaced(configs) => return Ok(SessionExit::Reconfigured),
        () = stop.cancelled() => return Ok(SessionExit::Stopped),
    };
    *streaming_since = Some(Instant::now());
    let _streaming = status.set_streaming(prepared.context.clone());
    #[cfg_attr(not(feature = "kafka"), allow(unused_mut))]
    let mut running = SessionTasks::start(prepared, None);
    #[cfg(feature = "kafka")]
    running.tee(configs.clone());
    running.run(config, configs, stop).await
}
