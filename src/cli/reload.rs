//! Reloads the configuration of a running process on SIGHUP and when one of its files changes.

use crate::check::{Finding, Severity, check_source, read_state, source_finding};
use crate::config::{Config, Files, Place, ServerName, load_from};
use crate::diagnostic::Diagnostic;
use crate::replicator::error::ServiceError;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

/// Interval at which the files are checked for changes.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Sends every valid new configuration until the receiver is gone. An invalid one is logged and rejected.
///
/// # Errors
/// The SIGHUP handler cannot be installed.
pub(super) async fn reload(place: Place, mut files: Files, configs: watch::Sender<Config>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    while !configs.is_closed() {
        tokio::select! {
            _ = hangup.recv() => {}
            () = sleep(POLL_INTERVAL) => {
                if !files.have_changed() {
                    continue;
                }
                // The file may still be being written: wait until it has not changed for one interval.
                files.mark_read();
                sleep(POLL_INTERVAL).await;
                if files.have_changed() {
                    continue;
                }
            }
        }
        match load_from(&place) {
            Ok(loaded) => {
                files = loaded.files;
                apply(&configs, loaded.config).await;
            }
            Err(error) => {
                files.mark_read();
                // No line of the file: a log is read by more people than the file is.
                let error = Diagnostic::from(error).summary();
                tracing::error!("new configuration rejected, the current one stays in force: {error}");
            }
        }
    }
    Ok(())
}

/// The errors at the source that must be fixed before this configuration can be used. Errors that can pass, such as an
/// unreachable server or a lock, are left out: `run` waits for them.
pub(super) async fn find_faults(config: &Config) -> Vec<Finding> {
    match check_source(config, read_state(config).await.as_ref()).await {
        Ok(findings) => {
            let is_permanent = |finding: &Finding| finding.severity == Severity::Error && !finding.can_pass;
            findings.into_iter().filter(is_permanent).collect()
        }
        Err(error) => {
            let finding = source_finding(config, &error);
            if ServiceError::from(error).is_final() { vec![finding] } else { Vec::new() }
        }
    }
}

/// Logs each role that is used for several databases of one server, as far as the URLs tell.
pub(super) fn warn_of_shared_roles(config: &Config) {
    for shared in config.shared_roles(ServerName::of) {
        tracing::warn!(remedy = shared.remedy(), "targets share a role: {shared}");
    }
}

async fn apply(configs: &watch::Sender<Config>, config: Config) {
    let (is_unchanged, only_tenants) = {
        let current = configs.borrow();
        (*current == config, current.differs_only_in_tenants(&config))
    };
    if is_unchanged {
        tracing::info!("configuration reloaded: unchanged");
        return;
    }
    let errors = if only_tenants { Vec::new() } else { find_faults(&config).await };
    let errors = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    if !errors.is_empty() {
        tracing::error!("new configuration rejected, the current one stays in force: {errors}");
        return;
    }
    tracing::info!(tenants = config.tenants.len(), "configuration reloaded");
    warn_of_shared_roles(&config);
    configs.send_replace(config);
}
