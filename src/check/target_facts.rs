//! Reads the facts about a target: what a role finds there, and whether it is another installation's.

use crate::apply::{Checkpoint, TargetFacts, inspect, read_checkpoint};
use crate::pg::Statements;
use tokio_postgres::Error;

#[derive(Clone, Debug)]
pub(super) struct CheckedTarget {
    pub(super) target: TargetFacts,
    /// Whether `users_sync` has rows; `None` if it cannot be read.
    pub(super) has_rows: Option<bool>,
    /// Whether `users_sync` exists without a fillfactor of its own.
    pub(super) has_default_fillfactor: bool,
    pub(super) checkpoint: Option<Checkpoint>,
    /// False if a checkpoint may exist that cannot be read.
    pub(super) checkpoint_known: bool,
}

pub(super) async fn gather(client: &impl Statements) -> Result<CheckedTarget, Error> {
    let target = inspect(client).await?;
    let mut has_rows = None;
    if target.users.is_readable() {
        let sql = "SELECT EXISTS (SELECT FROM neon_auth.users_sync)";
        has_rows = Some(client.query_typed_one(sql, &[]).await?.try_get(0)?);
    }
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname = 'neon_auth' AND c.relname = 'users_sync' AND c.relkind = 'r' AND NOT EXISTS ( \
                   SELECT FROM pg_catalog.unnest(c.reloptions) AS option WHERE option LIKE 'fillfactor=%'))";
    let has_default_fillfactor = client.query_typed_one(sql, &[]).await?.try_get(0)?;
    let is_readable = target.checkpoint.is_readable();
    let checkpoint = if is_readable { read_checkpoint(client).await? } else { None };
    let checkpoint_known = is_readable || target.checkpoint.kind.is_none();
    Ok(CheckedTarget { target, has_rows, has_default_fillfactor, checkpoint, checkpoint_known })
}
