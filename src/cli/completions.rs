//! `completions` and `man`: files for shells and for `man`, made from the definition of the command line.

use super::output;
use crate::cli::exit::ExitCode;
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::{Args, Command};
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Shell that will read the script.
    shell: Shell,
}

#[derive(Args, Debug)]
pub(super) struct ManArguments {
    /// Directory that exists: users-sync.1 and a page for each command are written there.
    directory: PathBuf,
}

pub(super) fn execute(arguments: &Arguments, mut command: Command) -> Result<ExitCode, Diagnostic> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    output::line(String::from_utf8_lossy(&script).trim_end());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(arguments: &ManArguments, command: Command) -> Result<ExitCode, Diagnostic> {
    let directory = &arguments.directory;
    let written = clap_mangen::generate_to(command, directory);
    written.map_err(|error| diagnostic!("cannot write man pages to {}: {error}", directory.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn definition() -> Command {
        Command::new("users-sync").subcommand(Command::new("run")).subcommand(Command::new("man").hide(true))
    }

    #[test]
    fn pages_are_written_for_visible_commands_and_a_missing_directory_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let missing = parent.path().join("missing");
        let error = man(&ManArguments { directory: missing.clone() }, definition()).unwrap_err();
        assert!(error.message.starts_with(&format!("cannot write man pages to {}: ", missing.display())), "{error:?}");
        let directory = parent.path().to_owned();
        man(&ManArguments { directory: directory.clone() }, definition()).unwrap();
        let exists = |name: &str| directory.join(name).exists();
        assert!(exists("users-sync.1") && exists("users-sync-run.1") && !exists("users-sync-man.1"));
    }

    #[test]
    fn a_script_is_not_changed_on_its_way_to_the_terminal() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut definition(), "users-sync", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert_eq!(crate::model::printable(&script), script, "{shell}");
        }
    }
}
