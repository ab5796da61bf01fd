//! Prints what both sides run with.

use super::bed::Bed;
use users_sync::throwaway::PostgresServer;

/// Beside those of the configuration file.
const DECISIVE: &str = "'autovacuum', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_compression', \
    'logical_decoding_work_mem', 'checkpoint_timeout', 'jit'";

pub async fn print(bed: &Bed) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} processors, users-sync {} with its default configuration", env!("CARGO_PKG_VERSION"));
    for (title, server) in [("source", &bed.source), ("target", &bed.target)] {
        println!("{title}: {}", of(server).await);
    }
}

async fn of(server: &PostgresServer) -> String {
    let client = server.connect("postgres").await.unwrap();
    let sql = format!(
        "SELECT 'PostgreSQL ' || current_setting('server_version') || string_agg(', ' || name || ' = ' || \
         current_setting(name), '' ORDER BY name) FROM pg_settings WHERE name IN ({DECISIVE}) OR source = \
         'configuration file' AND name !~ '^(port|listen|unix|lc_|log_t|timezone|Time|default_text|dynamic|Date|max_stack)'"
    );
    client.query_one(&sql, &[]).await.unwrap().get(0)
}
