//! Another configuration for a running process: on SIGHUP, and when one of its files is written.

use crate::check::{Finding, Severity, check_source, source_finding};
use crate::config::{Config, Files, load_with_files};
use crate::diagnostic::Diagnostic;
use crate::replicator::error::ServiceError;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Hands on every new configuration that can be used, for as long as somebody takes it. One that cannot be used is
/// refused with what is wrong with it, and the one before stays in force.
pub(super) async fn reload(path: PathBuf, mut files: Files, configs: watch::Sender<Config>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    while !configs.is_closed() {
        tokio::select! {
            _ = hangup.recv() => {}
            () = sleep(LOOK_EVERY) => {
                if !files.have_changed() {
                    continue;
                }
                // Somebody may still be writing.
                files.mark_read();
                sleep(LOOK_EVERY).await;
                if files.have_changed() {
                    continue;
                }
            }
        }
        match load_with_files(&path) {
            Ok((config, found)) => {
                files = found;
                take(&configs, config).await;
            }
            Err(error) => {
                files.mark_read();
                let error = Diagnostic::from(error).render(false);
                tracing::error!("new configuration rejected, the current one stays in force: {error}");
            }
        }
    }
    Ok(())
}

/// What a person has to mend at the source before this configuration can be used. One that cannot be reached now, or that
/// somebody holds a lock at, is waited for.
pub(super) async fn find_faults(config: &Config) -> Vec<Finding> {
    match check_source(config).await {
        Ok(findings) => {
            let lasts = |finding: &Finding| finding.severity == Severity::Error && !finding.passes;
            findings.into_iter().filter(lasts).collect()
        }
        Err(error) => {
            let finding = source_finding(config, &error);
            if ServiceError::from(error).is_final() { vec![finding] } else { Vec::new() }
        }
    }
}

async fn take(configs: &watch::Sender<Config>, config: Config) {
    let (is_same, only_tenants) = {
        let current = configs.borrow();
        (*current == config, current.differs_only_in_tenants(&config))
    };
    if is_same {
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
    configs.send_replace(config);
}
