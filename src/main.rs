//! The binary: parse, call the library.

use clap::Parser;

/// Returns memory to the system: a thousand tenants that take their first snapshots hold a connection each, and none an
/// hour later.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    users_sync::cli::main(users_sync::cli::Cli::parse())
}
