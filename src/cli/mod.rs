//! The command line: one file per command. What goes wrong ends up here as a [`Diagnostic`].

mod check;
mod common;
mod confirm;
mod demo;
mod forget;
mod health;
mod logging;
mod plan;
mod presets;
mod reload;
mod resync;
mod run;
mod setup;
mod signals;
mod status;
mod table;
mod teardown;
mod verify;

use crate::diagnostic::{Diagnostic, diagnostic};
use clap::{Parser, Subcommand};
use common::{ConfigFile, FAILED};
use logging::{LogFormat, Logging};
use std::io::IsTerminal;
use std::process::ExitCode;

/// Streams an auth database's users into every tenant's neon_auth.users_sync.
#[derive(Parser, Debug)]
#[command(name = "users-sync", version = VERSION, about, after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How log lines look; they go to stderr. Default: text, and for `run` what its configuration says.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log: Option<LogFormat>,
    /// What is logged: error, warn, info, debug, trace, or a list such as info,users_sync::capture=debug.
    ///
    /// A level alone is that of users-sync itself; of its libraries only warnings are shown then. What a library may say of
    /// rows is shown at no level. Default: info.
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER")]
    log_level: Option<String>,
}

/// With the commit that it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("USERS_SYNC_COMMIT"), ")");

const AFTER_HELP: &str = "\
To begin: copy config/minimal.yaml, fill in the URLs, run `check` until it has no more errors, then `run`.

Exit codes: 0 all is well, 1 a failure or a finding that has to be mended, 2 a command line that cannot be.";

#[derive(Subcommand, Debug)]
enum Command {
    /// Copy the users that are there, then follow every change until stopped.
    ///
    /// Stops within 10 s on SIGTERM or SIGINT and loses nothing: the next start goes on where this one was. A second
    /// signal ends it at once.
    ///
    /// On SIGHUP, and when one of its files is written, the configuration is read again: tenants come and go while the
    /// others follow; one that cannot be used is refused, and the one before stays in force.
    Run(run::Arguments),
    /// Say whether everything is as `run` needs it, with the SQL that mends what is not. Changes nothing.
    Check(ConfigFile),
    /// Print the least-privilege SQL for the source and the targets, and run it with --apply.
    ///
    /// Roles, grants on single columns, replica identities, the publication; schema, table and grants in each target.
    Setup(setup::Arguments),
    /// List the presets of auth stores, or print one.
    Presets(presets::Arguments),
    /// Print the JSON Schema of the configuration, for editors.
    Schema {
        /// That of a preset's file.
        #[arg(long)]
        preset: bool,
        /// Print the reference of all keys as Markdown instead.
        #[arg(long, conflicts_with = "preset")]
        markdown: bool,
    },
    /// Show how far every tenant is.
    ///
    /// Reads what a running `run` writes down, so it works from any machine that reaches the state's database.
    Status(status::Arguments),
    /// Snapshot tenants anew, while everybody else follows.
    ///
    /// Asks the running process, and does it itself where none runs. What differs is written, and nothing else.
    Resync(resync::Arguments),
    /// Compare source and targets at one position, beside the running process; mend what differs with --repair.
    ///
    /// Exit code 0: every target holds what the source has. Changes nothing without --repair.
    Verify(verify::Arguments),
    /// Delete the users of a tenant that the configuration does not have any more, for good.
    Forget(forget::Arguments),
    /// Drop the slot, the publication and the state. Targets keep their users.
    ///
    /// Stop `run` first. Shows what goes, and asks.
    Teardown(teardown::Arguments),
    /// Ask a running process whether it is ready; the exit code says so. For health checks.
    ///
    /// It takes `admin.listen` in the configuration, and no token.
    Health(health::Arguments),
    /// See it work: two throwaway PostgreSQL servers on this machine, two tenants, people coming and going.
    Demo(demo::Arguments),
}

/// Runs the command, and says on stderr what went wrong.
pub fn main(cli: Cli) -> ExitCode {
    match execute(cli) {
        Ok(code) => code,
        Err(diagnostic) => {
            let colored = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let label = if colored { "\x1b[1;31merror\x1b[0m" } else { "error" };
            eprintln!("{label}: {}", diagnostic.render(colored));
            ExitCode::from(FAILED)
        }
    }
}

fn execute(cli: Cli) -> Result<ExitCode, Diagnostic> {
    // These talk for themselves.
    let level = match cli.command {
        Command::Demo(_) => "error",
        Command::Verify(_) | Command::Resync(_) => "warn",
        _ => "info",
    };
    let logging = Logging { format: cli.log, level: cli.log_level.unwrap_or_else(|| level.to_owned()) };
    if !matches!(cli.command, Command::Run(_)) {
        logging.begin(LogFormat::Text)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| diagnostic!("cannot start the runtime: {error}"))?;
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(arguments) => run::execute(&arguments, &logging).await,
            Command::Check(file) => Ok(check::execute(&file.load()?).await),
            Command::Setup(arguments) => setup::execute(&arguments).await,
            Command::Presets(arguments) => presets::execute(&arguments),
            Command::Schema { preset, markdown } => {
                let text = match (preset, markdown) {
                    (true, _) => crate::config::preset_schema(),
                    (_, true) => crate::config::reference(),
                    _ => crate::config::json_schema(),
                };
                println!("{}", text.trim_end());
                Ok(ExitCode::SUCCESS)
            }
            Command::Status(arguments) => status::execute(&arguments).await,
            Command::Forget(arguments) => forget::execute(&arguments).await,
            Command::Verify(arguments) => verify::execute(&arguments).await,
            Command::Resync(arguments) => resync::execute(&arguments).await,
            Command::Teardown(arguments) => teardown::execute(&arguments).await,
            Command::Health(arguments) => health::execute(&arguments),
            Command::Demo(arguments) => demo::execute(&arguments).await,
        }
    });
    // A name that is being looked up must not keep the process.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
