//! The binary: parse, call the library, map an error to an exit code.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    users_sync::cli::main(users_sync::cli::Cli::parse())
}
