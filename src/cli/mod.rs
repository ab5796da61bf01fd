//! The command line: one file per command. Errors arrive here as a `Diagnostic`.

mod admins;
mod adopt;
#[cfg(feature = "kafka")]
mod adopt_kafka;
mod check;
mod common;
mod completions;
mod confirm;
mod demo;
mod dialogue;
mod exit;
mod explain;
mod export;
mod forget;
mod health;
mod init;
mod known_tenants;
mod logging;
mod output;
mod password;
mod pause;
mod plan;
mod presets;
mod rejected;
mod reload;
mod resync;
mod resync_user;
mod run;
mod setup;
mod signals;
mod status;
mod table;
mod teardown;
mod tenants;
mod verify;

use crate::cli::exit::ExitCode;
use crate::diagnostic::{Diagnostic, diagnostic};
use clap::{CommandFactory, Parser, Subcommand};
use common::{ConfigFile, FAILED};
use logging::{LogFormat, Logging};
use output::Format;

/// Streams an auth database's users into every tenant's neon_auth.users_sync.
#[derive(Parser, Debug)]
#[command(name = "users-sync", version = VERSION, about, after_help = AFTER_HELP)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    file: ConfigFile,
    /// Format of the log on stderr. Default: text; for `run`, the `log` of its configuration.
    #[arg(long, global = true, value_enum, value_name = "FORMAT")]
    log: Option<LogFormat>,
    /// Log filter: error, warn, info, debug, trace, or a list such as info,users_sync::capture=debug.
    ///
    /// A single level applies to users-sync; its libraries then log only warnings. Library messages that could hold row
    /// values are never logged. Default: info.
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER")]
    log_level: Option<String>,
}

/// The version, with the commit of the build.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("USERS_SYNC_COMMIT"), ")");

const AFTER_HELP: &str = "\
Getting started: `init` writes users-sync.yaml, `setup` prints the SQL for it, `check` until it reports no errors, then `run`.

Exit codes: 0 success, 1 failure or a finding that needs a fix, 2 invalid usage, 3 nothing replicates (`status`).";

#[derive(Subcommand, Debug)]
enum Command {
    /// Copy the existing users, then replicate every change until stopped.
    ///
    /// On SIGTERM or SIGINT it stops within 10 s and loses nothing: the next start continues from the same position. A
    /// second signal ends it immediately.
    ///
    /// On SIGHUP, and when one of its files changes, it reloads the configuration: tenants are added and removed while the
    /// others keep streaming. An invalid configuration is rejected, and the current one stays in force.
    Run(run::Arguments),
    /// Apply the users' topic of the Kafka output to the targets, as one process of the consumer group `kafka.group`.
    ///
    /// Any number of processes share the partitions of the topic. They need the same configuration as `run`, and access to the
    /// brokers, the state and the targets, but not to the source. Signals and reloads work as in `run`.
    #[cfg(feature = "kafka")]
    Apply,
    /// Look at the auth database, and write a configuration for it.
    ///
    /// It recognises the auth stores of the presets by their tables, and lists the tenants that have users. At a terminal it
    /// asks for what is not given. It changes nothing at the source, and writes no password.
    Init(init::Arguments),
    /// Check that `run` has everything it needs, and print the SQL that fixes what is missing. Changes nothing.
    Check(check::Arguments),
    /// Print the least-privilege SQL for the source and the targets; run it with --apply.
    ///
    /// It covers roles, column grants, replica identities and the publication, and schema, table and grants in each target.
    /// With --apply, exit code 1 means that a part was not done; the last lines say which.
    Setup(setup::Arguments),
    /// List the presets for auth stores, or print one.
    Presets(presets::Arguments),
    /// Print the JSON Schema of the configuration, for editors.
    Schema {
        /// Print the schema of a preset file instead.
        #[arg(long)]
        preset: bool,
        /// Print the reference of all keys as Markdown instead.
        #[arg(long, conflicts_with = "preset")]
        markdown: bool,
    },
    /// Show the state, position and lag of every tenant, and what needs attention.
    ///
    /// Exit code 0: everything replicates, 1: something needs attention, 3: nothing replicates.
    ///
    /// Reads the state that `run` records, so it works from any machine that can reach the state's database.
    Status(status::Arguments),
    /// Print under which names each column leaves the source, or why it stays; with a code, what it means and its remedy.
    ///
    /// The columns are those of every table that the mapping reads. The codes are those of `check`, `status`, the API, the
    /// metrics and the log: they need no configuration and no connection.
    Explain(explain::Arguments),
    /// Take a new snapshot of tenants while the others keep streaming.
    ///
    /// The running process does it; if none is running, this command does. Only rows that differ are written.
    Resync(resync::Arguments),
    /// List the users that targets reject, each with the reason; try them again with --retry.
    ///
    /// Exit code 0: none is rejected. The list is users_sync.rejected of each target.
    Rejected(rejected::Arguments),
    /// Stop writing to the targets of tenants, for maintenance. Their changes wait.
    ///
    /// The running process closes its connections to them after the current batch; this command waits for that. A pause
    /// outlasts restarts and fail-overs. What waits is bounded by limits.tenant_memory and limits.source_wal: past them the
    /// tenant is parked, and resynced once it is resumed.
    Pause(pause::PauseArguments),
    /// Continue with paused tenants, and try parked ones again at once.
    ///
    /// A paused tenant continues where it was; one that was parked is resynced.
    Resume(pause::ResumeArguments),
    /// Compare source and targets at one position while `run` continues; fix differences with --repair.
    ///
    /// Exit code 0: every target equals the source. Changes nothing without --repair.
    Verify(verify::Arguments),
    /// Take over a tenant's neon_auth.users_sync that has rows already: Neon's own table, or that of another installation.
    ///
    /// It compares first, prints what will change, and asks. Then rows and checkpoint are written in one transaction, by the
    /// running process or, if none is running, here. No row is deleted: foreign keys of the application stay intact.
    ///
    /// With --kafka it takes over topics of an installation that no longer runs.
    Adopt(adopt::Arguments),
    /// Permanently delete the users of a tenant that was removed from the configuration.
    Forget(forget::Arguments),
    /// Drop the slot, the publication, what `setup` recorded, and the state. Targets keep their users.
    ///
    /// Stop `run` first. Lists what will be dropped and what stays because others use it, and asks for confirmation. After a
    /// failure it can be run again.
    Teardown(teardown::Arguments),
    /// Report through the exit code whether a running process is ready. For health checks.
    ///
    /// Needs `admin.listen` in the configuration, and no token.
    Health(health::Arguments),
    /// Run a demonstration: two throwaway PostgreSQL servers on this machine, two tenants, users that sign up and leave.
    ///
    /// With --stay it has a page on which you sign up, rename and delete people, and the console of its process.
    Demo(demo::Arguments),
    /// Print the script that completes commands and options in a shell.
    ///
    /// For bash: `users-sync completions bash > ~/.local/share/bash-completion/completions/users-sync`. Packages install it.
    Completions(completions::Arguments),
    /// Write a man page for each command. Packages install them.
    #[command(hide = true)]
    Man(completions::ManArguments),
}

/// Runs the command. Prints an error to stderr.
pub fn main(cli: Cli) -> ! {
    exit::end(match execute(cli) {
        Ok(_) if output::is_lost() => {
            output::error(&diagnostic!("a part of the output could not be written"));
            ExitCode::from(FAILED)
        }
        Ok(code) => code,
        Err(diagnostic) => {
            output::failure(&diagnostic);
            ExitCode::from(FAILED)
        }
    })
}

impl Command {
    /// Whether the command runs until a signal. Such a command begins its log itself, as its configuration says.
    fn serves(&self) -> bool {
        match self {
            Command::Run(_) => true,
            #[cfg(feature = "kafka")]
            Command::Apply => true,
            _ => false,
        }
    }

    fn format(&self) -> Format {
        match self {
            Command::Run(run) => Format { json: run.json },
            #[cfg(feature = "kafka")]
            Command::Apply => Format { json: false },
            // The schema is JSON itself, the demonstration is for people, scripts are for shells, and man pages are files.
            Command::Schema { .. } | Command::Demo(_) | Command::Completions(_) | Command::Man(_) => {
                Format { json: false }
            }
            Command::Init(init) => init.format,
            Command::Check(check) => check.format,
            Command::Setup(setup) => setup.format,
            Command::Presets(presets) => presets.format,
            Command::Status(status) => status.format,
            Command::Explain(explain) => explain.format,
            Command::Resync(resync) => resync.format,
            Command::Rejected(rejected) => rejected.format,
            Command::Pause(pause) => pause.format,
            Command::Resume(resume) => resume.format,
            Command::Verify(verify) => verify.format,
            Command::Adopt(adopt) => adopt.format,
            Command::Forget(forget) => forget.format,
            Command::Teardown(teardown) => teardown.format,
            Command::Health(health) => health.format,
        }
    }
}

fn execute(cli: Cli) -> Result<ExitCode, Diagnostic> {
    output::begin(cli.command.format());
    // These print their own progress.
    let level = match cli.command {
        Command::Demo(_) => "error",
        Command::Verify(_) | Command::Resync(_) | Command::Adopt(_) => "warn",
        _ => "info",
    };
    let logging = Logging { format: cli.log, level: cli.log_level.unwrap_or_else(|| level.to_owned()) };
    if !cli.command.serves() {
        logging.begin(LogFormat::Text, None)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| diagnostic!("cannot start the runtime: {error}"))?;
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(arguments) => Box::pin(run::execute(&arguments, &logging, &cli.file)).await,
            #[cfg(feature = "kafka")]
            Command::Apply => Box::pin(run::serve(run::Reads::Kafka, &logging, &cli.file)).await,
            Command::Init(arguments) => init::execute(&arguments, &cli.file).await,
            Command::Check(_) => check::execute(&cli.file).await,
            Command::Setup(arguments) => setup::execute(&arguments, &cli.file).await,
            Command::Presets(arguments) => presets::execute(&arguments),
            Command::Schema { preset, markdown } => {
                let text = if preset {
                    crate::config::preset_schema()
                } else if markdown {
                    crate::config::reference()
                } else {
                    crate::config::json_schema()
                };
                output::line(text.trim_end());
                Ok(ExitCode::SUCCESS)
            }
            Command::Status(_) => status::execute(&cli.file).await,
            Command::Explain(arguments) => Box::pin(explain::execute(&arguments, &cli.file)).await,
            Command::Adopt(arguments) => Box::pin(adopt::execute(&arguments, &cli.file)).await,
            Command::Forget(arguments) => forget::execute(&arguments, &cli.file).await,
            Command::Verify(arguments) => Box::pin(verify::execute(&arguments, &cli.file)).await,
            Command::Rejected(arguments) => Box::pin(rejected::execute(&arguments, &cli.file)).await,
            Command::Pause(arguments) => pause::pause(&arguments, &cli.file).await,
            Command::Resume(arguments) => pause::resume(&arguments, &cli.file).await,
            Command::Resync(arguments) => Box::pin(resync::execute(&arguments, &cli.file)).await,
            Command::Teardown(arguments) => teardown::execute(&arguments, &cli.file).await,
            Command::Health(arguments) => health::execute(&arguments),
            Command::Demo(arguments) => demo::execute(&arguments).await,
            Command::Completions(arguments) => completions::execute(&arguments, Cli::command()),
            Command::Man(arguments) => completions::man(&arguments, Cli::command()),
        }
    });
    // A pending DNS lookup must not delay the exit.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The schema is JSON itself, the demonstration is for people, scripts are for shells, and man pages are files.
    /// `run --json` needs --plan, and `apply` has no result.
    const WITHOUT_JSON: [&str; 5] = ["apply", "schema", "demo", "completions", "man"];

    #[test]
    fn every_command_with_a_result_prints_it_as_json() {
        for command in Cli::command().get_subcommands() {
            let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            assert_eq!(has_json, !WITHOUT_JSON.contains(&command.get_name()), "{}", command.get_name());
        }
    }
}
