//! `check`: prints every finding with its remedy. An error decides the exit code.

use super::common::FAILED;
use super::output;
use crate::check::{Finding, Severity, check};
use crate::config::Config;
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
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

pub(super) async fn execute(arguments: &Arguments, config: &Config) -> ExitCode {
    let mut findings = check(config).await;
    findings.sort_by_key(|finding| finding.severity);
    if arguments.json {
        output::line(json(&findings));
    } else {
        output::line(summary(&findings, config.tenants.len()));
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return ExitCode::from(FAILED);
    }
    ExitCode::SUCCESS
}

fn json(findings: &[Finding]) -> String {
    let shown = findings.iter().map(|finding| Shown {
        severity: finding.severity.to_string(),
        code: finding.code.0,
        subject: finding.subject.to_string(),
        message: &finding.message,
        remedy: Some(&*finding.remedy).filter(|remedy| !remedy.is_empty()),
    });
    let findings: Vec<Shown<'_>> = shown.collect();
    format!("{:#}", serde_json::json!({ "findings": findings }))
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
