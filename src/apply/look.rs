//! How a target stands, looked at without touching it: for `run --plan`.

use super::assessment::ObservedTarget;
use super::statement;
use super::target::{TargetError, read_checkpoint};
use tokio_postgres::Client;

/// What [`super::Target::open`] would find.
pub async fn look(client: &Client) -> Result<ObservedTarget, TargetError> {
    let row = client.query_typed_one(statement::FIND_TABLES, &[]).await?;
    let (has_checkpoint, has_users): (bool, bool) = (row.get(0), row.get(1));
    let checkpoint = if has_checkpoint { read_checkpoint(client).await? } else { None };
    let (has_rows, relation) = match has_users {
        true => {
            let row = client.query_typed_one(statement::HAS_ROWS, &[]).await?;
            (row.get(0), row.get::<_, Option<u32>>(1))
        }
        false => (false, None),
    };
    Ok(ObservedTarget { checkpoint, created: !has_users, has_rows, relation })
}
