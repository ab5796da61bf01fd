//! Sessions of an earlier process on the source: a frozen process holds locks and snapshots for as long as its
//! connections live. Their `application_name` carries slot and epoch, so that no other installation's are ended.

use crate::model::{Epoch, hex};
use crate::pg::quote_literal;
use ring::digest::{SHA256, digest};
use tokio_postgres::Client;

/// Longest `application_name` that `pg_stat_activity` shows.
const MAX_NAME: usize = 63;
/// A longer slot name is replaced by its start and a hash.
const MAX_SLOT: usize = 32;

/// The `application_name` of the sessions of one epoch: `base slot@epoch`.
pub(crate) fn session_name(base: &str, slot: &str, epoch: Epoch) -> String {
    let mark = format!(" {}@{}", short(slot), epoch.0);
    // The server replaces other characters by longer ones, which would push the mark out.
    let base = base.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' });
    base.take(MAX_NAME - mark.len()).chain(mark.chars()).collect()
}

fn short(slot: &str) -> String {
    if slot.len() <= MAX_SLOT {
        return slot.to_owned();
    }
    let hash = hex(&digest(&SHA256, slot.as_bytes()).as_ref()[..8]);
    // Slot names are ASCII.
    format!("{}.{hash}", &slot[..MAX_SLOT - 17])
}

/// The name without slot and epoch.
pub(crate) fn base_name(name: &str) -> &str {
    let marked = name
        .rsplit_once(' ')
        .filter(|(_, mark)| mark.rsplit_once('@').is_some_and(|(_, epoch)| epoch.parse::<i64>().is_ok()));
    marked.map_or(name, |(base, _)| base)
}

/// The slot and the epoch of a session; `None` if its name has none. A long name of a slot is shortened.
pub(crate) fn session_mark(name: &str) -> Option<(&str, Epoch)> {
    let (_, mark) = name.rsplit_once(' ')?;
    let (slot, epoch) = mark.rsplit_once('@')?;
    Some((slot, Epoch(epoch.parse().ok()?)))
}

/// The epoch of a session of this slot; `None` for any other session.
pub(crate) fn epoch_of(name: &str, slot: &str) -> Option<Epoch> {
    session_mark(name).filter(|(of, _)| *of == short(slot)).map(|(_, epoch)| epoch)
}

/// Names a session that began before the epoch was known.
pub(crate) async fn name_session(client: &Client, name: &str) -> Result<(), tokio_postgres::Error> {
    client.batch_execute(&format!("SET application_name = {}", quote_literal(name))).await
}

/// Ends the sessions of older epochs of this slot, with the same role in the same database. Their temporary slots go with
/// them.
pub(crate) async fn end_older_sessions(client: &Client, slot: &str, epoch: Epoch) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT pid, application_name FROM pg_catalog.pg_stat_activity \
               WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()";
    for row in client.query_typed(sql, &[]).await? {
        let (pid, name): (i32, &str) = (row.try_get(0)?, row.try_get(1)?);
        let Some(older) = epoch_of(name, slot).filter(|other| *other < epoch) else { continue };
        client.query_one("SELECT pg_terminate_backend($1)", &[&pid]).await?;
        tracing::info!(pid, epoch = %older, "ended a session of an earlier process");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_by_slot_and_epoch() {
        let epoch = Epoch(1_795_878_018_826);
        let long = "s".repeat(63);
        for (base, slot) in
            [("users-sync", "users_sync"), ("größe ñ @ x", "s"), (&*"b".repeat(80), &*long), ("", "a_1")]
        {
            let name = session_name(base, slot, epoch);
            assert!(name.is_ascii() && name.len() <= MAX_NAME, "{name}");
            assert_eq!(epoch_of(&name, slot), Some(epoch), "{name}");
            for other in ["users_syn", "sync", "users_sync2", &*format!("{}t", &long[..62]), "sync@1"] {
                assert_eq!(epoch_of(&name, other), None, "{name} for {other}");
            }
        }
        let name = session_name("users-sync", "users_sync", Epoch(7));
        assert_eq!((&*name, base_name(&name)), ("users-sync users_sync@7", "users-sync"));
        assert_eq!((base_name("a b@c"), base_name("users-sync")), ("a b@c", "users-sync"));
        for name in
            ["users-sync", "users_sync@x", "users-sync users_sync@", "x users_sync", "users-sync users_sync@7 b"]
        {
            assert_eq!(epoch_of(name, "users_sync"), None, "{name}");
        }
    }
}
