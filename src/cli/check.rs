//! `check`: prints every finding with its remedy. An error decides the exit code.

use super::common::FAILED;
use super::output;
use crate::check::{Finding, Severity, check};
use crate::config::Config;
use std::fmt::Write as _;
use std::process::ExitCode;

pub(super) async fn execute(config: &Config) -> ExitCode {
    let mut findings = check(config).await;
    findings.sort_by_key(|finding| finding.severity);
    output::line(summary(&findings, config.tenants.len()));
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return ExitCode::from(FAILED);
    }
    ExitCode::SUCCESS
}

fn summary(findings: &[Finding], tenants: usize) -> String {
    let mut out = String::new();
    for finding in findings {
        let _ = writeln!(out, "{finding}");
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let verdict = if errors == 0 { "`run` can start" } else { "fix the errors before `run`" };
    let plural = |n| if n == 1 { "" } else { "s" };
    let _ = write!(
        out,
        "checked the source and {tenants} target{}: {errors} error{}, {warnings} warning{}; {verdict}",
        plural(tenants),
        plural(errors),
        plural(warnings)
    );
    out
}
