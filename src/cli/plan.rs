//! `run --plan`: prints what a start would do with each tenant.

use super::output;
use super::table::columns;
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::operations::dry_run::{Plan, TenantForecast, plan};
use serde::Serialize;

pub(super) async fn execute(config: &Config) -> Result<ExitCode, Diagnostic> {
    let plan = plan(config).await?;
    output::result(table(&plan), &Document::of(&plan))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Document<'a> {
    source: &'a str,
    tenants: Vec<ShownForecast<'a>>,
}

#[derive(Serialize)]
struct ShownForecast<'a> {
    tenant: &'a str,
    /// `follow`, `resync`, `park` or `retry`.
    would: &'static str,
    why: String,
}

impl Document<'_> {
    fn of(plan: &Plan) -> Document<'_> {
        let tenants = plan.tenants.iter().map(|(tenant, forecast)| {
            let (would, why) = words(forecast);
            ShownForecast { tenant: tenant.as_str(), would, why }
        });
        Document { source: &plan.source, tenants: tenants.collect() }
    }
}

/// What would happen, and why.
fn words(forecast: &TenantForecast) -> (&'static str, String) {
    match forecast {
        TenantForecast::Follow(position) => ("follow", format!("caught up to {position}")),
        TenantForecast::Resync(reason) => ("resync", reason.clone()),
        TenantForecast::Park { reason, remedy } => ("park", format!("{reason} -> {remedy}")),
        TenantForecast::Unknown(reason) => ("retry", reason.clone()),
    }
}

fn table(plan: &Plan) -> String {
    let heads = ["TENANT", "WOULD", "WHY"].map(str::to_owned);
    let rows = plan.tenants.iter().map(|(tenant, forecast)| {
        let (would, why) = words(forecast);
        [tenant.to_string(), would.to_owned(), why]
    });
    let rows: Vec<[String; 3]> = std::iter::once(heads).chain(rows).collect();
    let resyncs = plan.tenants.iter().filter(|(_, forecast)| matches!(forecast, TenantForecast::Resync(_))).count();
    format!("{}\n{}; {resyncs} of {} tenants would be resynced", columns(&rows), plan.source, plan.tenants.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lsn, TenantId};

    #[test]
    fn the_table_shows_what_would_happen_and_why() {
        let plan = Plan {
            source: "slot users_sync continues from 0/10".into(),
            tenants: vec![
                (TenantId::new("acme"), TenantForecast::Follow(Lsn(16))),
                (TenantId::new("new"), TenantForecast::Resync("its target is new".into())),
            ],
        };
        let expected = "\
TENANT  WOULD   WHY
acme    follow  caught up to 0/10
new     resync  its target is new
slot users_sync continues from 0/10; 1 of 2 tenants would be resynced";
        assert_eq!(table(&plan), expected);
    }
}
