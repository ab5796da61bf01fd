//! The binary: parse, call the library, map an error to an exit code.

use clap::Parser;
use std::process::ExitCode;
use users_sync::cli::{self, Cli};

fn main() -> ExitCode {
    cli::run(&Cli::parse())
}
