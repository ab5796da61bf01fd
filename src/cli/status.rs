//! `users-sync status`: what the state says, beside how far the source is.

use super::{failure, failure_with};
use crate::config::{self, Config};
use crate::model::Lsn;
use crate::pg::connect;
use crate::state::{Snapshot, StateStore, TenantRow};
use serde::Serialize;
use std::path::Path;
use std::process::ExitCode;

/// One tenant, as `--json` gives it.
#[derive(Debug, Serialize)]
struct Line {
    tenant: String,
    /// `following`, `joining`, `parked`, or `new` before it was ever seen.
    state: &'static str,
    state_since_seconds: Option<f64>,
    target: String,
    /// Everything that was committed before this is in the target; null while it has none.
    position: Option<String>,
    /// From the position to the end of the source's log.
    lag_bytes: Option<u64>,
    /// How old the newest change is that the target may lack: 0 where it lacks none.
    lag_seconds: Option<f64>,
    last_error: Option<String>,
    remedy: Option<String>,
}

#[derive(Debug, Serialize)]
struct Status {
    slot: String,
    /// Up to here the slot was confirmed.
    confirmed: String,
    /// The end of the source's log.
    source: String,
    generation: i64,
    epoch: i64,
    holder: String,
    tenants: Vec<Line>,
}

pub(super) async fn status(file: &Path, json: bool) -> miette::Result<ExitCode> {
    let config = config::load(file)?;
    let state = connect(&config.state_url).await.map_err(failure)?;
    let known = StateStore::read(&state, &config.source.slot).await.map_err(failure)?;
    let source = connect(&config.source.url).await.map_err(failure)?;
    let sql = "SELECT pg_catalog.pg_current_wal_flush_lsn()::text";
    let row = source.query_one(sql, &[]).await.map_err(|error| failure(crate::pg::describe(&error)))?;
    let end: Lsn = row.get::<_, &str>(0).parse().map_err(failure)?;
    let Some(status) = summarize(&config, &known, end) else {
        return Err(failure_with(
            format!("there is no state of slot {}: users-sync has never run with this file", config.source.slot),
            format!("start it: users-sync run -c {}", file.display()),
        ));
    };
    let text = match json {
        true => serde_json::to_string_pretty(&status).map_err(failure)?,
        false => table(&status),
    };
    println!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// `None` where no process has ever held the slot.
fn summarize(config: &Config, known: &Snapshot, end: Lsn) -> Option<Status> {
    let source = known.source.as_ref()?;
    let tenants = config.tenants.iter().map(|tenant| {
        let row = known.tenants.get(&tenant.id);
        line(tenant.id.as_str(), &tenant.target.to_string(), row, source.confirmed, end)
    });
    Some(Status {
        slot: config.source.slot.clone(),
        confirmed: source.confirmed.to_string(),
        source: end.to_string(),
        generation: source.generation.0,
        epoch: source.epoch.0,
        holder: source.holder.clone(),
        tenants: tenants.collect(),
    })
}

/// A following target holds everything up to the slot's confirmed position, also where its own is older: there was
/// nothing for it in between.
fn line(tenant: &str, target: &str, row: Option<&TenantRow>, confirmed: Lsn, end: Lsn) -> Line {
    use crate::state::TenantState::Following;
    let position = row.filter(|row| row.state == Following).map(|row| row.position.max(confirmed));
    let lag = position.map(|position| end.0.saturating_sub(position.0));
    Line {
        tenant: tenant.to_owned(),
        state: row.map_or("new", |row| row.state.as_str()),
        state_since_seconds: row.map(|row| row.since_seconds),
        target: target.to_owned(),
        position: position.map(|position| position.to_string()),
        lag_bytes: lag,
        lag_seconds: row.zip(lag).map(|(row, lag)| if lag == 0 { 0.0 } else { row.position_age_seconds }),
        last_error: row.and_then(|row| row.reason.clone()),
        remedy: row.and_then(|row| row.remedy.clone()),
    }
}

fn table(status: &Status) -> String {
    let width = status.tenants.iter().map(|line| line.tenant.chars().count()).max().unwrap_or(0).max(6);
    let mut text = format!(
        "slot {} confirmed {}, source at {}, generation {}, epoch {} ({})\n\n{:<width$}  {:<9}  {:<14}  {:>11}  {:>8}  last error",
        status.slot,
        status.confirmed,
        status.source,
        status.generation,
        status.epoch,
        status.holder,
        "tenant",
        "state",
        "position",
        "lag bytes",
        "lag s"
    );
    for line in &status.tenants {
        let bytes = line.lag_bytes.map_or("-".to_owned(), |bytes| bytes.to_string());
        let seconds = line.lag_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}"));
        text.push_str(&format!(
            "\n{:<width$}  {:<9}  {:<14}  {bytes:>11}  {seconds:>8}  {}",
            line.tenant,
            line.state,
            line.position.as_deref().unwrap_or("-"),
            line.last_error.as_deref().unwrap_or("-")
        ));
        if let Some(remedy) = &line.remedy {
            text.push_str(&format!("\n{:<width$}  remedy: {remedy}", ""));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Generation;
    use crate::state::TenantState;

    fn row(state: TenantState, position: u64) -> TenantRow {
        TenantRow {
            state,
            reason: None,
            remedy: None,
            target: "t".into(),
            target_id: None,
            generation: Generation(1),
            position: Lsn(position),
            since_seconds: 1.0,
            position_age_seconds: 3.5,
        }
    }

    #[test]
    fn lag_counts_from_what_the_target_is_known_to_hold() {
        let check = |row: Option<TenantRow>, expected: (&str, Option<u64>, Option<f64>)| {
            let line = line("a", "t", row.as_ref(), Lsn(100), Lsn(130));
            assert_eq!((line.state, line.lag_bytes, line.lag_seconds), expected);
        };
        check(Some(row(TenantState::Following, 110)), ("following", Some(20), Some(3.5)));
        check(Some(row(TenantState::Following, 40)), ("following", Some(30), Some(3.5)));
        check(Some(row(TenantState::Following, 130)), ("following", Some(0), Some(0.0)));
        check(Some(row(TenantState::Parked, 110)), ("parked", None, None));
        check(None, ("new", None, None));
    }
}
