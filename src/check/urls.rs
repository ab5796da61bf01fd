//! Findings about the URLs themselves: passwords and rows that go to an unverified server. Pure.

use super::finding::{Finding, Subject};
use crate::config::Config;
use crate::model::CheckFinding;
use crate::pg::PgUrl;

const VERIFY_REMEDY: &str =
    "set sslmode=verify-full (and sslrootcert, if the certificate's authority is a private one)";

/// The findings about source, state and targets.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let state = (config.state_url != config.source.url).then_some((Subject::State, &config.state_url));
    let targets = config.tenants.iter().map(|tenant| (Subject::Tenant(tenant.id.clone()), &tenant.target));
    let urls = std::iter::once((Subject::Source, &config.source.url)).chain(state).chain(targets);
    urls.filter_map(|(subject, url)| unverified(subject, url)).collect()
}

fn unverified(subject: Subject, url: &PgUrl) -> Option<Finding> {
    let is_local = url.host.starts_with('/') || matches!(&*url.host, "localhost" | "127.0.0.1" | "::1");
    if is_local || !url.has_password() || url.verifies_server() {
        return None;
    }
    let message = "the server is not verified: an attacker on the network can read and change all rows, and may learn the password";
    Some(Finding::warning(subject, CheckFinding::Unverified, message, VERIFY_REMEDY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_to_an_unverified_server_on_the_network_is_reported() {
        let is_reported = |url: &str| unverified(Subject::Source, &PgUrl::parse(url).unwrap()).is_some();
        for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
            assert!(is_reported(&format!("postgres://u:p@db.internal/d?sslmode={mode}")), "{mode}");
        }
        for url in [
            "postgres://u:p@db.internal/d?sslmode=verify-full",
            "postgres://u:p@db.internal/d?sslmode=verify-ca&sslrootcert=/ca.pem",
            "postgres://u:p@db.internal/d?sslmode=require&sslrootcert=/ca.pem",
            "postgres://u@db.internal/d",
            "postgres://u:p@localhost/d",
            "postgres://u:p@127.0.0.1/d",
            "postgres://u:p@[::1]/d",
            "postgres:///d?host=/tmp&user=u&password=p",
        ] {
            assert!(!is_reported(url), "{url}");
        }
    }
}
