//! Throwaway PostgreSQL servers from the machine's own binaries, and a proxy that breaks connections on purpose.
//! For `users-sync demo`, the benchmark and the tests; nothing of the replication itself depends on it.

mod binaries;
mod error;
mod proxy;
mod server;

pub use binaries::{Account, Binaries};
pub use error::ThrowawayError;
pub use proxy::{Cut, Direction, TcpProxy};
pub use server::{Options, PostgresServer};
