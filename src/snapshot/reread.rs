//! Rows that the stream did not carry whole, read from the source by id, once what changed them is visible there.
//!
//! A transaction can be streamed before readers see it (with a synchronous standby it waits between the two), so a
//! row that is read too early would be an old one.

use super::rows::{RowStream, SourceReadError};
use crate::model::{Cell, Relation, Xid};
use std::time::Duration;
use tokio_postgres::Client;

/// How long to wait before looking again whether a transaction is visible.
const NEXT_LOOK: Duration = Duration::from_millis(10);

/// Reads the rows whose id, by the SQL expression `id_expression` of type text, is one of `ids`, in a snapshot that
/// sees every one of `xids`, and hands their values to `each`. Rows that are not there are gone, or moved: a later
/// change tells.
pub async fn reread(
    client: &Client,
    relation: &Relation,
    decoded: &[bool],
    id_expression: &str,
    ids: &[&str],
    xids: &[Xid],
    mut each: impl FnMut(&[Cell<'_>]) + Send,
) -> Result<(), SourceReadError> {
    loop {
        client.batch_execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        // COPY takes no parameters; a setting of this transaction carries them.
        let row = client
            .query_one(
                "SELECT pg_current_snapshot()::text, set_config('users_sync.ids', $1::text[]::text, true)",
                &[&ids],
            )
            .await?;
        let snapshot: &str = row.get(0);
        if xids.iter().all(|xid| is_visible(*xid, snapshot)) {
            break;
        }
        client.batch_execute("ROLLBACK").await?;
        tokio::time::sleep(NEXT_LOOK).await;
    }
    let condition = format!("WHERE {id_expression} = ANY(current_setting('users_sync.ids')::text[])");
    let mut rows = RowStream::open(client, relation, decoded, &condition).await?;
    while rows.advance().await? {
        let mut cells = Vec::new();
        rows.cells(&mut cells)?;
        each(&cells);
    }
    Ok(client.batch_execute("ROLLBACK").await?)
}

/// Whether a transaction that has committed is seen by the snapshot `xmin:xmax:xip,...` (manual: "pg_snapshot").
/// The id lacks its epoch; it is taken as the nearest one to the snapshot's.
fn is_visible(xid: Xid, snapshot: &str) -> bool {
    let mut parts = snapshot.splitn(3, ':').skip(1);
    let xmax: u64 = parts.next().and_then(|xmax| xmax.parse().ok()).unwrap_or(0);
    // The distance on the circle of 32-bit ids: positive when the transaction is not yet in the snapshot's past.
    let ahead = xid.0.wrapping_sub(xmax as u32) as i32;
    let running = |list: &str| list.split(',').any(|id| id.parse::<u64>().is_ok_and(|id| id as u32 == xid.0));
    ahead < 0 && !parts.next().is_some_and(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_visible_once_it_is_past_and_not_running() {
        for (xid, snapshot, visible) in [
            (10, "10:10:", false),
            (9, "10:10:", true),
            (9, "9:12:9,11", false),
            (10, "9:12:9,11", true),
            (11, "9:12:9,11", false),
            (12, "9:12:9,11", false),
            (u32::MAX, "4294967296:4294967300:", true),
            (3, "4294967296:4294967300:", true),
            (4, "4294967296:4294967300:", false),
            (3, "4294967296:4294967300:4294967299", false),
        ] {
            assert_eq!(is_visible(Xid(xid), snapshot), visible, "{xid} in {snapshot}");
        }
    }
}
