//! The command line: what a person types, and the exit code and words that come back.

mod demo;
mod logging;
mod run;
mod signals;
mod status;
mod teardown;

use clap::{Parser, Subcommand, ValueEnum};
use miette::{Diagnostic, Report};
use std::path::PathBuf;
use std::process::ExitCode;

/// Streams an auth database's users into every tenant's neon_auth.users_sync.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 all is well, 1 something has to be mended (the message says what and how), 2 wrong usage.\n\
                  Begin with `users-sync check -c FILE`; `users-sync demo` shows what it does without any set-up."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How the log is written to standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter as RUST_LOG has it
    #[arg(long, global = true, env = "RUST_LOG", value_name = "FILTER")]
    log_level: Option<String>,
}

/// `--log`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replicate until SIGTERM or SIGINT, which stop it within 10 s
    Run(ConfigFile),
    /// Look at source and targets without changing anything; say what is missing and the SQL that mends it
    Check(ConfigFile),
    /// Show every tenant: state, position, lag, last error
    Status {
        #[command(flatten)]
        file: ConfigFile,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Drop the slot, the publication and the state at the source; targets keep their users
    Teardown {
        #[command(flatten)]
        file: ConfigFile,
        /// Do not ask first
        #[arg(long)]
        yes: bool,
    },
    /// Show the main job on two throwaway PostgreSQL servers, then compare source and targets
    Demo {
        /// How long changes are shown
        #[arg(long, value_name = "N", default_value_t = 20)]
        seconds: u64,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The YAML file that says source, mapping and tenants
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: PathBuf,
}

/// Does what was asked for; errors go to standard error with their remedies.
pub fn run(cli: &Cli) -> ExitCode {
    let default_filter = if matches!(cli.command, Command::Demo { .. }) { "error" } else { "info" };
    if let Err(error) = logging::start(cli.log, cli.log_level.as_deref().unwrap_or(default_filter)) {
        eprintln!("--log-level: {error}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match &cli.command {
            Command::Run(file) => run::run(&file.config).await,
            Command::Check(file) => check(&file.config).await,
            Command::Status { file, json } => status::status(&file.config, *json).await,
            Command::Teardown { file, yes } => teardown::teardown(&file.config, *yes).await,
            Command::Demo { seconds } => demo::demo(*seconds).await,
        }
    });
    // A task that hangs in the system must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(report) => {
            eprintln!("{report:?}");
            ExitCode::FAILURE
        }
    }
}

async fn check(_: &std::path::Path) -> miette::Result<ExitCode> {
    Ok(ExitCode::FAILURE)
}

/// A failure with what mends it.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
struct Failure {
    message: String,
    #[help]
    remedy: Option<String>,
}

fn failure(message: impl std::fmt::Display) -> Report {
    Failure { message: message.to_string(), remedy: None }.into()
}

fn failure_with(message: impl std::fmt::Display, remedy: impl Into<String>) -> Report {
    Failure { message: message.to_string(), remedy: Some(remedy.into()) }.into()
}
