//! Runs one session after another: reconnects with backoff, and decides which errors end the process.

use crate::config::Config;
use crate::replicator::backoff::Backoff;
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::prepare;
use crate::replicator::session::config_changes::replaced;
use crate::replicator::tasks::{SessionExit, SessionTasks};
use crate::status::live::ProcessStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const RECONNECT_FIRST: Duration = Duration::from_millis(200);
const RECONNECT_LAST: Duration = Duration::from_secs(30);
/// A session that lasted this long was a good one: its end is a first failure.
const GOOD: Duration = Duration::from_secs(60);

/// Replicates until `stop`, over as many sessions as it takes. An error is one that a person has to mend.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), ServiceError> {
    let (_keep, configs) = watch::channel(config);
    run_reloading(configs, Arc::default(), stop).await
}

/// As [`run`], with a configuration that may be replaced while it runs: tenants are added and removed, any other
/// change starts a new session. `live` shows how it goes.
pub async fn run_reloading(
    mut configs: watch::Receiver<Config>,
    live: Arc<ProcessStatus>,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let mut reconnect = Backoff::new(RECONNECT_FIRST, RECONNECT_LAST);
    let mut has_streamed = false;
    loop {
        let begun = Instant::now();
        let config = configs.borrow_and_update().clone();
        let error = match session(config, &mut configs, &live, &stop, &mut has_streamed).await {
            Ok(SessionExit::Stopped) => return Ok(()),
            Ok(SessionExit::Reconfigured) => {
                live.set_starting(None);
                continue;
            }
            // It worked until just now: whoever broke it may mend it, and need not think of us then.
            Err(error) if has_streamed && error.is_mended_without_us() => {
                tracing::error!(%error, "nothing is replicated until this is mended");
                error
            }
            Err(error) if error.is_final() => return Err(error),
            Err(error) => error,
        };
        if begun.elapsed() > GOOD {
            reconnect.reset();
        }
        let wait = reconnect.step();
        live.metrics.source_reconnects.inc();
        live.set_starting(Some(error.to_string()));
        tracing::warn!(%error, ?wait, "the session on the source ended and begins again");
        tokio::select! {
            () = sleep(wait) => {}
            () = replaced(&mut configs) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

async fn session(
    config: Config,
    configs: &mut watch::Receiver<Config>,
    live: &Arc<ProcessStatus>,
    stop: &CancellationToken,
    has_streamed: &mut bool,
) -> Result<SessionExit, ServiceError> {
    let prepared = tokio::select! {
        prepared = prepare(&config, live) => prepared?,
        () = replaced(configs) => return Ok(SessionExit::Reconfigured),
        () = stop.cancelled() => return Ok(SessionExit::Stopped),
    };
    *has_streamed = true;
    let _streaming = live.set_streaming(prepared.context.clone());
    #[cfg_attr(not(feature = "kafka"), allow(unused_mut))]
    let mut running = SessionTasks::start(prepared, None);
    #[cfg(feature = "kafka")]
    running.tee(configs.clone());
    running.run(config, configs, stop).await
}
