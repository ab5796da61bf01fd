//! What commands on tenants share: which tenants are meant, and what the state says of them.

use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{TenantId, shell_word};
use crate::operations::living::living_process;
use crate::pg::PgClient;
use crate::state::{Snapshot, StateError, StateStore};

/// The named tenants, or all tenants if no name is given.
///
/// # Errors
/// The configuration has no tenant of a name.
pub(super) fn select_tenants(config: &Config, names: &[String]) -> Result<Vec<TenantId>, Diagnostic> {
    let known: Vec<&TenantId> = config.tenants.iter().map(|tenant| &tenant.id).collect();
    if names.is_empty() {
        return Ok(known.into_iter().cloned().collect());
    }
    let find = |name: &String| {
        known.iter().find(|id| id.as_str() == name).map(|id| (*id).clone()).ok_or_else(|| {
            let similarity = |id: &TenantId| strsim::jaro_winkler(id.as_str(), name);
            let nearest = known.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
            let help = nearest.map_or_else(String::new, |id| format!("did you mean {id}?"));
            diagnostic!(help = help, "the configuration has no tenant {name}")
        })
    };
    names.iter().map(find).collect()
}

/// No process has written the state yet.
pub(super) fn not_started(config: &Config) -> Diagnostic {
    diagnostic!(
        help = "the first `run` takes a snapshot of every tenant automatically",
        "`run` has not started with slot {} in {} yet",
        config.source.slot,
        config.state_url
    )
}

/// A paused tenant takes no snapshot, so a request would wait until it is resumed.
pub(super) fn refuse_paused(state: &Snapshot, tenants: &[TenantId]) -> Result<(), Diagnostic> {
    let paused = tenants.iter().find_map(|tenant| Some((tenant, state.pauses.get(tenant)?)));
    paused.map_or(Ok(()), |(tenant, pause)| {
        let help = format!("users-sync resume {}", shell_word(tenant.as_str()));
        Err(diagnostic!(help = help, "tenant {tenant} is paused ({}): {}", pause.by, pause.reason))
    })
}

/// A process without a session, a standby for example, may begin one at any moment: nothing is done beside it.
pub(super) async fn refuse_living(state: &PgClient, config: &Config) -> Result<(), Diagnostic> {
    match living_process(state, &config.source.slot).await.map_err(unreadable)? {
        None => Ok(()),
        Some(process) => Err(diagnostic!(
            help =
                "stop every `run` with this configuration first; users-sync status -c FILE says whether it replicates",
            "{process} runs with slot {}",
            config.source.slot
        )),
    }
}

pub(super) async fn read(client: &PgClient, config: &Config) -> Result<Snapshot, Diagnostic> {
    StateStore::read(client, &config.source.slot).await.map_err(unreadable)
}

pub(super) fn unreadable(error: StateError) -> Diagnostic {
    diagnostic!("cannot read the state: {error}")
}
