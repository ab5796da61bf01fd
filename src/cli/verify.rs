//! `verify`: compares every target with the source.

use super::common::{ConfigFile, FAILED};
use super::output::{self, Format};
use super::resync::{Asked, report, resync};
use super::signals::signals;
use super::tenants::select_tenants;
use crate::cli::exit::ExitCode;
use crate::config::Config;
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::TenantId;
use crate::operations::verify::{NoUsers, Verdict, Verifying, verify, why_without_users};
use crate::snapshot::DIFFERENCE_KINDS;
use crate::status::progress_handle::ProgressHandle;
use clap::Args;
use serde::Serialize;
use std::time::Duration;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Tenants to compare. Default: all of them.
    #[arg(value_name = "TENANT")]
    tenants: Vec<String>,
    /// Number of example ids to print per category.
    #[arg(long, default_value_t = 10, value_name = "N")]
    ids: usize,
    /// Seconds to wait for a target to catch up with the compared position.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    /// Fix differences by resyncing the tenants that differ.
    #[arg(long, conflicts_with = "json")]
    repair: bool,
    #[command(flatten)]
    pub(super) format: Format,
}

#[derive(Serialize)]
struct Report {
    tenant: String,
    users: u64,
    missing: u64,
    different: u64,
    extra: u64,
    /// Users that the target rejects. They were not compared.
    rejected: u64,
    /// Users that changed during every comparison, so that no difference is certain.
    still_changing: u64,
    /// Kind and id.
    examples: Vec<[String; 2]>,
    /// Why the comparison failed.
    failed: Option<String>,
    /// Why neither the source nor the target has a user of this tenant.
    warning: Option<String>,
    /// How to correct the tenant's key.
    remedy: Option<String>,
}

impl Report {
    fn of((tenant, verdict): (TenantId, Verdict)) -> Report {
        let (users, differences, failed) = match verdict {
            Verdict::Compared(users, differences) => (users, differences, None),
            Verdict::Failed(why) => (0, Default::default(), Some(why)),
        };
        Report {
            tenant: tenant.to_string(),
            users,
            missing: differences.missing,
            different: differences.different,
            extra: differences.extra,
            rejected: differences.rejected,
            still_changing: differences.still_changing,
            examples: differences.examples.into_iter().map(|user| [user.kind, user.id]).collect(),
            failed,
            warning: None,
            remedy: None,
        }
    }

    fn has_no_users(&self) -> bool {
        self.users + self.rejected == 0 && self.is_equal()
    }

    fn differs(&self) -> bool {
        self.missing + self.different + self.extra > 0
    }

    fn is_equal(&self) -> bool {
        self.failed.is_none() && self.warning.is_none() && !self.differs() && self.rejected == 0
    }
}

pub(super) async fn execute(arguments: &Arguments, file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let config = file.load().await?;
    let tenants = select_tenants(&config, &arguments.tenants)?;
    let mut reports = compare(&config, &tenants, arguments).await?;
    output::result(reports.iter().map(text).collect::<String>(), &reports)?;
    if arguments.repair {
        let differing: Vec<TenantId> =
            reports.iter().filter(|report| report.differs()).map(|report| TenantId::new(&report.tenant)).collect();
        if !differing.is_empty() {
            output::line(format_args!("repairing {} tenants", differing.len()));
            let stop = signals().map_err(|error| diagnostic!("cannot handle signals: {error}"))?;
            report(&resync(&config, &differing, Asked { allow_deletes: false, adopt: None }, stop).await?)?;
            let after = compare(&config, &differing, arguments).await?;
            after.iter().for_each(|report| output::part(text(report)));
            reports.retain(|report| !report.differs());
            reports.extend(after);
        }
    }
    let all_equal = reports.iter().all(Report::is_equal);
    Ok(if all_equal { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

async fn compare(config: &Config, tenants: &[TenantId], arguments: &Arguments) -> Result<Vec<Report>, Diagnostic> {
    let how = Verifying { examples: arguments.ids, timeout: Duration::from_secs(arguments.timeout), follows: true };
    let verdicts = verify(config, tenants, how, &ProgressHandle::default()).await?;
    let mut reports: Vec<Report> = verdicts.into_iter().map(Report::of).collect();
    let empty = reports.iter().filter(|report| report.has_no_users()).map(|report| TenantId::new(&report.tenant));
    let why = why_without_users(config, &empty.collect::<Vec<_>>()).await?;
    for report in &mut reports {
        if let Some(NoUsers { why, remedy }) = why.get(&TenantId::new(&report.tenant)) {
            (report.warning, report.remedy) = (Some(why.clone()), Some(remedy.clone()));
        }
    }
    Ok(reports)
}

fn text(report: &Report) -> String {
    let Report { tenant, users, missing, different, extra, rejected, still_changing, .. } = report;
    if let Some(why) = &report.failed {
        return format!("{tenant}: not compared: {why}\n");
    }
    if let (Some(why), Some(remedy)) = (&report.warning, &report.remedy) {
        return format!("{tenant}: nothing was compared, neither side has a user: {why}\n  -> {remedy}\n");
    }
    let changing = match still_changing {
        0 => String::new(),
        count => format!(", {count} still changing"),
    };
    let rejected = match rejected {
        0 => String::new(),
        count => format!(", {count} rejected"),
    };
    if !report.differs() {
        return format!("{tenant}: equal, {users} users{rejected}{changing}\n");
    }
    let mut lines = format!(
        "{tenant}: {missing} missing, {different} different, {extra} extra of {users} users{rejected}{changing}\n"
    );
    for kind in DIFFERENCE_KINDS {
        let ids: Vec<&str> = report.examples.iter().filter(|[of, _]| of == kind).map(|[_, id]| id.as_str()).collect();
        if !ids.is_empty() {
            lines.push_str(&format!("  {kind}: {}\n", ids.join(", ")));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Differences, DifferingUser};

    #[test]
    fn every_kind_of_difference_is_counted_with_examples() {
        let example = |kind: &str, id: &str| DifferingUser { kind: kind.to_owned(), id: id.to_owned() };
        let differences = Differences {
            missing: 2,
            different: 1,
            extra: 0,
            rejected: 4,
            examples: vec![example("different", "u7"), example("missing", "u1"), example("missing", "u2")],
            still_changing: 3,
        };
        let report = Report::of((TenantId::new("acme"), Verdict::Compared(40, differences)));
        assert!(!report.is_equal());
        assert_eq!(
            text(&report),
            "acme: 2 missing, 1 different, 0 extra of 40 users, 4 rejected, 3 still changing\n  missing: u1, u2\n  different: u7\n"
        );
        let equal = Report::of((TenantId::new("acme"), Verdict::Compared(40, Differences::default())));
        assert!(equal.is_equal() && text(&equal) == "acme: equal, 40 users\n");
        let rejected = Differences { rejected: 2, ..Differences::default() };
        let rejected = Report::of((TenantId::new("acme"), Verdict::Compared(40, rejected)));
        assert!(!rejected.is_equal() && !rejected.differs());
        assert_eq!(text(&rejected), "acme: equal, 40 users, 2 rejected\n");
        let failed = Report::of((TenantId::new("acme"), Verdict::Failed("target unreachable".into())));
        assert!(!failed.is_equal() && text(&failed) == "acme: not compared: target unreachable\n");
    }
}
