//! `forget`: permanently deletes a removed tenant's users from its target, and its recorded state.

use super::common::{ConfigFile, FAILED, admin_url, connect_state};
use super::confirm::confirm;
use super::output::{self, Format};
use crate::apply::{DROP_WAIT_FOR, read_checkpoint, statement};
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::TenantId;
use crate::pg::{self, TargetClient, describe};
use crate::state::{Snapshot, StateStore, TenantRow, TenantState};
use clap::Args;
use serde::Serialize;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Tenant to forget. It must have been removed from the configuration.
    #[arg(value_name = "TENANT")]
    tenant: String,
    /// URL of its database, as it was in the configuration. Take the password from the environment: ${NAME}.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// Skip the confirmation.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Serialize)]
struct Document<'a> {
    tenant: &'a str,
    deleted_users: u64,
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load_known().await?;
    let tenant = TenantId::new(&arguments.tenant);
    let state = connect_state(&config).await?;
    let known = StateStore::read(&state, &config.source.slot)
        .await
        .map_err(|error| diagnostic!("cannot read the state: {error}"))?;
    let row = unused_row(&config, &known, &tenant)?;
    let target = match &arguments.target {
        Some(text) => admin_url(text, "--target", None)?,
        None => {
            return Err(diagnostic!(
                help = "pass --target URL: the tenant's URL and password are no longer in the configuration",
                "the target of tenant {tenant} was {}",
                row.target
            ));
        }
    };
    if target.to_string() != row.target {
        return Err(diagnostic!("the target of tenant {tenant} is {}, not {target}", row.target));
    }
    let client =
        pg::connect_target(&target).await.map_err(|error| diagnostic!("cannot connect to the target: {error}"))?;
    let checkpoint = read_checkpoint(&client).await.map_err(|error| failed(&error))?;
    if checkpoint.is_none_or(|found| found.tenant != tenant || Some(&found.target_id) != row.target_id.as_ref()) {
        return Err(diagnostic!(
            help = "see users_sync.checkpoint in that database",
            "{target} is not (or no longer) the target of tenant {tenant}: nothing was deleted"
        ));
    }
    output::line(format_args!(
        "This deletes every row of neon_auth.users_sync in {target} and the recorded state of tenant {tenant}."
    ));
    if !arguments.yes && !confirm("Delete them?")? {
        output::outcome("nothing was deleted", false)?;
        return Ok(ExitCode::from(FAILED));
    }
    let deleted = wipe(client).await.map_err(|error| failed(&error))?;
    StateStore::forget_tenant(&state, &config.source.slot, &tenant)
        .await
        .map_err(|error| diagnostic!("the users were deleted, but the state cannot be updated: {error}"))?;
    let document = Document { tenant: tenant.as_str(), deleted_users: deleted };
    output::result(format_args!("{deleted} users deleted; tenant {tenant} is forgotten"), &document)?;
    Ok(ExitCode::SUCCESS)
}

/// The tenant's row in the state. An error if the tenant is still in use.
fn unused_row<'a>(config: &Config, known: &'a Snapshot, tenant: &TenantId) -> Result<&'a TenantRow, Diagnostic> {
    if config.tenants.iter().any(|known| known.id == *tenant) {
        return Err(diagnostic!(
            help = "remove it first; a running process notices the change automatically",
            "tenant {tenant} is still in the configuration"
        ));
    }
    let Some(row) = known.tenants.get(tenant) else {
        return Err(diagnostic!("unknown tenant {tenant}: the state has no record of it"));
    };
    let is_held = known.source.as_ref().is_some_and(|source| source.is_held());
    if is_held && row.state != TenantState::Parked {
        return Err(diagnostic!(
            help = "it reloads its files when they change; if it rejected the change, its log says why",
            "a running process still replicates tenant {tenant} ({})",
            row.state.as_str()
        ));
    }
    Ok(row)
}

/// Deletes all users and our tables in one transaction. Fails if the application still references a user.
async fn wipe(mut client: TargetClient) -> Result<u64, tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let deleted = transaction.execute_typed("DELETE FROM neon_auth.users_sync", &[]).await?;
    transaction.batch_execute(&format!("{}; {DROP_WAIT_FOR}", statement::DROP_OWN_TABLES)).await?;
    transaction.commit().await?;
    Ok(deleted)
}

fn failed(error: &tokio_postgres::Error) -> Diagnostic {
    diagnostic!(
        help = "first delete the application's rows that reference users, or clear their references",
        "nothing was deleted: {}",
        describe(error)
    )
}
