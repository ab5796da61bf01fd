//! Throwaway PostgreSQL servers from the machine's own binaries, for `users-sync demo`, the benchmark and the tests.
//! Replication itself does not depend on them.

mod binaries;
mod error;
mod identity;
mod server;

pub use binaries::Binaries;
pub use error::ThrowawayError;
pub use server::{Options, PostgresServer};
