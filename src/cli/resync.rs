//! `resync`: requests new snapshots from the running process, or takes them itself if none is running.

use super::common::{ConfigFile, FAILED, cannot_connect_source, connect_state};
use super::output::{self, Format};
use super::resync_user;
use super::signals::signals;
use super::tenants::{not_started, read, refuse_living, refuse_paused, select_tenants, unreadable};
use crate::capture::slot::read_slot;
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{ExtraRows, TenantId};
use crate::operations::request::{RequestEnd, request};
use crate::operations::resync;
use crate::pg;
use crate::state::{RequestKind, Snapshot, StateError, StateStore, TenantState};
use clap::Args;
use serde::Serialize;
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
    #[command(flatten)]
    pub(super) format: Format,
}

/// What is requested.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// Whether `limits.max_deletes` does not apply.
    pub(super) allow_deletes: bool,
    /// Whether rows of others are taken over, and what is done with users that only the target has.
    pub(super) adopt: Option<ExtraRows>,
}

/// The outcome for one tenant.
#[derive(Serialize)]
pub(super) struct TenantOutcome {
    tenant: String,
    result: String,
    /// Whether it follows now.
    is_done: bool,
    state: &'static str,
    /// The last position that its target has.
    position: Option<String>,
    reason_code: Option<&'static str>,
    reason: Option<String>,
    remedy: Option<String>,
}

/// The outcome of a resync.
pub(super) enum Resynced {
    /// Of every tenant.
    Done(Vec<TenantOutcome>),
    /// This command was interrupted. The running process continues.
    Interrupted,
}

#[derive(Serialize)]
struct Document<'a> {
    tenants: &'a [TenantOutcome],
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
    let config = file.load_known().await?;
    if arguments.kafka {
        return resync_kafka(&config).await;
    }
    let tenants = select_tenants(&config, &arguments.tenants)?;
    let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
    if let Some(user) = &arguments.user {
        return resync_user::execute(&config, &tenants, user, stop).await;
    }
    let asked = Asked { allow_deletes: arguments.allow_deletes, adopt: None };
    report(&resync(&config, &tenants, asked, stop).await?)
}

/// A resync works beside no process, and makes no slot: a new one would mean a new snapshot of every tenant.
async fn refuse_slot(config: &Config) -> Result<(), Diagnostic> {
    let slot = &config.source.slot;
    let client = pg::connect(&config.source.url).await.map_err(|error| cannot_connect_source(&error))?;
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
            output::outcome("no process is running: the next one resyncs Kafka when it starts", false)?;
            return Ok(ExitCode::SUCCESS);
        }
        match known.tee {
            Some(tee) if !tee.requested => {
                output::outcome("resynced: Kafka has the users of every tenant", true)?;
                return Ok(ExitCode::SUCCESS);
            }
            Some(tee) if tee.reason.is_some() => {
                let why = tee.reason.unwrap_or_default();
                output::outcome(format_args!("requested, and done once Kafka accepts messages: {why}"), false)?;
                return Ok(ExitCode::from(FAILED));
            }
            _ => sleep(POLL_INTERVAL).await,
        }
    }
}

/// Requests the resync or does it here, then reads the outcome of every tenant.
pub(super) async fn resync(
    config: &Config,
    tenants: &[TenantId],
    asked: Asked,
    stop: CancellationToken,
) -> Result<Resynced, Diagnostic> {
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
        RequestOutcome::Interrupted => return Ok(Resynced::Interrupted),
        RequestOutcome::Abandoned if config.publishes_only() => {
            return Err(diagnostic!(
                help = "start users-sync run, which publishes, and users-sync apply, which writes to the targets",
                "no process is running, and with kafka.group targets are written from Kafka only"
            ));
        }
        RequestOutcome::Abandoned => {
            // `adopt` has looked at the slot already, and may be the first to need one.
            if adopt.is_none() {
                refuse_slot(config).await?;
                refuse_living(&client, config).await?;
            }
            let doing = if adopt.is_some() { "adopting" } else { "resyncing" };
            output::line(format_args!("no process is running: {doing} here"));
            let done = Box::pin(resync::resync(config.clone(), tenants, allow_deletes, adopt, stop)).await;
            done?;
        }
    }
    let done = if adopt.is_some() { "adopted" } else { "resynced" };
    let state = read(&client, config).await?;
    Ok(Resynced::Done(tenants.iter().map(|tenant| outcome_of(&state, tenant, done)).collect()))
}

fn outcome_of(state: &Snapshot, tenant: &TenantId, done: &str) -> TenantOutcome {
    let row = state.tenants.get(tenant);
    let follows = row.filter(|row| row.state == TenantState::Following);
    let shown = row.map_or("unknown", |row| row.state.as_str());
    let reason = row.and_then(|row| row.reason.clone());
    let result = match follows {
        Some(row) => format!("{done}, caught up to {}", row.position),
        None => format!("{shown} ({})", reason.as_deref().unwrap_or("the process has not recorded it")),
    };
    TenantOutcome {
        tenant: tenant.to_string(),
        result,
        is_done: follows.is_some(),
        state: shown,
        position: follows.map(|row| row.position.to_string()),
        reason_code: row.and_then(|row| Some(row.reason_code?.code())),
        reason,
        remedy: row.and_then(|row| row.remedy.clone()),
    }
}

/// A line for each tenant, with the remedy for one that does not follow.
pub(super) fn outcome_lines(outcomes: &[TenantOutcome]) -> String {
    let lines = outcomes.iter().map(|TenantOutcome { tenant, result, is_done, remedy, .. }| {
        let remedy = remedy.as_deref().filter(|_| !is_done);
        let remedy = remedy.map_or_else(String::new, |remedy| format!("{tenant} -> {remedy}\n"));
        format!("{tenant}: {result}\n{remedy}")
    });
    lines.collect()
}

/// A failure unless every tenant follows.
pub(super) fn exit_code(outcomes: &[TenantOutcome]) -> ExitCode {
    if outcomes.iter().all(|outcome| outcome.is_done) { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// Prints the outcome.
pub(super) fn report(resynced: &Resynced) -> Result<ExitCode, Diagnostic> {
    match resynced {
        Resynced::Interrupted => {
            output::outcome("the running process continues it", false)?;
            Ok(ExitCode::from(FAILED))
        }
        Resynced::Done(tenants) => {
            output::result(outcome_lines(tenants), &Document { tenants })?;
            Ok(exit_code(tenants))
        }
    }
}
