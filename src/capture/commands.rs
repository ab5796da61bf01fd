//! The texts of the replication commands (manual: "Streaming Replication Protocol"). Pure.

use crate::model::Lsn;
use crate::pg::quote_ident;

/// The output plugin, built in since PostgreSQL 10.
pub(crate) const PLUGIN: &str = "pgoutput";
/// First version whose CREATE_REPLICATION_SLOT takes its options in parentheses.
const PARENTHESIZED_OPTIONS_VERSION: u32 = 150_000;
/// First version that can synchronize slots to standbys.
const FAILOVER_SLOTS_VERSION: u32 = 170_000;

pub(super) fn create_command(name: &str, temporary: bool, server_version: u32) -> String {
    let kind = if temporary { " TEMPORARY" } else { "" };
    let options = match server_version {
        ..PARENTHESIZED_OPTIONS_VERSION => "EXPORT_SNAPSHOT",
        FAILOVER_SLOTS_VERSION.. if !temporary => "(SNAPSHOT 'export', FAILOVER true)",
        _ => "(SNAPSHOT 'export')",
    };
    format!("CREATE_REPLICATION_SLOT {}{kind} LOGICAL {PLUGIN} {options}", quote_ident(name))
}

/// Without `messages`: any role may write logical messages of any size, and we need none.
pub(super) fn start_command(slot: &str, from: Lsn, publications: &[&str]) -> String {
    let names = publications.iter().map(|name| quote_ident(name)).collect::<Vec<_>>().join(",");
    // The walsender's grammar has no E'' strings: a backslash stands for itself, and only quotes are doubled.
    let names = names.replace('\'', "''");
    let slot = quote_ident(slot);
    format!("START_REPLICATION SLOT {slot} LOGICAL {from} (proto_version '1', publication_names '{names}')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_created_in_the_syntax_of_the_servers_version() {
        let check = |version, temporary, expected: &str| {
            let command = create_command("s", temporary, version);
            assert_eq!(command, format!("CREATE_REPLICATION_SLOT \"s\"{expected}"));
        };
        check(140_009, true, " TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
        check(140_009, false, " LOGICAL pgoutput EXPORT_SNAPSHOT");
        check(150_000, true, " TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')");
        check(160_002, false, " LOGICAL pgoutput (SNAPSHOT 'export')");
        check(170_000, true, " TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')");
        check(170_000, false, " LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)");
    }

    #[test]
    fn names_cannot_break_out_of_their_quotes() {
        assert_eq!(
            start_command("s", Lsn(0x10_0000_00FF), &["users", "o'd\"d\\"]),
            "START_REPLICATION SLOT \"s\" LOGICAL 10/FF (proto_version '1', \
             publication_names '\"users\",\"o''d\"\"d\\\"')"
        );
    }
}
