//! What several commands share: the argument that names the configuration, URLs of administrators, and the exit code of a
//! failure.

use super::output;
use crate::config::{Config, from_environment, load, with_filler};
use crate::diagnostic::{Diagnostic, diagnostic};
use crate::pg::{PgUrl, Secret};
use clap::Args;
use std::path::PathBuf;

/// Exit code of a failure or a finding. clap exits with 2 on invalid usage.
pub(super) const FAILED: u8 = 1;
/// Exit code of `status` when no tenant gets any change.
pub(super) const NOTHING_REPLICATES: u8 = 3;

#[derive(Args, Debug)]
pub(super) struct ConfigFile {
    /// Configuration file (YAML).
    #[arg(
        short,
        long,
        global = true,
        env = "USERS_SYNC_CONFIG",
        default_value = "users-sync.yaml",
        value_name = "FILE"
    )]
    pub(super) config: PathBuf,
}

impl ConfigFile {
    pub(super) fn load(&self) -> Result<Config, Diagnostic> {
        Ok(load(&self.config)?)
    }
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
fn holds_password(text: &str) -> bool {
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
