//! Roles that are used for several databases of one server, and databases with several names. Reads which server a connection leads to; the rest is pure.

use super::deadline::within;
use super::finding::{Finding, Severity, Subject};
use crate::config::{Config, ServerName, ShareRole, Tenant};
use crate::model::{CheckFinding, ParkCause, TenantId};
use crate::pg::{PgUrl, Statements, connect};
use std::collections::HashMap;

/// Which servers the URLs lead to, by host, port and database. What cannot be read is missing.
#[derive(Debug, Default)]
pub(super) struct Servers(HashMap<String, ServerName>);

/// The same for all addresses of a server, and different for a copy of its files.
const INSTANCE: &str = "SELECT system_identifier::text || '/' || extract(epoch FROM pg_postmaster_start_time())::text FROM pg_control_system()";

/// Reads which server this is; `None` if the role may not.
pub(super) async fn read_instance(client: &impl Statements) -> Option<String> {
    client.query_typed_one(INSTANCE, &[]).await.ok()?.try_get(0).ok()
}

impl Servers {
    pub(super) fn add(&mut self, url: &PgUrl, instance: Option<String>) {
        self.0.extend(instance.map(|instance| (url.to_string(), ServerName::Instance(instance))));
    }

    /// Reads which servers the source and the state are on.
    pub(super) async fn read_own(&mut self, config: &Config) {
        for url in [&config.source.url, &config.state_url] {
            // Another finding reports what cannot be reached.
            let Ok(client) = connect(url).await else { continue };
            self.add(url, within(read_instance(&*client)).await.flatten());
        }
    }

    /// The server of a URL. One that was not reached is the one of its host and port, if they lead to a single server.
    fn name(&self, config: &Config) -> impl Fn(&PgUrl) -> ServerName {
        let targets = config.tenants.iter().map(|tenant| &tenant.target);
        let urls = [&config.source.url, &config.state_url].into_iter().chain(targets);
        let mut by_address: HashMap<ServerName, Option<&ServerName>> = HashMap::new();
        for (url, name) in urls.filter_map(|url| Some((url, self.0.get(&url.to_string())?))) {
            let seen = by_address.entry(ServerName::of(url)).or_insert(Some(name));
            *seen = seen.filter(|seen| *seen == name);
        }
        move |url| {
            let address = ServerName::of(url);
            let reached = self.0.get(&url.to_string());
            reached.or(by_address.get(&address).copied().flatten()).cloned().unwrap_or(address)
        }
    }

    /// A finding for each tenant whose target is that of an earlier tenant, under another name of its server.
    pub(super) fn same_databases(&self, config: &Config) -> Vec<Finding> {
        let mut first: HashMap<(ServerName, &str), &TenantId> = HashMap::new();
        let name = self.name(config);
        let second = config.tenants.iter().filter_map(|tenant| {
            let Tenant { id, target, .. } = &**tenant;
            let other = *first.entry((name(target), &target.database)).or_insert(id);
            (other != id).then(|| {
                let message = format!("its target {target} is that of tenant {other}, by another name");
                let remedy = format!("each tenant needs a database of its own: correct the target of tenant {id}");
                Finding::error(Subject::Tenant(id.clone()), ParkCause::Foreign, message, remedy)
            })
        });
        second.collect()
    }

    /// One finding per shared role.
    pub(super) fn findings(&self, config: &Config) -> Vec<Finding> {
        let severity = match config.targets.share_role {
            ShareRole::Refuse => Severity::Error,
            ShareRole::Allow => Severity::Warning,
        };
        let shared = config.shared_roles(self.name(config));
        let findings = shared.into_iter().filter_map(|shared| {
            let subject = Subject::Tenant(shared.tenants.first()?.clone());
            Some(Finding {
                severity,
                ..Finding::error(subject, CheckFinding::SharedRole, shared.to_string(), shared.remedy())
            })
        });
        findings.collect()
    }
}
