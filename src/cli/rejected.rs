//! `rejected`: lists the users that targets reject, and has the running process try them again.

use super::common::{ConfigFile, FAILED, NOTHING_REPLICATES, connect_state};
use super::output::{self, Format};
use super::table::columns;
use super::tenants::{not_started, read, refuse_paused, select_tenants, unreadable};
use crate::cli::exit::ExitCode;
use crate::config::{Config, Tenant};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{StatusFinding, TenantId};
use crate::operations::rejected::{RejectedUser, rejected};
use crate::operations::request::{RequestEnd, request};
use crate::pg::{SqlStateClass, connect_target};
use crate::state::RequestKind;
use clap::Args;
use serde::Serialize;

/// Users that are read in one statement.
const PAGE: usize = 1_000;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// The tenants. Default: all of the configuration.
    #[arg(value_name = "TENANT")]
    tenants: Vec<String>,
    /// Have the running process try them again now, and list those that are left.
    #[arg(long)]
    retry: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

/// What a target rejects.
#[derive(Serialize)]
struct TenantRejects {
    tenant: String,
    total: u64,
    users: Vec<RejectedUser>,
    /// Why the target cannot be read.
    error: Option<String>,
}

#[derive(Serialize)]
struct Document {
    tenants: Vec<TenantRejects>,
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load().await?;
    let tenants = select_tenants(&config, &arguments.tenants)?;
    if arguments.retry
        && let Some(code) = retry(&config, &tenants).await?
    {
        return Ok(code);
    }
    let mut found = Vec::new();
    for tenant in config.tenants.iter().filter(|tenant| tenants.contains(&tenant.id)) {
        found.push(read_all(tenant).await);
    }
    let is_well = found.iter().all(|tenant| tenant.total == 0 && tenant.error.is_none());
    output::result(text(&found), &Document { tenants: found })?;
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Has the running process try the rejected users again. An exit code if it does not.
async fn retry(config: &Config, tenants: &[TenantId]) -> Result<Option<ExitCode>, Diagnostic> {
    let client = connect_state(config).await?;
    let state = read(&client, config).await?;
    refuse_paused(&state, tenants)?;
    let Some(source) = state.source else { return Err(not_started(config)) };
    let not_running = || {
        let why = diagnostic!("no process is running: start users-sync run, which tries them again");
        output::failure(&why.with_code(StatusFinding::NotRunning));
        Ok(Some(ExitCode::from(NOTHING_REPLICATES)))
    };
    if !source.is_held() {
        return not_running();
    }
    output::notice(format_args!("asking {} ...", source.holder));
    let rejecting = tenants.iter().filter(|tenant| state.tenants.get(*tenant).is_some_and(|row| row.rejected > 0));
    let names: Vec<&str> = rejecting.map(TenantId::as_str).collect();
    let served = request(&client, &config.source.slot, &names, &RequestKind::RetryRejected).await;
    match served.map_err(unreadable)? {
        RequestEnd::Served => Ok(None),
        RequestEnd::Abandoned => not_running(),
    }
}

async fn read_all(tenant: &Tenant) -> TenantRejects {
    let mut found = TenantRejects { tenant: tenant.id.to_string(), total: 0, users: Vec::new(), error: None };
    let client = match connect_target(&tenant.target).await {
        Ok(client) => client,
        Err(error) => {
            found.error = Some(format!("cannot connect to the target: {error}"));
            return found;
        }
    };
    let mut cursor = None;
    loop {
        match rejected(&client, cursor.as_ref(), PAGE).await {
            Ok(page) => {
                found.total = page.total;
                found.users.extend(page.users);
                cursor = page.next;
            }
            Err(error) => {
                let code = SqlStateClass::of_error(&error);
                // A tenant that has never joined has none.
                if !matches!(code, Some(SqlStateClass::MissingTable | SqlStateClass::MissingSchema)) {
                    found.error = Some(format!("cannot read users_sync.rejected: {}", client.describe(&error)));
                }
                return found;
            }
        }
        if cursor.is_none() {
            return found;
        }
    }
}

fn text(found: &[TenantRejects]) -> String {
    let heads = ["TENANT", "ID", "SQLSTATE", "REASON", "SINCE", "TRIED AT"].map(str::to_owned);
    let rows = found.iter().flat_map(|tenant| {
        tenant.users.iter().map(|user| {
            let RejectedUser { id, reason, sqlstate, since, tried_at } = user.clone();
            [tenant.tenant.clone(), id, sqlstate, reason, since, tried_at]
        })
    });
    let rows: Vec<[String; 6]> = std::iter::once(heads).chain(rows).collect();
    let mut text = if rows.len() > 1 { columns(&rows) + "\n" } else { String::new() };
    for TenantRejects { tenant, total, error, .. } in found {
        text += &match error {
            Some(error) => format!("{tenant}: {error}\n"),
            None if *total == 0 => format!("{tenant}: rejects no user\n"),
            None => format!("{tenant}: rejects {total} of its users\n"),
        };
    }
    text
}
