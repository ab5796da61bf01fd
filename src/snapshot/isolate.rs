//! Merges a stage from which the target refuses rows: bisection finds them, and they are left out.

use super::outcome::Loaded;
use crate::apply::{Bisection, Refusal, Shape, statement};
use crate::model::{Deletes, UserId};
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Transaction};

/// Merges the stage of `read` rows in parts, inside the open savepoint.
pub(super) async fn isolate_rejected(
    transaction: &Transaction<'_>,
    deletes: Deletes,
    shape: &Shape,
    read: u64,
) -> Result<Loaded, Error> {
    transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    transaction.batch_execute(statement::INDEX_STAGE).await?;
    let [update, insert] = statement::merge_statements(shape, statement::PART_OF_STAGE);
    let merged = in_parts(transaction, read as usize, [&update, &insert], statement::IDS_OF_STAGE).await?;
    transaction.batch_execute(&statement::create_absent(deletes)).await?;
    let absent: i64 = transaction.query_typed_one("SELECT count(*) FROM pg_temp.users_sync_absent", &[]).await?.get(0);
    let delete = statement::delete_part_of_absent(deletes);
    let deleted = in_parts(transaction, absent as usize, [delete], statement::IDS_OF_ABSENT).await?;
    let rejected = merged.refused.into_iter().chain(deleted.refused).collect();
    let [updated, inserted] = merged.written;
    let [deleted] = deleted.written;
    Ok(Loaded { read, inserted, updated, deleted, rejected })
}

struct Parts<const STATEMENTS: usize> {
    /// Rows written by each statement.
    written: [u64; STATEMENTS],
    refused: Vec<(UserId, Refusal)>,
}

/// Runs the statements over the stage's ordinals, halving parts that are refused.
async fn in_parts<const STATEMENTS: usize>(
    transaction: &Transaction<'_>,
    items: usize,
    statements: [&str; STATEMENTS],
    ids: &str,
) -> Result<Parts<STATEMENTS>, Error> {
    let mut parts = Parts { written: [0; STATEMENTS], refused: Vec::new() };
    let mut bisection = Bisection::new(items);
    while let Some(range) = bisection.next_part() {
        transaction.batch_execute(statement::SAVEPOINT).await?;
        let bounds = [range.start as i64, range.end as i64];
        let bounds: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&bounds[0], Type::INT8), (&bounds[1], Type::INT8)];
        let tried = async {
            let mut written = [0; STATEMENTS];
            for (statement, written) in statements.iter().zip(&mut written) {
                *written = transaction.execute_typed(statement, &bounds).await?;
            }
            Ok::<_, Error>(written)
        };
        match tried.await {
            Ok(written) => parts.written = std::array::from_fn(|at| parts.written[at] + written[at]),
            Err(error) => {
                let refusal = Refusal::of(&error).ok_or(error)?;
                transaction.batch_execute(statement::ROLLBACK_TO_SAVEPOINT).await?;
                if bisection.refused(range).is_some() {
                    let id: String = transaction.query_typed_one(ids, &bounds).await?.get(0);
                    parts.refused.push((id.into(), refusal));
                }
            }
        }
    }
    Ok(parts)
}
