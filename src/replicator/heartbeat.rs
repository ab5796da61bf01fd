//! Shows in the state that this process is alive while it does not replicate: as a standby, or while it cannot reach the
//! source. While it replicates, its lease shows that.

use crate::config::Config;
use crate::pg::{PgClient, PgUrl, connect_state};
use crate::replicator::backoff::Backoff;
use crate::replicator::error::ServiceError;
use crate::replicator::prepare::holder;
use crate::state::StateStore;
use crate::status::process::ProcessStatus;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pause between two signs of life, far below the length of a lease. A session usually begins before the first one.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause while the state cannot be written: each attempt is a login.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Time limit for one sign of life.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where this process has shown that it is alive.
struct Shown {
    client: PgClient,
    state_url: PgUrl,
    slot: String,
}

/// Shows it until `ended`, and then that it has ended.
pub(crate) async fn show_alive(configs: watch::Receiver<Config>, status: &ProcessStatus, ended: &CancellationToken) {
    let mut shown = None;
    let mut backoff = Backoff::new(INTERVAL, RETRY_MAX);
    let mut wait = INTERVAL;
    loop {
        tokio::select! {
            () = sleep(wait) => {}
            () = ended.cancelled() => break,
        }
        let step = tokio::select! {
            step = timeout(TIMEOUT, beat(&configs, status, &mut shown)) => step,
            () = ended.cancelled() => break,
        };
        wait = match step {
            Ok(Ok(())) => {
                backoff.reset();
                INTERVAL
            }
            failed => {
                if let Ok(Err(error)) = failed {
                    tracing::debug!(%error, "cannot show in the state that the process is alive");
                }
                shown = None;
                backoff.step()
            }
        };
    }
    let _ = timeout(TIMEOUT, end(&mut shown)).await;
}

async fn beat(
    configs: &watch::Receiver<Config>,
    status: &ProcessStatus,
    shown: &mut Option<Shown>,
) -> Result<(), ServiceError> {
    if status.is_streaming() {
        return end(shown).await;
    }
    let (state_url, slot) = {
        let config = configs.borrow();
        (config.state_url.clone(), config.source.slot.clone())
    };
    if shown.as_ref().is_some_and(|shown| shown.state_url != state_url || shown.slot != slot) {
        end(shown).await?;
    }
    if shown.is_none() {
        let client = connect_state(&state_url).await.map_err(ServiceError::StateConnect)?;
        *shown = Some(Shown { client, state_url, slot });
    }
    if let Some(Shown { client, slot, .. }) = shown {
        StateStore::note_alive(client, slot, &holder()).await?;
    }
    Ok(())
}

/// Takes the sign of life back, if there is one.
async fn end(shown: &mut Option<Shown>) -> Result<(), ServiceError> {
    if let Some(Shown { client, slot, .. }) = shown.take() {
        StateStore::forget_process(&client, &slot, &holder()).await?;
        client.close().await;
    }
    Ok(())
}
