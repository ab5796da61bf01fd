//! `check`: prints every finding with its remedy. An error decides the exit code.

use super::common::{ConfigFile, FAILED};
use super::output::{self, Format};
use crate::check::{Finding, Severity, check};
use crate::cli::exit::ExitCode;
use crate::config::WithRows;
use crate::diagnostic::Diagnostic;
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) format: Format,
}

/// A finding as JSON.
#[derive(Serialize)]
struct Shown<'a> {
    severity: String,
    code: &'static str,
    subject: String,
    message: &'a str,
    /// Null if no action is needed.
    remedy: Option<&'a str>,
}

pub(super) async fn execute(file: &ConfigFile) -> Result<ExitCode, Diagnostic> {
    let WithRows { config, faults } = file.load_rows().await?;
    let mut findings = check(&config, &faults).await;
    findings.sort_by_key(|finding| finding.severity);
    output::result(summary(&findings, config.tenants.len()), &Document::of(&findings))?;
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Ok(ExitCode::from(FAILED));
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Document<'a> {
    findings: Vec<Shown<'a>>,
}

impl Document<'_> {
    fn of(findings: &[Finding]) -> Document<'_> {
        let shown = findings.iter().map(|finding| Shown {
            severity: finding.severity.to_string(),
            code: finding.code.0,
            subject: finding.subject.to_string(),
            message: &finding.message,
            remedy: Some(&*finding.remedy).filter(|remedy| !remedy.is_empty()),
        });
        Document { findings: shown.collect() }
    }
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
