//! The administrators of `setup` and `teardown`: their URLs, and where passwords come from.

use super::common::{TenantUrl, admin_url, tenant_url};
use super::password::ask_password;
use crate::config::{Config, from_environment};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::{TenantId, variable_word};
use crate::pg::{PgUrl, Secret};
use clap::Args;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The variable for `--source-admin`.
pub(super) const SOURCE_ADMIN: &str = "USERS_SYNC_SOURCE_ADMIN";
/// The variable for `--state-admin`.
const STATE_ADMIN: &str = "USERS_SYNC_STATE_ADMIN";
/// The variable of a target's administrator is this and the tenant's id.
const TARGET_ADMIN: &str = "USERS_SYNC_TARGET_ADMIN_";
/// The variable for the password of `--admin-user`.
const ADMIN_PASSWORD: &str = "USERS_SYNC_ADMIN_PASSWORD";

#[derive(Args)]
pub(super) struct Admins {
    /// URL of the source, as the tables' owner or a superuser.
    ///
    /// Take the password from the environment or a file: ${NAME} or ${file:PATH}.
    #[arg(long, value_name = "URL", env = SOURCE_ADMIN, hide_env_values = true)]
    source_admin: Option<String>,
    /// URL of the state's database, if state.url is not the source's. Passwords as for --source-admin.
    #[arg(long, value_name = "URL", env = STATE_ADMIN, hide_env_values = true)]
    state_admin: Option<String>,
    /// URL of a target, as its owner or a superuser. Repeat it for every tenant.
    ///
    /// Or set USERS_SYNC_TARGET_ADMIN_ID for tenant ID, in upper case and with _ for other characters than letters and digits.
    #[arg(long, value_name = "TENANT=URL", value_parser = tenant_url)]
    target_admin: Vec<TenantUrl>,
    /// Administrator of every database without a URL above: host, port and database are those of the configuration.
    ///
    /// Its password comes from USERS_SYNC_ADMIN_PASSWORD, from --admin-password-file, or from a prompt at the terminal.
    #[arg(long, value_name = "ROLE", env = "USERS_SYNC_ADMIN_USER")]
    admin_user: Option<String>,
    /// File with the password of --admin-user.
    #[arg(long, value_name = "FILE", requires = "admin_user")]
    admin_password_file: Option<PathBuf>,
}

impl fmt::Debug for Admins {
    /// Without the URLs, which may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admins").field("admin_user", &self.admin_user).finish_non_exhaustive()
    }
}

/// The URLs of administrators. `None`, and no entry, where none was given.
pub(super) struct AdminUrls {
    pub(super) source: Option<PgUrl>,
    /// Also of a state in the source's database.
    pub(super) state: Option<PgUrl>,
    pub(super) targets: BTreeMap<TenantId, PgUrl>,
}

impl AdminUrls {
    /// Whether there is no administrator at all.
    pub(super) fn is_empty(&self) -> bool {
        self.source.is_none() && self.state.is_none() && self.targets.is_empty()
    }
}

impl Admins {
    /// Reads the URLs and passwords.
    ///
    /// # Errors
    /// A tenant is unknown, a URL is invalid, or a password cannot be read.
    pub(super) fn read(&self, config: &Config) -> Result<AdminUrls, Diagnostic> {
        let known = |name: &str| config.tenants.iter().any(|tenant| tenant.id.as_str() == name);
        if let Some(unknown) = self.target_admin.iter().find(|admin| !known(&admin.tenant)) {
            let unknown = &unknown.tenant;
            return Err(diagnostic!(
                help = "use an id from `tenants` in the configuration",
                "unknown tenant {unknown}"
            ));
        }
        let general = match &self.admin_user {
            None => None,
            Some(user) => Some((user.clone(), self.password(user)?)),
        };
        let or_general = |url: Option<PgUrl>, configured: &PgUrl| {
            url.or_else(|| {
                let (user, password) = general.clone()?;
                Some(PgUrl { user, password: password.map(Secret), password_from: None, ..configured.clone() })
            })
        };
        let given = |text: &Option<String>, option, variable| {
            text.as_ref().map(|url| admin_url(url, option, Some(variable))).transpose()
        };
        let source = or_general(given(&self.source_admin, "--source-admin", SOURCE_ADMIN)?, &config.source.url);
        let state = match given(&self.state_admin, "--state-admin", STATE_ADMIN)? {
            None if config.state_url == config.source.url => source.clone(),
            url => or_general(url, &config.state_url),
        };
        let mut targets = BTreeMap::new();
        for tenant in &config.tenants {
            let named = self.target_admin.iter().find(|admin| admin.tenant == tenant.id.as_str());
            let variable = variable_of(&tenant.id);
            let url = match (named, std::env::var(&variable)) {
                (Some(admin), _) => Some(admin_url(&admin.url, "--target-admin", None)?),
                (None, Ok(text)) => Some(admin_url(&text, &variable, Some(&variable))?),
                (None, Err(_)) => None,
            };
            targets.extend(or_general(url, &tenant.target).map(|url| (tenant.id.clone(), url)));
        }
        Ok(AdminUrls { source, state, targets })
    }

    /// The password of `--admin-user`; `None` if there is none to be had.
    fn password(&self, user: &str) -> Result<Option<String>, Diagnostic> {
        match (&self.admin_password_file, std::env::var(ADMIN_PASSWORD)) {
            (Some(file), _) => {
                let text = from_environment(&format!("${{file:{}}}", file.display()));
                Ok(Some(text.map_err(|error| diagnostic!("--admin-password-file: {error}"))?))
            }
            (None, Ok(password)) => Ok(Some(password)),
            (None, Err(_)) => ask_password(user),
        }
    }
}

fn variable_of(tenant: &TenantId) -> String {
    format!("{TARGET_ADMIN}{}", variable_word(tenant.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_variable_has_only_letters_digits_and_underscores() {
        assert_eq!(variable_of(&TenantId::new("acme-eu.1")), "USERS_SYNC_TARGET_ADMIN_ACME_EU_1");
    }
}
