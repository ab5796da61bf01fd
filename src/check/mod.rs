//! Checks that `run` has everything it needs. Facts are gathered (`*_facts`, I/O), then assessed (`source`, `state`,
//! `target`: pure). It changes nothing, and reports all findings at once, each with its remedy.

mod columns;
mod deadline;
mod finding;
mod identifiers;
#[cfg(feature = "kafka")]
mod kafka;
mod local;
mod recorded;
mod roles;
mod server;
mod server_facts;
mod source;
mod source_facts;
mod state;
mod state_facts;
mod stores;
mod target;
mod target_facts;
mod tenant_keys;
mod urls;

pub(crate) use columns::columns;
pub(crate) use finding::{Finding, Severity, Subject};
pub(crate) use local::LISTEN_REMEDY;
pub(crate) use state_facts::read_state;

use crate::capture::CaptureError;
use crate::config::{Config, RowFault, Tenant};
use crate::model::{CheckFinding, Code, RetryCause, SourceTrouble};
use crate::pg;
use crate::snapshot::resolve_family;
use crate::state::{Snapshot, TenantState};
use deadline::{LOOKUP_TIMEOUT, within};
use finding::{connect_finding, plain_text};
use futures_util::StreamExt;
use roles::{Servers, read_instance};

/// Number of targets that are checked concurrently: a thousand take seconds, and any machine can open as many connections.
const CONCURRENT_TARGETS: usize = 64;

/// Checks the source, the state, every target and Kafka. `run` can start if no finding is a [`Severity::Error`]. `unusable` are the
/// rows of the table of tenants that are no tenant of the configuration.
pub(crate) async fn check(config: &Config, unusable: &[RowFault]) -> Vec<Finding> {
    let state = read_state(config).await;
    let mut findings = match check_source(config, state.as_ref()).await {
        Ok(findings) => findings,
        Err(error) => {
            let mut findings = vec![source_finding(config, &error)];
            // A state in the same database is unreachable for the same reason.
            if config.state_url != config.source.url {
                findings.extend(check_state(config).await);
            }
            findings
        }
    };
    if !config.tenants.is_empty()
        && let Some(Some(counted)) = within(tenant_keys::gather(config)).await
    {
        findings.extend(tenant_keys::findings(config, &counted));
    }
    findings.extend(within(stores::look(config)).await.flatten());
    findings.extend(urls::findings(config));
    findings.extend(unusable.iter().map(|row| {
        let (code, remedy) = (SourceTrouble::TenantUnusable, "correct the row in the table of tenants");
        Finding::warning(Subject::TenantTable, code, row.to_string(), remedy)
    }));
    findings.extend(local::memory(config));
    let is_running = state.as_ref().and_then(|state| state.source.as_ref()).is_some_and(|source| source.is_held());
    if !is_running {
        findings.extend(local::listen(config));
    }
    let mut targets = futures_util::stream::iter(&config.tenants)
        .map(|tenant| check_target(tenant, config.deletes_rows(), state.as_ref()))
        .buffered(CONCURRENT_TARGETS);
    let mut servers = Servers::default();
    servers.read_own(config).await;
    for tenant in &config.tenants {
        let Some((of_target, instance)) = targets.next().await else { break };
        findings.extend(of_target);
        servers.add(&tenant.target, instance);
    }
    findings.extend(servers.findings(config));
    findings.extend(servers.same_databases(config));
    #[cfg(feature = "kafka")]
    if let Some(settings) = &config.kafka {
        findings.extend(kafka::findings(config, settings, state.as_ref()).await);
    }
    if let Some(state) = state.as_ref().filter(|_| is_running) {
        let reported = recorded::findings(config, state, &findings);
        findings.extend(reported);
    }
    findings
}

/// Checks the source and the state, which `run` needs before it does anything. `state`: what is recorded, if it can be read.
///
/// # Errors
/// The source is unreachable, or the connection broke.
pub(crate) async fn check_source(config: &Config, state: Option<&Snapshot>) -> Result<Vec<Finding>, CaptureError> {
    let client = pg::connect(&config.source.url).await?;
    let config = &match &config.families[..] {
        [] => config.clone(),
        families => match resolve_family(&client, families).await? {
            Some(family) => Config { users: family.rules, ..config.clone() },
            None => return Ok(vec![source::no_family(families)]),
        },
    };
    let mut findings = Vec::from_iter(plain_text(Subject::Source, &config.source.url, client.is_readable_on_the_way()));
    findings.extend(server::findings(config, &server_facts::gather(&client, config).await?));
    match within(source_facts::gather(&client, config, state)).await.transpose()? {
        None => findings.push(too_slow(Subject::Source)),
        Some(facts) => {
            findings.extend(source::findings(config, &facts));
            for table in &config.users.tables()[1..] {
                let watched = source_facts::gather_watched(&client, config, table, &facts);
                findings.extend(match within(watched).await.transpose()? {
                    None => vec![too_slow(Subject::Source)],
                    Some(facts) => source::findings_of_watched(config, table, &facts),
                });
            }
        }
    }
    client.close().await;
    findings.extend(check_state(config).await);
    findings.extend(local::spool(config));
    Ok(findings)
}

/// The finding for a source that cannot be inspected.
pub(crate) fn source_finding(config: &Config, error: &CaptureError) -> Finding {
    match error {
        CaptureError::Connect(error) => connect_finding(Subject::Source, &config.source.url, error, false),
        error => Finding::error(Subject::Source, CheckFinding::NotInspected, error.to_string(), "run `check` again"),
    }
}

async fn check_state(config: &Config) -> Vec<Finding> {
    let client = match pg::connect_state(&config.state_url).await {
        Ok(client) => client,
        Err(error) => return vec![connect_finding(Subject::State, &config.state_url, &error, false)],
    };
    let mut findings = match within(state_facts::gather(&client)).await {
        Some(Ok(facts)) => state::findings(&facts),
        Some(Err(error)) => vec![unreadable(Subject::State, &error)],
        None => vec![too_slow(Subject::State)],
    };
    if config.state_url != config.source.url {
        findings.extend(plain_text(Subject::State, &config.state_url, client.is_readable_on_the_way()));
    }
    findings
}

/// The findings about a target, and which server it is on.
async fn check_target(
    tenant: &Tenant,
    deletes_rows: bool,
    state: Option<&crate::state::Snapshot>,
) -> (Vec<Finding>, Option<String>) {
    let subject = || Subject::Tenant(tenant.id.clone());
    let client = match pg::connect_target(&tenant.target).await {
        Ok(client) => client,
        Err(error) => {
            let row = state.and_then(|state| state.tenants.get(&tenant.id));
            let followed = row.is_some_and(|row| row.state == TenantState::Following);
            return (vec![connect_finding(subject(), &tenant.target, &error, followed)], None);
        }
    };
    let mut findings = match within(target_facts::gather(&client)).await {
        Some(Ok(facts)) => target::findings(tenant, deletes_rows, &facts, state),
        Some(Err(error)) => vec![unreadable(subject(), &error)],
        // The next lookup would wait behind this one.
        None => return (vec![too_slow(subject())], None),
    };
    findings.extend(plain_text(subject(), &tenant.target, client.is_readable_on_the_way()));
    (findings, within(read_instance(&client)).await.flatten())
}

fn unreadable(subject: Subject, error: &tokio_postgres::Error) -> Finding {
    Finding::error(
        subject,
        CheckFinding::NotInspected,
        format!("the database cannot be inspected: {}", pg::describe(error)),
        "fix that, then run `check` again",
    )
}

fn too_slow(subject: Subject) -> Finding {
    let message = format!("no answer within {} s", LOOKUP_TIMEOUT.as_secs());
    let remedy = "SELECT pid, query FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0; lists the sessions that wait for a lock";
    let code: Code = match &subject {
        Subject::Tenant(_) => RetryCause::NoAnswer.into(),
        _ => CheckFinding::NoAnswer.into(),
    };
    Finding { can_pass: true, ..Finding::error(subject, code, message, remedy) }
}
