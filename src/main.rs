//! The binary: parse, call the library, map an error to an exit code.

use clap::Parser;
use std::process::ExitCode;

/// It gives memory back: a thousand tenants that join at a start hold a connection each, and none an hour later.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    users_sync::cli::main(users_sync::cli::Cli::parse())
}
