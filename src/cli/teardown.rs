//! `teardown`: removes what `setup` and `run` made at the source and in the state. Targets keep their users.

use super::admins::{AdminUrls, Admins};
use super::common::{ConfigFile, cannot_connect_source, connect_state};
use super::confirm::confirm;
use super::output::{self, Format};
use super::setup::record;
use super::tenants::refuse_living;
use crate::cli::exit::ExitCode;
use crate::config::{Config, WithRows};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{Made, SourceTrouble};
use crate::operations::retire_role::{MadeRole, Site, made_roles};
use crate::operations::teardown::{Plan, PlanError, drop_slot, plan, release_target, remove};
use crate::pg::{self, PgClient, PgUrl, describe, quote_literal};
use crate::state::StateStore;
use clap::Args;
use serde::Serialize;
use tokio_postgres::types::{ToSql, Type};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Print what would be removed and what stays, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Skip the confirmation.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    admins: Admins,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Serialize)]
struct Document<'a> {
    drops: &'a [String],
    /// What stays because others use it, or because it is in Kafka.
    stays: &'a [String],
    is_dropped: bool,
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let WithRows { config, faults } = file.load_rows().await?;
    if let Some(fault) = faults.first() {
        let help = "correct the rows of the table of tenants first: the claim to an unknown target cannot be given up";
        return Err(diagnostic!(help = help, "{fault}").with_code(SourceTrouble::TenantUnusable));
    }
    let admins = arguments.admins.read(&config)?;
    let source = pg::connect(admins.source.as_ref().unwrap_or(&config.source.url))
        .await
        .map_err(|error| cannot_connect_source(&error))?;
    let state = match connect_state(&config).await {
        Ok(state) => state,
        Err(error) => {
            let is_gone = is_removed(&config, &source, admins.state.as_ref()).await;
            if is_gone.map_err(|error| diagnostic!("cannot look for what is left: {error}"))? {
                output::result(NOTHING, &Document { drops: &[], stays: &[], is_dropped: true })?;
                return Ok(ExitCode::SUCCESS);
            }
            return Err(error);
        }
    };
    let found = plan(&config, &source, &state).await.map_err(|error| match error {
        PlanError::InUse { .. } => diagnostic!(
            help = "stop every `run` with this configuration first; to end a dead connection: \
                    SELECT pg_terminate_backend(pid)",
            "{error}"
        ),
        error => diagnostic!("{error}"),
    })?;
    let sites = sites(&config, &admins);
    let (roles, without_admin): (Vec<_>, Vec<_>) =
        made_roles(&found.made, &sites).into_iter().partition(|role| role.lacks_admin().is_none());
    let stays = stays(&config, &found, &without_admin);
    stays.iter().for_each(|what| output::line(format_args!("stays: {what}")));
    let drops = list(&config, &found, &roles);
    let report = |text: &str, is_dropped| output::result(text, &Document { drops: &drops, stays: &stays, is_dropped });
    if found.is_empty() && roles.is_empty() {
        report(NOTHING, true)?;
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format_args!(
        "This drops\n{}Targets keep their users; a later `run` starts over with a snapshot of every tenant.",
        drops.iter().map(|line| format!("  {line}\n")).collect::<String>()
    ));
    if arguments.dry_run {
        report("nothing was dropped", false)?;
        return Ok(ExitCode::SUCCESS);
    }
    refuse_living(&state, &config).await?;
    if !arguments.yes && !confirm("Drop them?")? {
        report("nothing was dropped", false)?;
        return Ok(ExitCode::SUCCESS);
    }
    let recorded: Vec<Made> = roles.iter().chain(&without_admin).flat_map(|role| role.records.clone()).collect();
    let left = drop_all(&config, &found, &recorded, &source, &state).await;
    // Their own sessions would keep the roles in use.
    source.close().await;
    state.close().await;
    if left.is_empty() {
        let failures = retire(&config, roles, &without_admin).await;
        failures.iter().for_each(|what| output::line(format_args!("stays: {what}")));
        report("done", true)?;
        return Ok(ExitCode::SUCCESS);
    }
    Err(diagnostic!(
        help = "fix that, or pass --source-admin URL, then run `teardown` again: it drops the rest",
        "these are left:\n  {}",
        left.join("\n  ")
    ))
}

const NOTHING: &str = "nothing to drop: slot, publication and state do not exist";

/// Whether an earlier `teardown` has dropped the state's role, as the last thing of all.
async fn is_removed(config: &Config, source: &PgClient, admin: Option<&PgUrl>) -> Result<bool, String> {
    const LEFT: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1::text::name) \
                        OR EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $2::text::name)";
    const ROLE: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1::text::name)";
    let Some(admin) = admin else { return Ok(false) };
    let failed = |error: tokio_postgres::Error| describe(&error);
    let client = pg::connect(admin).await.map_err(|error| error.to_string())?;
    let role = client.query_typed_one(ROLE, &[(&config.state_url.user, Type::TEXT)]).await.map_err(failed)?;
    let names = [(&config.source.slot as &(dyn ToSql + Sync), Type::TEXT), (&config.source.publication, Type::TEXT)];
    let left = source.query_typed_one(LEFT, &names).await.map_err(failed)?;
    let (has_role, is_left): (bool, bool) = (role.try_get(0).map_err(failed)?, left.try_get(0).map_err(failed)?);
    Ok(!has_role && !is_left)
}

/// The databases of the configuration.
fn sites(config: &Config, admins: &AdminUrls) -> Vec<Site> {
    let site = |place: String, url: &PgUrl, admin: Option<&PgUrl>, option: String| Site {
        place,
        url: url.clone(),
        admin: admin.cloned(),
        option,
    };
    let mut sites =
        vec![site("source".to_owned(), &config.source.url, admins.source.as_ref(), "--source-admin URL".to_owned())];
    if config.state_url != config.source.url {
        sites.push(site("state".to_owned(), &config.state_url, admins.state.as_ref(), "--state-admin URL".to_owned()));
    }
    sites.extend(config.tenants.iter().map(|tenant| {
        let (id, admin) = (&tenant.id, admins.targets.get(&tenant.id));
        site(format!("target {id}"), &tenant.target, admin, format!("--target-admin {id}=URL"))
    }));
    sites
}

/// What stays: what others use, what no given administrator may drop, and what is in Kafka.
fn stays(config: &Config, plan: &Plan, without_admin: &[MadeRole<'_>]) -> Vec<String> {
    let roles = without_admin.iter().map(|role| {
        let option = role.lacks_admin().unwrap_or_default();
        format!("{}: no administrator was given: {option}", role.describe())
    });
    let topics = config.kafka.as_ref().map(|kafka| {
        format!(
            "topics and positions in Kafka ({}): a later installation needs other names, or to take them over: \
             users-sync adopt -c FILE --kafka",
            [&*kafka.topic].into_iter().chain(kafka.own_topics()).collect::<Vec<_>>().join(", ")
        )
    });
    roles.chain(plan.kept.iter().cloned()).chain(topics).collect()
}

fn list(config: &Config, plan: &Plan, roles: &[MadeRole<'_>]) -> Vec<String> {
    let Config { source, state_url, .. } = config;
    let slots = plan.slots.iter().map(|slot| format!("replication slot {slot} of {}", source.url));
    let removals = plan.removals.iter().map(|removal| removal.what.clone());
    let targets = plan.targets.iter().map(|(tenant, _)| format!("the claim to the target of tenant {tenant}"));
    let state =
        plan.has_state.then(|| format!("the state of slot {} in schema users_sync of {state_url}", source.slot));
    let roles = roles.iter().map(|role| format!("{}, unless anything else uses it", role.describe()));
    slots.chain(targets).chain(removals).chain(state).chain(roles).collect()
}

/// Drops the slots first: they retain WAL at the source. The state is dropped last, and only if nothing is left: it has
/// what another attempt needs. Returns what is left, each with the statement that removes it.
async fn drop_all(
    config: &Config,
    plan: &Plan,
    recorded_roles: &[Made],
    source: &PgClient,
    state: &PgClient,
) -> Vec<String> {
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
        if let Err(error) = StateStore::forget(state, &config.source.slot, recorded_roles).await {
            left.push(format!(
                "the state: {error}; run as the owner of schema users_sync: DROP SCHEMA users_sync CASCADE;"
            ));
        }
    } else if plan.has_state {
        left.push("the state, which the next attempt needs".to_owned());
    }
    left
}

/// Drops the roles, that of the state last: its tables record the others until these are gone. A role that stays remains
/// recorded, so that another `teardown` can drop it. Returns what stays in addition to `without_admin`, with the reason.
async fn retire(config: &Config, roles: Vec<MadeRole<'_>>, without_admin: &[MadeRole<'_>]) -> Vec<String> {
    let mut failures = Vec::new();
    if roles.is_empty() {
        return failures;
    }
    let mut recorded: Vec<Made> = without_admin.iter().flat_map(|role| role.records.clone()).collect();
    let (of_state, others): (Vec<_>, Vec<_>) = roles.into_iter().partition(|role| role.is_of(&config.state_url));
    for role in others {
        if let Err(why) = role.retire().await {
            failures.push(format!("{}: {why}", role.describe()));
            recorded.extend(role.records);
        }
    }
    let is_last = recorded.is_empty();
    if !is_last {
        recorded.extend(of_state.iter().flat_map(|role| role.records.clone()));
    }
    if let Err(why) = forget_roles(config, &recorded).await {
        failures.push(format!("the record of the roles: {why}"));
        return failures;
    }
    for role in of_state {
        if !is_last {
            failures.push(format!("{}: it owns the record of the other roles that stay", role.describe()));
        } else if let Err(why) = role.retire().await {
            failures.push(format!("{}: {why}", role.describe()));
            if let Err(why) = record(config, &role.records).await {
                failures.push(format!("the record of this role could not be written again: {why}"));
            }
        }
    }
    failures
}

async fn forget_roles(config: &Config, stays: &[Made]) -> Result<(), String> {
    let state = pg::connect_state(&config.state_url).await.map_err(|error| error.to_string())?;
    let forgotten = StateStore::forget(&state, &config.source.slot, stays).await;
    state.close().await;
    forgotten.map_err(|error| error.to_string())
}
