//! Compares the tenants' keys with those of the users: typing errors, names instead of ids, and users without a tenant.

use super::finding::{Finding, Subject};
use crate::config::{Config, Tenant};
use crate::model::{CheckFinding, StatusFinding, UserCounts};
use crate::pg::connect;
use crate::replicator::source::mapping::resolve_layout;
use crate::replicator::source::user_counts::count_users;
use crate::snapshot::source_session;
use std::sync::Arc;
use std::time::Duration;

/// Reading a large table must not delay the other findings.
const TIMEOUT: Duration = Duration::from_secs(10);

/// `None` if other findings say why nothing can be read. The inner error is a message.
pub(super) async fn gather(config: &Config) -> Option<Result<UserCounts, String>> {
    let client = connect(&config.source.url).await.ok()?;
    source_session(&client).await.ok()?;
    let config = resolve_layout(&client, config).await.ok()?;
    let keys: Vec<&str> = config.tenants.iter().map(|tenant| tenant.key.as_str()).collect();
    let counted = count_users(&client, &config.users, &keys, TIMEOUT).await.ok()?;
    client.close().await;
    Some(counted)
}

pub(super) fn findings(config: &Config, counted: &Result<UserCounts, String>) -> Vec<Finding> {
    let counts = match counted {
        Ok(counts) => counts,
        Err(why) => {
            let message = format!("the keys of the tenants were not compared with those of the users: {why}");
            return vec![Finding::note(Subject::Source, CheckFinding::NotCounted, message)];
        }
    };
    let of_tenant = |tenant: &Arc<Tenant>| {
        let unused = counts.unused.iter().find(|unused| unused.key == tenant.key.as_str())?;
        let subject = Subject::Tenant(tenant.id.clone());
        Some(Finding::warning(subject, StatusFinding::WithoutUsers, unused.describe(), unused.remedy(&tenant.id)))
    };
    let mut findings: Vec<Finding> = config.tenants.iter().filter_map(of_tenant).collect();
    if counts.without_tenant() > 0 {
        let message = format!("users without a tenant: {} ({})", counts.without_tenant(), counts.describe());
        findings.push(Finding::note(Subject::Source, CheckFinding::WithoutTenant, message));
    }
    findings
}
