//! `run`: the service, until a signal comes.

use super::{FAILED, signals};
use crate::check::{Severity, check_source, source_finding};
use crate::config::Config;
use crate::service::{self, ServiceError};
use std::process::ExitCode;

/// A source that is not ready is said to be so before anything is made there; one that is only away is waited for.
pub(super) async fn execute(config: Config) -> miette::Result<ExitCode> {
    let stop = signals().map_err(|error| miette::miette!("cannot listen to signals: {error}"))?;
    let mut findings = match check_source(&config).await {
        Ok(findings) => findings,
        Err(error) => {
            let finding = source_finding(&config, &error);
            if ServiceError::from(error).is_final() { vec![finding] } else { Vec::new() }
        }
    };
    findings.retain(|finding| finding.severity == Severity::Error);
    if !findings.is_empty() {
        findings.iter().for_each(|finding| eprintln!("{finding}"));
        return Ok(ExitCode::from(FAILED));
    }
    service::run(config, stop).await.map_err(|error| miette::miette!("{error}"))?;
    Ok(ExitCode::SUCCESS)
}
