//! `teardown`: drops what `run` created in the source and the state. Targets keep their users.

use super::common::ConfigFile;
use super::confirm::confirm;
use super::output;
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
    /// Skip the confirmation.
    #[arg(long)]
    yes: bool,
}

/// The objects to drop.
struct Droppable {
    /// Existing slots, of replication and of the tee.
    slots: Vec<String>,
    publication: bool,
    state: bool,
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load()?;
    let source =
        pg::connect(&config.source.url).await.map_err(|error| diagnostic!("cannot connect to the source: {error}"))?;
    let state = pg::connect_state(&config.state_url)
        .await
        .map_err(|error| diagnostic!("cannot connect to the state: {error}"))?;
    let droppable = find_droppable(&config, &source, &state).await?;
    let list = list(&config, &droppable);
    if list.is_empty() {
        output::line("nothing to drop: slot, publication and state do not exist");
        return Ok(ExitCode::SUCCESS);
    }
    output::line(format_args!(
        "This drops\n{list}Targets keep their users; a later `run` starts over with a snapshot of every tenant."
    ));
    if !arguments.yes && !confirm("Drop them?")? {
        output::line("nothing was dropped");
        return Ok(ExitCode::SUCCESS);
    }
    drop_all(&config, &droppable, &source, &state).await?;
    output::line("done");
    Ok(ExitCode::SUCCESS)
}

async fn find_droppable(config: &Config, source: &Client, state: &Client) -> Result<Droppable, Diagnostic> {
    let name = &config.source.slot;
    let failed = |what: &'static str| move |error: CaptureError| diagnostic!("cannot read {what}: {error}");
    let known = StateStore::read(state, name).await.map_err(|error| diagnostic!("cannot read the state: {error}"))?;
    let mut slots = vec![name.clone()];
    slots.extend(known.tee.map(|tee| tee.slot));
    slots.extend(config.kafka.as_ref().map(|kafka| kafka.slot.clone()).filter(|slot| !slots.contains(slot)));
    let mut existing = Vec::new();
    for name in slots {
        let Some(slot) = read_slot(source, &name).await.map_err(failed("the slot"))? else { continue };
        if let Some(pid) = slot.active_pid {
            return Err(diagnostic!(
                help = "stop every `run` with this configuration first; to end a dead connection: \
                        SELECT pg_terminate_backend(pid)",
                "slot {name} is in use by process {pid} of the server"
            ));
        }
        existing.push(name);
    }
    let publication = read_publication(source, &config.source.publication).await.map_err(failed("the publication"))?;
    let has_state = has_state_tables(state).await.map_err(|error| failed("the state")(error.into()))?;
    Ok(Droppable { slots: existing, publication: publication.is_some(), state: has_state })
}

/// Reads the catalog instead of casting to regclass, which fails without USAGE on the schema.
async fn has_state_tables(state: &Client) -> Result<bool, tokio_postgres::Error> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                       WHERE n.nspname = 'users_sync' AND c.relname = 'source' AND c.relkind = 'r')";
    state.query_typed_one(SQL, &[]).await?.try_get(0)
}

fn list(config: &Config, droppable: &Droppable) -> String {
    let Config { source, state_url, .. } = config;
    let lines = [
        (droppable.publication, format!("  publication {} of {}\n", source.publication, source.url)),
        (droppable.state, format!("  the state of slot {} in schema users_sync of {state_url}\n", source.slot)),
    ];
    let slots = droppable.slots.iter().map(|slot| format!("  replication slot {slot} of {}\n", source.url));
    slots.chain(lines.into_iter().filter(|(exists, _)| *exists).map(|(_, line)| line)).collect()
}

/// Drops the slots first: they retain WAL at the source, and `run` cannot use the other objects without them.
async fn drop_all(
    config: &Config,
    droppable: &Droppable,
    source: &PgClient,
    state: &PgClient,
) -> Result<(), Diagnostic> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        diagnostic!(help = "run `teardown` again to drop the rest", "cannot drop {what}: {error}")
    };
    for slot in &droppable.slots {
        // A slot that was dropped in the meantime is no error.
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                   WHERE slot_name = $1::text::name";
        let dropped = source.query_typed(sql, &[(slot, Type::TEXT)]).await;
        dropped.map_err(|error| failed("the slot", &describe(&error)))?;
    }
    if droppable.publication {
        let dropped = drop_publication(source, &config.source.publication).await;
        dropped.map_err(|error| failed("the publication", &error))?;
    }
    if droppable.state {
        let dropped = StateStore::forget(state, &config.source.slot).await;
        dropped.map_err(|error| failed("the state", &error))?;
    }
    Ok(())
}
