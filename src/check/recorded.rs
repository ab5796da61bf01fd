//! What the running process has recorded of the source, of targets and of the Kafka output: `check` writes nothing, so that a
//! full disk or a missing privilege to publish does not show otherwise. Pure.

use super::finding::{Finding, Severity, Subject};
use crate::capture::SourceLog;
use crate::config::Config;
use crate::model::{Code, SourceTrouble, TenantId};
use crate::state::Snapshot;
use crate::status::report::Report;
use crate::status::verdict::{VerdictReason, of_process_alone};

/// A warning for each of them that is not among the findings.
pub(super) fn findings(config: &Config, state: &Snapshot, found: &[Finding]) -> Vec<Finding> {
    let reported = of_process_alone(&Report::of_state(config, state, &SourceLog::default()));
    let reported = reported.into_iter().filter_map(warning);
    let is_found = |reported: &Finding| {
        let is_same = |other: &&Finding| other.subject == reported.subject && other.code == reported.code;
        found.iter().filter(|other| other.severity != Severity::Note).any(|other| is_same(&other))
    };
    reported.filter(|reported| !is_found(reported)).collect()
}

fn warning(reason: VerdictReason) -> Option<Finding> {
    let VerdictReason { code, text, remedy, tenant, .. } = reason;
    let subject = match tenant {
        Some(tenant) => Subject::Tenant(TenantId::new(&tenant)),
        None if matches!(
            SourceTrouble::parse(code),
            Some(SourceTrouble::TenantsUnread | SourceTrouble::TenantUnusable)
        ) =>
        {
            Subject::TenantTable
        }
        None if SourceTrouble::parse(code).is_some() => Subject::Source,
        #[cfg(feature = "kafka")]
        None => Subject::Kafka,
        #[cfg(not(feature = "kafka"))]
        None => return None,
    };
    Some(Finding::warning(
        subject,
        Code(code),
        format!("the running process reports: {text}"),
        remedy.unwrap_or_default(),
    ))
}
