//! `pause` and `resume`: stop and continue what is written to targets. Both work through the state, from any machine.

use super::common::{ConfigFile, FAILED, connect_state};
use super::output::{self, Format};
use super::tenants::{not_started, select_tenants};
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::TenantId;
use crate::operations::pause::{self, PauseOutcome, TenantOutcome};
use crate::pg::PgClient;
use crate::state::{StateError, TenantState};
use crate::status::report::shown_state;
use clap::Args;
use serde::Serialize;

#[derive(Args, Debug)]
pub(super) struct PauseArguments {
    #[command(flatten)]
    which: Which,
    /// Why, for `status` and for the next operator.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Args, Debug)]
pub(super) struct ResumeArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Args, Debug)]
struct Which {
    /// The tenants.
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "TENANT")]
    tenants: Vec<String>,
    /// Every tenant in the configuration.
    #[arg(long)]
    all: bool,
}

pub(super) async fn pause(arguments: &PauseArguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    if let Some(refusal) = pause::refuse_reason(&arguments.reason) {
        return Err(diagnostic!(help = "say in a few words what is done meanwhile", "{refusal}"));
    }
    let (config, tenants, client) = begin(&arguments.which, file).await?;
    let done = pause::pause(&client, &config.source.slot, &tenants, &arguments.reason, &operator()).await;
    report(&config, &done.map_err(failed)?, paused)
}

pub(super) async fn resume(arguments: &ResumeArguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let (config, tenants, client) = begin(&arguments.which, file).await?;
    let done = pause::resume(&client, &config.source.slot, &tenants).await;
    report(&config, &done.map_err(failed)?, resumed)
}

async fn begin(which: &Which, file: &ConfigFile) -> Result<(Config, Vec<TenantId>, PgClient), Diagnostic> {
    let config = file.load_known().await?;
    let tenants = select_tenants(&config, &which.tenants)?;
    let client = connect_state(&config).await?;
    Ok((config, tenants, client))
}

fn failed(error: StateError) -> Diagnostic {
    diagnostic!("cannot write the state: {error}")
}

/// Names the operator to people who read the state.
fn operator() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "an operator".to_owned());
    format!("{user} on {}", rustix::system::uname().nodename().to_string_lossy())
}

/// The result for one tenant: a line, and whether it is what was asked for.
type Line = (String, bool);

fn paused(done: &TenantOutcome, is_held: bool) -> Line {
    match &done.pause {
        Some(pause) if !done.is_changed => (format!("is paused already ({}): {}", pause.by, pause.reason), true),
        Some(pause) if is_held && !pause.is_effective => {
            ("is paused once its current batch is written".to_owned(), false)
        }
        Some(_) => ("paused".to_owned(), true),
        None => ("was resumed meanwhile".to_owned(), false),
    }
}

fn resumed(done: &TenantOutcome, is_held: bool) -> Line {
    let state = done.row.as_ref().map_or("unknown", |row| row.state.as_str());
    let parked = done.row.as_ref().filter(|row| row.state == TenantState::Parked);
    let how = match parked {
        Some(row) if is_held => {
            let why = row.reason.as_deref().map_or_else(String::new, |reason| format!(" ({reason})"));
            format!("; it was parked{why}: it is tried again now, and resynced")
        }
        _ => format!(" ({state})"),
    };
    match (&done.pause, done.is_changed) {
        (Some(_), _) => ("was paused again meanwhile".to_owned(), false),
        (None, true) => (format!("resumed{how}"), true),
        (None, false) => (format!("was not paused{how}"), true),
    }
}

/// A line for each tenant, or one document. Fails unless each tenant is as it was asked for.
fn report(
    config: &Config,
    outcome: &PauseOutcome,
    line: fn(&TenantOutcome, bool) -> Line,
) -> Result<ExitCode, Diagnostic> {
    let is_held = outcome.is_held;
    if outcome.tenants.iter().all(|tenant| tenant.row.is_none()) {
        return Err(not_started(config));
    }
    let lines = outcome.tenants.iter().map(|done| {
        let (text, is_done) = match &done.row {
            Some(_) => line(done, is_held),
            None => ("no process has started this tenant yet".to_owned(), false),
        };
        (done, text, is_done)
    });
    let lines: Vec<_> = lines.collect();
    let is_done = lines.iter().all(|(_, _, is_done)| *is_done);
    let tenants = lines.iter().map(|(done, text, is_done)| TenantDocument {
        tenant: done.tenant.as_str(),
        result: text,
        is_done: *is_done,
        is_changed: done.is_changed,
        state: done.row.as_ref().map_or("unknown", |row| shown_state(row.state, done.pause.is_some())),
        reason: done.pause.as_ref().map(|pause| &*pause.reason),
        by: done.pause.as_ref().map(|pause| &*pause.by),
    });
    let document = Document { is_running: is_held, tenants: tenants.collect() };
    let mut text: String = lines.iter().map(|(done, text, _)| format!("{}: {text}\n", done.tenant)).collect();
    if !is_held {
        text.push_str("no process is running: the next one does as the state says now\n");
    }
    output::result(text, &document)?;
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

#[derive(Serialize)]
struct Document<'a> {
    /// Whether a process replicates.
    is_running: bool,
    tenants: Vec<TenantDocument<'a>>,
}

#[derive(Serialize)]
struct TenantDocument<'a> {
    tenant: &'a str,
    result: &'a str,
    /// Whether the tenant is as it was asked for.
    is_done: bool,
    /// Whether this command changed it.
    is_changed: bool,
    state: &'static str,
    /// Of the pause.
    reason: Option<&'a str>,
    by: Option<&'a str>,
}
