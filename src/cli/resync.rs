//! `resync`: requests new snapshots from the running process, or takes them itself if none is running.

use super::common::{ConfigFile, FAILED, connect_state};
use super::output;
use super::resync_user;
use super::signals::signals;
use super::tenants::{not_started, read, refuse_paused, select_tenants, unreadable};
use crate::capture::slot::read_slot;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{ExtraRows, TenantId};
use crate::operations::request::{RequestEnd, request};
use crate::operations::resync;
use crate::pg;
use crate::state::{RequestKind, Snapshot, StateError, StateStore, TenantState};
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Interval at which the state is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Tenants to resync.
    #[arg(required_unless_present_any = ["all", "kafka"], conflicts_with = "all", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Resync every tenant in the configuration.
    #[arg(long)]
    all: bool,
    /// Ignore limits.max_deletes, however many users this marks as deleted.
    #[arg(long)]
    allow_deletes: bool,
    /// Bring only this user again: as the source has it now, between the changes of the stream.
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "kafka", "allow_deletes"])]
    user: Option<String>,
    /// Resync Kafka instead of the targets: r events for existing users, d events for deleted ones.
    #[arg(long, conflicts_with_all = ["all", "tenants", "allow_deletes"])]
    kafka: bool,
}

/// What is requested.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// Whether `limits.max_deletes` does not apply.
    pub(super) allow_deletes: bool,
    /// Whether rows of others are taken over, and what is done with users that only the target has.
    pub(super) adopt: Option<ExtraRows>,
}

/// Outcome of a request to the running process.
enum RequestOutcome {
    /// Every tenant was handled. The state has the outcome of each.
    Handled,
    /// No process is running, or it ended before it was done.
    Abandoned,
    /// This command was interrupted. The running process continues.
    Interrupted,
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load()?;
    if arguments.kafka {
        return resync_kafka(&config).await;
    }
    let tenants = select_tenants(&config, &arguments.tenants)?;
    let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    if let Some(user) = &arguments.user {
        return resync_user::execute(&config, &tenants, user, stop).await;
    }
    let asked = Asked { allow_deletes: arguments.allow_deletes, adopt: None };
    resync(&config, &tenants, asked, stop).await
}

/// A resync works beside no process, and makes no slot: a new one would mean a new snapshot of every tenant.
async fn refuse_slot(config: &Config) -> Result<(), Diagnostic> {
    let slot = &config.source.slot;
    let client =
        pg::connect(&config.source.url).await.map_err(|error| diagnostic!("cannot connect to the source: {error}"))?;
    let found = read_slot(&client, slot).await.map_err(|error| diagnostic!("cannot read the slot: {error}"))?;
    match found {
        None => Err(diagnostic!(
            help = "start users-sync run: it creates the slot and resyncs every tenant",
            "slot {slot} does not exist, so there is no position to resync a tenant at"
        )),
        Some(found) => match found.active_pid {
            Some(pid) => Err(diagnostic!(
                help = "it is starting or does not answer: try again in some seconds, or end it",
                "process {pid} of the source's server reads slot {slot}, but no running process has renewed its lease"
            )),
            None => Ok(()),
        },
    }
}

/// Requests a resync of Kafka from the running process, and waits until it is done.
async fn resync_kafka(config: &Config) -> Result<ExitCode, Diagnostic> {
    if config.kafka.is_none() {
        return Err(diagnostic!(
            help = "omit --kafka, or add a `kafka` section",
            "the configuration has no `kafka` section"
        ));
    }
    let client = connect_state(config).await?;
    let failed = |error: StateError| diagnostic!("cannot write the state: {error}");
    if !StateStore::request_tee(&client, &config.source.slot).await.map_err(failed)? {
        return Err(diagnostic!(
            help = "the first `run` publishes every user automatically",
            "`run` has not started with this Kafka output yet"
        ));
    }
    loop {
        let known = read(&client, config).await?;
        if !known.source.is_some_and(|source| source.is_held()) {
            output::line("no process is running: the next one resyncs Kafka when it starts");
            return Ok(ExitCode::SUCCESS);
        }
        match known.tee {
            Some(tee) if !tee.requested => {
                output::line("resynced: Kafka has the users of every tenant");
                return Ok(ExitCode::SUCCESS);
            }
            Some(tee) if tee.reason.is_some() => {
                output::line(format_args!(
                    "requested, and done once Kafka accepts messages: {}",
                    tee.reason.unwrap_or_default()
                ));
                return Ok(ExitCode::from(FAILED));
            }
            _ => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Requests the resync or does it here, then prints the outcome of every tenant.
pub(super) async fn resync(
    config: &Config,
    tenants: &[TenantId],
    asked: Asked,
    stop: CancellationToken,
) -> Result<ExitCode, Diagnostic> {
    let client = connect_state(config).await?;
    let Asked { allow_deletes, adopt } = asked;
    let state = read(&client, config).await?;
    refuse_paused(&state, tenants)?;
    let outcome = match state.source {
        None if adopt.is_some() => RequestOutcome::Abandoned,
        None => return Err(not_started(config)),
        Some(source) if source.is_held() => {
            output::line(format_args!("asking {} ...", source.holder));
            let names: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
            let kind = RequestKind::Resync { allow_deletes, adopt };
            tokio::select! {
                outcome = request(&client, &config.source.slot, &names, &kind) => {
                    match outcome.map_err(unreadable)? {
                        RequestEnd::Served => RequestOutcome::Handled,
                        RequestEnd::Abandoned => RequestOutcome::Abandoned,
                    }
                }
                () = stop.cancelled() => RequestOutcome::Interrupted,
            }
        }
        Some(_) => RequestOutcome::Abandoned,
    };
    match outcome {
        RequestOutcome::Handled => {}
        RequestOutcome::Interrupted => {
            output::line("the running process continues it");
            return Ok(ExitCode::from(FAILED));
        }
        RequestOutcome::Abandoned => {
            // `adopt` has looked at the slot already, and may be the first to need one.
            if adopt.is_none() {
                refuse_slot(config).await?;
            }
            let doing = if adopt.is_some() { "adopting" } else { "resyncing" };
            output::line(format_args!("no process is running: {doing} here"));
            let done = Box::pin(resync::resync(config.clone(), tenants, allow_deletes, adopt, stop)).await;
            done.map_err(|error| diagnostic!("{error}"))?;
        }
    }
    let done = if adopt.is_some() { "adopted" } else { "resynced" };
    Ok(report(&read(&client, config).await?, tenants, done))
}

/// Prints the outcome of every tenant. The exit code is a failure unless all of them are following.
fn report(state: &Snapshot, tenants: &[TenantId], done: &str) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for tenant in tenants {
        let row = state.tenants.get(tenant);
        match row.filter(|row| row.state == TenantState::Following) {
            Some(row) => output::line(format_args!("{tenant}: {done}, caught up to {}", row.position)),
            None => {
                let reason = row.and_then(|row| row.reason.as_deref()).unwrap_or("the process has not recorded it");
                output::line(format_args!("{tenant}: {} ({reason})", row.map_or("unknown", |row| row.state.as_str())));
                if let Some(remedy) = row.and_then(|row| row.remedy.as_deref()) {
                    output::line(format_args!("{tenant} -> {remedy}"));
                }
                code = ExitCode::from(FAILED);
            }
        }
    }
    code
}
