//! `run`: the service, until a signal comes.

use super::common::{ConfigFile, FAILED};
use super::logging::Logging;
use super::plan;
use super::reload::{find_faults, reload};
use super::signals::signals;
use crate::admin::Server;
use crate::config::{Config, load_with_files};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::Generation;
use crate::pg::connect;
use crate::replicator;
use crate::state::StateStore;
use crate::status::live::ProcessStatus;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::process::ExitCode;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A connection for each tenant that joins, and one for each that waits for a user, are more files than the 1,024 that many
/// systems begin with; what a process may have at most is left to whoever runs it.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // A sandbox may forbid it: then it is as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Whether anything was ever replicated with this slot.
async fn has_run_before(config: &Config) -> bool {
    let Ok(state) = connect(&config.state_url).await else { return false };
    let known = StateStore::read(&state, &config.source.slot).await;
    known.ok().and_then(|known| known.source).is_some_and(|source| source.generation > Generation(0))
}

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Show what a start would resync, and why, without starting.
    #[arg(long)]
    plan: bool,
}

/// A source that is not ready is said to be so before anything is made there; one that is only away is waited for.
pub(super) async fn execute(arguments: &Arguments, logging: &Logging) -> Result<ExitCode, Diagnostic> {
    let file = &arguments.file.config;
    let (config, files) = load_with_files(file)?;
    logging.begin(config.log.into())?;
    if arguments.plan {
        return plan::execute(&config).await;
    }
    raise_open_files();
    let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    let (sender, configs) = watch::channel(config.clone());
    let (live, shown) = (Arc::<ProcessStatus>::default(), CancellationToken::new());
    let server = Server::bind(configs.clone(), live.clone()).await.map_err(|error| diagnostic!("{error}"))?;
    tokio::spawn(server.run(shown.clone()));
    let mut findings = find_faults(&config).await;
    if !findings.is_empty() && has_run_before(&config).await {
        // It worked: the service mends what it can, and says what it cannot.
        findings.iter().for_each(|finding| tracing::error!("{finding}"));
        findings.clear();
    }
    if !findings.is_empty() {
        findings.iter().for_each(|finding| eprintln!("{finding}"));
        return Ok(ExitCode::from(FAILED));
    }
    let reloading = tokio::spawn(reload(file.clone(), files, sender));
    let done = replicator::run_reloading(configs, live, stop).await;
    reloading.abort();
    shown.cancel();
    done.map_err(|error| diagnostic!("{error}"))?;
    Ok(ExitCode::SUCCESS)
}
