//! `run`: replicates until a signal.

use super::common::{ConfigFile, FAILED};
use super::export::Export;
use super::logging::Logging;
use super::output;
use super::plan;
use super::reload::{ConfigSources, find_faults, warn_of_shared_roles};
use super::signals::signals;
use crate::admin::Server;
use crate::check::LISTEN_REMEDY;
use crate::cli::exit::ExitCode;
use crate::config::{Config, load_from};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::CheckFinding;
use crate::pg::connect_state;
use crate::replicator;
use crate::state::StateStore;
use crate::status::process::ProcessStatus;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Raises the soft limit of open files to the hard limit. The default of 1,024 on many systems is too low for one connection
/// per joining tenant and per waiting request.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // A sandbox may forbid it: the old limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Whether a process has ever replicated with this slot.
async fn has_run_before(config: &Config) -> bool {
    let Ok(state) = connect_state(&config.state_url).await else { return false };
    let known = StateStore::read(&state, &config.source.slot).await;
    known.is_ok_and(|known| known.was_replicated())
}

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Show what a start would resync, and why, without starting.
    #[arg(long)]
    plan: bool,
    /// With --plan: print one JSON document instead of text.
    #[arg(long, requires = "plan")]
    pub(super) json: bool,
}

/// Errors at the source end the command before it creates anything there. An unreachable source is waited for.
pub(super) async fn execute(
    arguments: &Arguments,
    logging: &Logging,
    file: &ConfigFile,
) -> Result<ExitCode, Diagnostic> {
    if arguments.plan {
        let config = file.load().await?;
        logging.begin(config.log.into(), None)?;
        return plan::execute(&config).await;
    }
    Box::pin(serve(Reads::Source, logging, file)).await
}

/// What a process reads the changes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    Source,
    #[cfg(feature = "kafka")]
    Kafka,
}

/// Serves the admin API, reloads the configuration, and replicates until a signal.
pub(super) async fn serve(reads: Reads, logging: &Logging, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let place = file.place();
    let loaded = load_from(&place)?;
    let config = loaded.config.clone();
    if reads != Reads::Source && !config.publishes_only() {
        let help = "set kafka.group; `run` then only publishes";
        return Err(diagnostic!(help = help, "kafka.group is not set: apply needs a consumer group"));
    }
    let mut export = Export::of_environment();
    logging.begin(config.log.into(), export.layer())?;
    raise_open_files();
    let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    let (sender, configs) = watch::channel(config.clone());
    let status = Arc::new(match reads {
        Reads::Source => ProcessStatus::default(),
        #[cfg(feature = "kafka")]
        Reads::Kafka => ProcessStatus::without_source(),
    });
    let admin_stop = CancellationToken::new();
    let server = Server::bind(configs.clone(), status.clone())
        .await
        .map_err(|error| diagnostic!(help = LISTEN_REMEDY, "{error}").with_code(CheckFinding::ListenInUse))?;
    export.begin(&server);
    tokio::spawn(server.run(admin_stop.clone()));
    let mut sources = ConfigSources::new(place, loaded, status.clone())
        .map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    let config = tokio::select! {
        config = Box::pin(sources.first()) => config?,
        () = stop.cancelled() => {
            admin_stop.cancel();
            export.end().await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    sender.send_replace(config.clone());
    if reads == Reads::Source && !is_ready(&config).await {
        return Ok(ExitCode::from(FAILED));
    }
    warn_of_shared_roles(&config);
    if config.spool.directory.is_none() {
        tracing::warn!(
            "no spool.directory: a snapshot that does not fit into memory is read at the pace of its targets"
        );
    }
    let reloading = tokio::spawn(sources.follow(sender));
    let done = match reads {
        Reads::Source => Box::pin(replicator::run_reloading(configs, status, stop)).await,
        #[cfg(feature = "kafka")]
        Reads::Kafka => Box::pin(replicator::run_consumer(configs, status, stop)).await,
    };
    reloading.abort();
    admin_stop.cancel();
    export.end().await;
    done?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the source can be replicated; shows what has to be fixed first.
async fn is_ready(config: &Config) -> bool {
    let findings = find_faults(config).await;
    if findings.is_empty() {
        return true;
    }
    if has_run_before(config).await {
        // It worked before: keep running, as the service retries and an operator can fix the source meanwhile.
        findings.iter().for_each(|finding| tracing::error!("{finding}"));
        return true;
    }
    findings.iter().for_each(output::notice);
    false
}
