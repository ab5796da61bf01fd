//! `teardown`: takes down what `run` made in the source and the state. Targets keep their users.

use super::common::ConfigFile;
use super::confirm::confirm;
use crate::capture::CaptureError;
use crate::capture::publication::{drop_publication, read_publication};
use crate::capture::slot::read_slot;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::pg::{self, PgClient, describe};
use crate::state::StateStore;
use clap::Args;
use std::process::ExitCode;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Skip the confirmation.
    #[arg(long)]
    yes: bool,
}

/// What is there to be dropped.
#[derive(Debug, PartialEq, Eq)]
struct TargetAssessment {
    /// The slots of targets and tee that are there.
    slots: Vec<String>,
    publication: bool,
    state: bool,
}

pub(super) async fn execute(arguments: &Arguments) -> Result<ExitCode, Diagnostic> {
    let config = arguments.file.load()?;
    let source =
        pg::connect(&config.source.url).await.map_err(|error| diagnostic!("cannot connect to the source: {error}"))?;
    let state =
        pg::connect(&config.state_url).await.map_err(|error| diagnostic!("cannot connect to the state: {error}"))?;
    let standing = look(&config, &source, &state).await?;
    let list = list(&config, &standing);
    if list.is_empty() {
        println!("nothing to drop: slot, publication and state do not exist");
        return Ok(ExitCode::SUCCESS);
    }
    println!("This drops\n{list}Targets keep their users; a later `run` starts over with a snapshot of every tenant.");
    if !arguments.yes && !confirm("Drop them?")? {
        println!("nothing was dropped");
        return Ok(ExitCode::SUCCESS);
    }
    drop_all(&config, &standing, &source, &state).await?;
    println!("done");
    Ok(ExitCode::SUCCESS)
}

async fn look(config: &Config, source: &Client, state: &Client) -> Result<TargetAssessment, Diagnostic> {
    let name = &config.source.slot;
    let failed = |what: &'static str| move |error: CaptureError| diagnostic!("cannot read {what}: {error}");
    let known = StateStore::read(state, name).await.map_err(|error| diagnostic!("cannot read the state: {error}"))?;
    let mut slots = vec![name.clone()];
    slots.extend(known.tee.map(|tee| tee.slot));
    slots.extend(config.kafka.as_ref().map(|kafka| kafka.slot.clone()).filter(|slot| !slots.contains(slot)));
    let mut there = Vec::new();
    for name in slots {
        let Some(slot) = read_slot(source, &name).await.map_err(failed("the slot"))? else { continue };
        if let Some(pid) = slot.active_pid {
            return Err(diagnostic!(
                help = "stop every `run` with this configuration first; to end a dead connection: \
                        SELECT pg_terminate_backend(pid)",
                "slot {name} is in use by process {pid} of the server"
            ));
        }
        there.push(name);
    }
    let publication = read_publication(source, &config.source.publication).await.map_err(failed("the publication"))?;
    let holds = holds_state(state, name).await.map_err(|error| failed("the state")(error.into()))?;
    Ok(TargetAssessment { slots: there, publication: publication.is_some(), state: holds })
}

/// Whether the tables are there. Not by regclass: that fails where the schema may not be used.
async fn holds_state(state: &Client, _slot: &str) -> Result<bool, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname = 'users_sync' AND c.relname = 'source' AND c.relkind = 'r')";
    state.query_typed_one(SQL, &[]).await?.try_get(0)
}

fn list(config: &Config, standing: &TargetAssessment) -> String {
    let Config { source, state_url, .. } = config;
    let lines = [
        (standing.publication, format!("  publication {} of {}\n", source.publication, source.url)),
        (standing.state, format!("  the state of slot {} in schema users_sync of {state_url}\n", source.slot)),
    ];
    let slots = standing.slots.iter().map(|slot| format!("  replication slot {slot} of {}\n", source.url));
    slots.chain(lines.into_iter().filter(|(there, _)| *there).map(|(_, line)| line)).collect()
}

/// The slot first: it is what holds back the source's log, and without it nothing else is of use to a `run`.
async fn drop_all(
    config: &Config,
    standing: &TargetAssessment,
    source: &PgClient,
    state: &PgClient,
) -> Result<(), Diagnostic> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        diagnostic!(help = "run `teardown` again to drop the rest", "cannot drop {what}: {error}")
    };
    for slot in &standing.slots {
        // A slot that has gone in the meantime is no error.
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $1::text::name";
        let dropped = source.query_typed(sql, &[(slot, Type::TEXT)]).await;
        dropped.map_err(|error| failed("the slot", &describe(&error)))?;
    }
    if standing.publication {
        let dropped = drop_publication(source, &config.source.publication).await;
        dropped.map_err(|error| failed("the publication", &error))?;
    }
    if standing.state {
        let dropped = StateStore::forget(state, &config.source.slot).await;
        dropped.map_err(|error| failed("the state", &error))?;
    }
    Ok(())
}
