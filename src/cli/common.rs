//! What several commands share: the argument that names the configuration, URLs of administrators, and the exit code of a
//! failure.

use super::known_tenants::read_known;
use super::output;
use super::reload::{list, unread};
use crate::config::{
    Config, Place, RowFault, Tenant, WithRows, from_environment, is_in_environment, load_from, load_rows, with_filler,
};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::model::SourceTrouble;
use crate::pg::{self, ConnectError, PgClient, PgUrl, Secret};
use crate::replicator::error::trouble_of_connect;
use crate::tenant_table::TenantTableReader;
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Exit code of a failure or a finding. clap exits with 2 on invalid usage.
pub(super) const FAILED: u8 = 1;
/// Exit code of `status` when no tenant gets any change.
pub(super) const NOTHING_REPLICATES: u8 = 3;

/// The configuration file when none is named.
const DEFAULT_FILE: &str = "users-sync.yaml";

#[derive(Args, Debug)]
pub(super) struct ConfigFile {
    /// Configuration file (YAML). Default: users-sync.yaml, or, if there is none, the variables USERS_SYNC_SOURCE_URL,
    /// USERS_SYNC_PRESET and USERS_SYNC_TARGET_URL.
    #[arg(short, long, global = true, env = "USERS_SYNC_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// The configuration, with the tenants of its table. Rows that cannot be used are shown and left out.
    pub(super) async fn load(&self) -> Result<Config, Diagnostic> {
        let WithRows { config, faults } = self.load_rows().await?;
        warn_of(&faults);
        Ok(config)
    }

    /// As [`ConfigFile::load`], for what needs no connection to a target: where the table cannot be read, or a row cannot be used, the tenants
    /// are those that the state knows.
    pub(super) async fn load_known(&self) -> Result<Config, Diagnostic> {
        let place = self.place();
        let files = load_from(&place)?.config;
        if files.tenant_table.is_none() {
            return Ok(files);
        }
        let known = read_known(&files).await.unwrap_or_default();
        Ok(match read_table(&place, &files, &known).await {
            Ok(WithRows { config, faults }) => {
                warn_of(&faults);
                config
            }
            Err(error) => {
                output::notice(format_args!(
                    "warning: {}; the tenants are those that the state knows",
                    error.summary()
                ));
                let tenants = files.tenants.iter().cloned().chain(known).collect();
                Config { tenants, ..files }
            }
        })
    }

    /// The configuration, with the tenants of its table, and the rows that cannot be used.
    pub(super) async fn load_rows(&self) -> Result<WithRows, Diagnostic> {
        let place = self.place();
        read_table(&place, &load_from(&place)?.config, &[]).await
    }

    /// Where the configuration is read from: a file that is named or exists comes before the variables.
    pub(super) fn place(&self) -> Place {
        let path = self.path();
        if self.config.is_none() && !path.exists() && is_in_environment() {
            return Place::Environment;
        }
        Place::File(path.to_owned())
    }

    /// The file, which may not exist.
    pub(super) fn path(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
    }
}

/// The files' configuration with the tenants of its table, if it has one. `known` are those that a process replicates.
async fn read_table(place: &Place, files: &Config, known: &[Arc<Tenant>]) -> Result<WithRows, Diagnostic> {
    let Some(table) = &files.tenant_table else {
        return Ok(WithRows { config: files.clone(), faults: Vec::new() });
    };
    let rows = TenantTableReader::default().read(table).await.map_err(|error| unread(&error))?;
    Ok(load_rows(place, files, known, &rows)?)
}

fn warn_of(faults: &[RowFault]) {
    if let Some(text) = list(faults) {
        output::notice(format_args!("warning: {text}"));
    }
}

/// Connects to the database of the state.
pub(super) async fn connect_state(config: &Config) -> Result<PgClient, Diagnostic> {
    let connected = pg::connect_state(&config.state_url).await;
    connected.map_err(|error| cannot_connect_state(&error))
}

pub(super) fn cannot_connect_state(error: &ConnectError) -> Diagnostic {
    diagnostic!("cannot connect to the state: {error}").with_code(SourceTrouble::State)
}

pub(super) fn cannot_connect_source(error: &ConnectError) -> Diagnostic {
    diagnostic!("cannot connect to the source: {error}").with_code(trouble_of_connect(error))
}

/// The value of an option that names a tenant and a URL.
#[derive(Clone)]
pub(super) struct TenantUrl {
    pub(super) tenant: String,
    pub(super) url: String,
}

/// Parses `TENANT=URL`.
pub(super) fn tenant_url(text: &str) -> Result<TenantUrl, String> {
    let (tenant, url) = text.split_once('=').ok_or("expected TENANT=URL")?;
    Ok(TenantUrl { tenant: tenant.to_owned(), url: url.to_owned() })
}

/// Reads the URL of an option, with its variables and files. Warns if the command line itself holds the password: every
/// user of the machine can read that, and the shell records it. `variable` is where the option may come from instead.
pub(super) fn admin_url(text: &str, option: &str, variable: Option<&str>) -> Result<PgUrl, Diagnostic> {
    // The URL itself is not printed: it may hold a password.
    let expanded = from_environment(text).map_err(|error| {
        let help =
            "${NAME} or ${NAME:-DEFAULT} is an environment variable, ${file:PATH} a file; a literal ${ is written $${";
        diagnostic!(help = help, "{option}: {error}")
    })?;
    let url = PgUrl::parse(&expanded).map_err(|error| diagnostic!("invalid {option}: {error}"))?;
    let is_argument = variable.is_none_or(|name| std::env::var(name).ok().as_deref() != Some(text));
    if is_argument && holds_password(text) {
        output::notice(format_args!(
            "warning: the command line holds the password of {option}, where other users and the shell's history can read \
             it; take it from the environment or a file: {option} '...:${{NAME}}@...' or '...:${{file:PATH}}@...'"
        ));
    }
    Ok(url)
}

/// Whether a URL has a password of which some part is not from a variable or a file.
pub(super) fn holds_password(text: &str) -> bool {
    // Digits are valid in every place but that of the scheme and of a word such as sslmode's.
    let filled = |digit| with_filler(text, digit).ok().and_then(|text| PgUrl::parse(&text).ok());
    let (Some(one), Some(two)) = (filled("1"), filled("2")) else { return false };
    // What differs is filler.
    let is_literal = |(one, two): (&Secret, &Secret)| one.0.chars().zip(two.0.chars()).any(|(one, two)| one == two);
    one.secrets().zip(two.secrets()).any(is_literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_from_a_variable_or_a_file_is_not_on_the_command_line() {
        for text in [
            "postgres://u:hunter2@h/db",
            "postgres://h/db?user=u&password=hunter2",
            "postgres://u:a${B}@h/db",
            "postgres://${USER}:hunter2@${HOST}:${PORT}/db",
            "postgres://u@h/db?sslcert=${C}&sslkey=${K}&sslpassword=hunter2",
        ] {
            assert!(holds_password(text), "{text}");
        }
        for text in [
            "postgres://u@h/db",
            "postgres://u:${PW}@h/db",
            "${URL}",
            "postgres://u:${file:/p}@h/${DB}",
            "x ${",
            "postgres://${USER}:${PW}@${HOST}:${PORT}/db?sslcert=/c&sslkey=/k&sslpassword=${PW}",
        ] {
            assert!(!holds_password(text), "{text}");
        }
    }
}
