//! `users-sync teardown`: what the source was given, taken away again.

use super::{failure, failure_with};
use crate::capture::{ReplicationConnection, publication, slot};
use crate::config;
use crate::pg::connect;
use crate::state::StateStore;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;

pub(super) async fn teardown(file: &Path, yes: bool) -> miette::Result<ExitCode> {
    let config = config::load(file)?;
    let (name, publication) = (&config.source.slot, &config.source.publication);
    let source = connect(&config.source.url).await.map_err(failure)?;
    let state = connect(&config.state_url).await.map_err(failure)?;
    let slot = slot::read_slot(&source, name).await.map_err(failure)?;
    if let Some(pid) = slot.as_ref().and_then(|slot| slot.active_pid) {
        return Err(failure_with(
            format!("slot {name} is in use by server process {pid}: users-sync is running"),
            "stop it first",
        ));
    }
    let has_publication = publication::read_publication(&source, publication).await.map_err(failure)?.is_some();
    let has_state = StateStore::read(&state, name).await.map_err(failure)?.source.is_some();
    let there = [
        (slot.is_some(), format!("replication slot {name} at {}", config.source.url)),
        (has_publication, format!("publication {publication} at {}", config.source.url)),
        (has_state, format!("the state of slot {name} in schema users_sync at {}", config.state_url)),
    ];
    let there: Vec<&str> = there.iter().filter(|(there, _)| *there).map(|(_, what)| what.as_str()).collect();
    if there.is_empty() {
        println!("Nothing to drop: there is no slot {name}, no publication {publication} and no state.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("This drops\n  {}\nand leaves every target as it is.", there.join("\n  "));
    if !yes && !confirmed()? {
        println!("Nothing was dropped.");
        return Ok(ExitCode::FAILURE);
    }
    // The slot first: it is what costs the source something.
    if slot.is_some() {
        let mut connection = ReplicationConnection::connect(&config.source.url).await.map_err(failure)?;
        slot::drop_slot(&mut connection, name).await.map_err(failure)?;
    }
    publication::drop_publication(&source, publication).await.map_err(failure)?;
    StateStore::forget(&state, name).await.map_err(failure)?;
    println!("Dropped.");
    Ok(ExitCode::SUCCESS)
}

fn confirmed() -> miette::Result<bool> {
    if !stdin().is_terminal() {
        return Err(failure_with("there is no terminal to ask on", "add --yes if you mean it"));
    }
    print!("Go on? [y/N] ");
    stdout().flush().map_err(failure)?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(failure)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
