//! `resync TENANT --user ID`: brings one user again, through the process that replicates.

use super::common::{FAILED, NOTHING_REPLICATES, connect_state};
use super::output;
use super::tenants::{not_started, read, refuse_paused, unreadable};
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{StatusFinding, TenantId, shell_word};
use crate::operations::bring::{AtSource, AtTarget, at_target, look_up};
use crate::operations::request::{RequestEnd, request};
use crate::state::{RequestKind, TenantState};
use tokio_util::sync::CancellationToken;

pub(super) async fn execute(
    config: &Config,
    tenants: &[TenantId],
    user: &str,
    stop: CancellationToken,
) -> Result<ExitCode, Diagnostic> {
    let [id] = tenants else {
        return Err(diagnostic!(
            help = "name one tenant",
            "--user brings a user of one tenant, not of {}",
            tenants.len()
        ));
    };
    let Some(tenant) = config.tenants.iter().find(|tenant| tenant.id == *id) else { return Err(not_started(config)) };
    let client = connect_state(config).await?;
    let state = read(&client, config).await?;
    refuse_paused(&state, tenants)?;
    let Some(source) = state.source else { return Err(not_started(config)) };
    if !source.is_held() {
        let why = diagnostic!("no process is running: start users-sync run, which applies every change that waits");
        output::failure(&why.with_code(StatusFinding::NotRunning));
        return Ok(ExitCode::from(NOTHING_REPLICATES));
    }
    // An id that cannot be read is refused here, and not only by the running process.
    let at_source = look_up(config, tenant.key.as_str(), user)
        .await
        .map_err(|error| diagnostic!("cannot read user {user} from the source: {error}"))?;
    output::line(format_args!("asking {} ...", source.holder));
    let kind = RequestKind::User(user.to_owned());
    let names = [id.as_str()];
    let served = tokio::select! {
        served = request(&client, &config.source.slot, &names, &kind) => served.map_err(unreadable)?,
        () = stop.cancelled() => {
            output::outcome("the running process continues it", false)?;
            return Ok(ExitCode::from(FAILED));
        }
    };
    if served == RequestEnd::Abandoned {
        output::outcome("the process ended before it was done", false)?;
        return Ok(ExitCode::from(NOTHING_REPLICATES));
    }
    let row = read(&client, config).await?.tenants.remove(id);
    if let Some(row) = row.filter(|row| row.state != TenantState::Following) {
        let reason = row.reason.unwrap_or_default();
        output::outcome(format_args!("{id}: {} ({reason}); user {user} was not brought", row.state.as_str()), false)?;
        return Ok(ExitCode::from(FAILED));
    }
    let found = at_target(&tenant.target, user).await.map_err(|error| diagnostic!("{error}"))?;
    let (text, is_done) = match (at_source, found) {
        (_, AtTarget::Rejected(reason)) => {
            let word = shell_word(id.as_str());
            (format!("its target rejects user {user}: {reason} (users-sync rejected {word})"), false)
        }
        (_, AtTarget::Live) => (format!("user {user} is as the source has it"), true),
        (_, AtTarget::Deleted) => (format!("the source has no user {user}: marked as deleted"), true),
        (AtSource::Absent, AtTarget::Absent) => (format!("neither the source nor the target has a user {user}"), false),
        (AtSource::Found, AtTarget::Absent) => (format!("user {user} is not in the target yet"), false),
    };
    output::outcome(format_args!("{id}: {text}"), is_done)?;
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}
