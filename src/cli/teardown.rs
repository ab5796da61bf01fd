//! `teardown`: removes what `setup` and `run` made at the source and in the state. Targets keep their users.

use super::admins::SOURCE_ADMIN;
use super::common::{ConfigFile, admin_url, cannot_connect_source, connect_state};
use super::confirm::confirm;
use super::output::{self, Format};
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::operations::teardown::{Plan, PlanError, drop_slot, plan, release_target, remove};
use crate::pg::{self, PgClient, describe, quote_literal};
use crate::state::StateStore;
use clap::Args;
use serde::Serialize;
use std::fmt;
use std::process::ExitCode;

#[derive(Args)]
pub(super) struct Arguments {
    /// Print what would be removed and what stays, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Skip the confirmation.
    #[arg(long)]
    yes: bool,
    /// URL of the source, as the tables' owner or a superuser. Default: source.url.
    ///
    /// Take the password from the environment or a file: ${NAME} or ${file:PATH}.
    #[arg(long, value_name = "URL", env = SOURCE_ADMIN, hide_env_values = true)]
    source_admin: Option<String>,
    #[command(flatten)]
    pub(super) format: Format,
}

impl fmt::Debug for Arguments {
    /// Without the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arguments").field("dry_run", &self.dry_run).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Document<'a> {
    drops: &'a [String],
    /// What stays because others use it, or because it is in Kafka.
    stays: &'a [String],
    is_dropped: bool,
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load()?;
    let admin = arguments.source_admin.as_ref();
    let admin = admin.map(|url| admin_url(url, "--source-admin", Some(SOURCE_ADMIN))).transpose()?;
    let source = pg::connect(admin.as_ref().unwrap_or(&config.source.url))
        .await
        .map_err(|error| cannot_connect_source(&error))?;
    let state = connect_state(&config).await?;
    let found = plan(&config, &source, &state).await.map_err(|error| match error {
        PlanError::InUse { .. } => diagnostic!(
            help = "stop every `run` with this configuration first; to end a dead connection: \
                    SELECT pg_terminate_backend(pid)",
            "{error}"
        ),
        error => diagnostic!("{error}"),
    })?;
    let mut stays = found.kept.clone();
    stays.extend(config.kafka.as_ref().map(|kafka| {
        format!(
            "topics and positions in Kafka ({}, {}): a later installation needs other names, or to take them over: \
             users-sync adopt -c FILE --kafka",
            kafka.topic, kafka.positions_topic
        )
    }));
    stays.iter().for_each(|what| output::line(format_args!("stays: {what}")));
    let drops: Vec<String> = list(&config, &found).collect();
    let report =
        |text: &str, is_dropped| output::result(text, &Document { drops: &drops, stays: &stays, is_dropped });
    if found.is_empty() {
        report("nothing to drop: slot, publication and state do not exist", true)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format_args!(
        "This drops\n{}Targets keep their users, and roles their grants; a later `run` starts over with a snapshot of every \
         tenant.",
        drops.iter().map(|line| format!("  {line}\n")).collect::<String>()
    ));
    if arguments.dry_run {
        report("nothing was dropped", false)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !arguments.yes && !confirm("Drop them?")? {
        report("nothing was dropped", false)?;
        return Ok(ExitCode::SUCCESS);
    }
    let left = drop_all(&config, &found, &source, &state).await;
    if left.is_empty() {
        report("done", true)?;
        return Ok(ExitCode::SUCCESS);
    }
    Err(diagnostic!(
        help = "fix that, or pass --source-admin URL, then run `teardown` again: it drops the rest",
        "these are left:\n  {}",
        left.join("\n  ")
    ))
}

fn list(config: &Config, plan: &Plan) -> impl Iterator<Item = String> {
    let Config { source, state_url, .. } = config;
    let slots = plan.slots.iter().map(|slot| format!("replication slot {slot} of {}", source.url));
    let removals = plan.removals.iter().map(|removal| removal.what.clone());
    let targets = plan.targets.iter().map(|(tenant, _)| format!("the claim to the target of tenant {tenant}"));
    let state =
        plan.has_state.then(|| format!("the state of slot {} in schema users_sync of {state_url}", source.slot));
    slots.chain(targets).chain(removals).chain(state)
}

/// Drops the slots first: they retain WAL at the source. The state is dropped last, and only if nothing is left: it has
/// what another attempt needs. Returns what is left, each with the statement that removes it.
async fn drop_all(config: &Config, plan: &Plan, source: &PgClient, state: &PgClient) -> Vec<String> {
    let mut left = Vec::new();
    for slot in &plan.slots {
        if let Err(error) = drop_slot(source, slot).await {
            left.push(format!(
                "slot {slot}: {}; run as a role with REPLICATION: SELECT pg_drop_replication_slot({});",
                describe(&error),
                quote_literal(slot)
            ));
        }
    }
    for (tenant, target_id) in &plan.targets {
        let Some(tenant) = config.tenants.iter().find(|known| known.id == *tenant) else { continue };
        if let Err(why) = release_target(tenant, target_id).await {
            left.push(format!(
                "the claim to the target of tenant {id}: {why}; or remove the tenant from the configuration: a later \
                 installation then needs `users-sync adopt -c FILE {id}`",
                id = tenant.id
            ));
        }
    }
    let mut has_failed = false;
    for removal in &plan.removals {
        // The later ones would harm the store while the publication is there.
        let why = match has_failed {
            true => "not tried".to_owned(),
            false => match remove(source, removal).await {
                Ok(()) => continue,
                Err(error) => describe(&error),
            },
        };
        has_failed = true;
        let owner = removal.owner.as_ref().map_or_else(String::new, |owner| format!("role {owner} or "));
        left.push(format!("{}: {why}; run as {owner}a superuser: {};", removal.what, removal.sql));
    }
    if plan.has_state && left.is_empty() {
        if let Err(error) = StateStore::forget(state, &config.source.slot).await {
            left.push(format!(
                "the state: {error}; run as the owner of schema users_sync: DROP SCHEMA users_sync CASCADE;"
            ));
        }
    } else if plan.has_state {
        left.push("the state, which the next attempt needs".to_owned());
    }
    left
}
