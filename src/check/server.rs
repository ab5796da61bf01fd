//! Assesses settings of the source's server that make it harm the auth store, or refuse our slot. Pure.

use super::finding::{Finding, Subject, connect_finding};
use super::server_facts::{ReplicationAttempt, ServerFacts};
use crate::capture::slot::PLUGIN;
use crate::capture::synchronous::CountsAsStandby;
use crate::config::Config;
use crate::model::CheckFinding;
use crate::pg::{ConnectError, SqlStateClass, quote_literal};

pub(super) fn findings(config: &Config, facts: &ServerFacts) -> Vec<Finding> {
    let conflict = facts.synchronous.conflict();
    let conflict = conflict.map(|CountsAsStandby { what, remedy }| {
        Finding::error(Subject::Source, CheckFinding::SynchronousStandby, what, remedy)
    });
    let plugins = facts.plugin_libraries.as_deref().and_then(missing_plugin);
    conflict.into_iter().chain(plugins).chain(replication(config, &facts.replication)).collect()
}

/// The finding for a list of output plugins without ours.
fn missing_plugin(setting: &str) -> Option<Finding> {
    let names = setting.split(',').map(|name| name.trim().trim_matches('"').trim_start_matches("$libdir/"));
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| [PLUGIN, "*"].contains(name)) {
        return None;
    }
    let listed: Vec<_> = names.into_iter().chain([PLUGIN]).map(quote_literal).collect();
    Some(Finding::error(
        Subject::Source,
        CheckFinding::PluginNotListed,
        format!("output_plugin_libraries = {} does not list {PLUGIN}, which the slot needs", quote_literal(setting)),
        format!(
            "ALTER SYSTEM SET output_plugin_libraries = {}; SELECT pg_reload_conf(); (managed services: change the parameter there)",
            listed.join(", ")
        ),
    ))
}

/// The finding for a URL that serves SQL but no replication: a pooler.
fn replication(config: &Config, attempt: &ReplicationAttempt) -> Option<Finding> {
    let url = &config.source.url;
    let pooler = match attempt {
        ReplicationAttempt::Works => return None,
        ReplicationAttempt::TooSlow | ReplicationAttempt::OnlySql => "a connection pooler",
        ReplicationAttempt::Failed(ConnectError::Server { error, .. })
            if error.message.contains("unsupported startup parameter") =>
        {
            "PgBouncer"
        }
        ReplicationAttempt::Failed(ConnectError::Server { error, .. }) => {
            return match SqlStateClass::of(&error.sqlstate) {
                // Reported by what the catalogs say of role and limits.
                SqlStateClass::Privilege | SqlStateClass::Login | SqlStateClass::TooManyConnections => None,
                _ => Some(connect_finding(Subject::Source, url, &ConnectError::refused(url, (**error).clone()), false)),
            };
        }
        ReplicationAttempt::Failed(ConnectError::Auth { .. }) => return None,
        ReplicationAttempt::Failed(_) => "a connection pooler",
    };
    Some(Finding::error(
        Subject::Source,
        CheckFinding::Pooler,
        format!("source.url leads to {pooler}, which passes on no replication connection"),
        "set source.url to the host and port of PostgreSQL itself (managed services: the direct connection string; on Neon the host without -pooler, on Supabase port 5432)",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_output_plugins_has_to_have_ours() {
        for setting in ["pgoutput", "test_decoding, pgoutput", "\"wal2json\",\"pgoutput\"", "$libdir/pgoutput", "*"] {
            assert_eq!(missing_plugin(setting), None, "{setting}");
        }
        for (setting, listed) in
            [("", "'pgoutput'"), ("wal2json, test_decoding", "'wal2json', 'test_decoding', 'pgoutput'")]
        {
            let finding = missing_plugin(setting).unwrap();
            assert!(finding.remedy.contains(&format!("output_plugin_libraries = {listed}; SELECT")), "{finding}");
        }
    }
}
