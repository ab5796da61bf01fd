//! Merges a stage from which the target refuses rows: bisection finds them, and they are left out.

use super::outcome::{LoadError, Loaded};
use super::progress_watch::ProgressWatch;
use crate::apply::statement::Merge;
use crate::apply::{Bisection, MAX_REJECTED, Refusal, RefusedUser, Shape, TargetError, statement};
use crate::model::Deletes;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Transaction};

/// Merges the stage of `read` rows in parts, inside the open savepoint.
pub(super) async fn isolate_rejected(
    transaction: &Transaction<'_>,
    deletes: Deletes,
    shape: &Shape,
    read: u64,
    watch: &ProgressWatch,
) -> Result<Loaded, LoadError> {
    transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    transaction.batch_execute(statement::INDEX_STAGE).await?;
    transaction.batch_execute(&statement::create_absent(deletes)).await?;
    let absent: i64 =
        transaction.query_typed_one("SELECT count(*) FROM pg_temp.users_sync_absent", &[]).await?.try_get(0)?;
    let mut delete = Counted::new(statement::delete_part_of_absent(deletes));
    let mut rejected =
        in_parts(transaction, absent as usize, &mut [&mut delete], statement::IDS_OF_ABSENT, watch).await?;
    let Merge { update, insert } = statement::merge_statements(shape, statement::PART_OF_STAGE);
    let (mut update, mut insert) = (Counted::new(&update), Counted::new(&insert));
    let written = &mut [&mut update, &mut insert];
    rejected.extend(in_parts(transaction, read as usize, written, statement::IDS_OF_STAGE, watch).await?);
    Ok(Loaded { read, inserted: insert.written, updated: update.written, deleted: delete.written, rejected })
}

/// A statement that is run in parts.
struct Counted<'a> {
    sql: &'a str,
    /// Rows written by the accepted parts.
    written: u64,
}

impl<'a> Counted<'a> {
    fn new(sql: &'a str) -> Counted<'a> {
        Counted { sql, written: 0 }
    }
}

/// Runs the statements over the stage's ordinals, halving parts that are refused. Returns the refused users.
async fn in_parts(
    transaction: &Transaction<'_>,
    items: usize,
    statements: &mut [&mut Counted<'_>],
    ids: &str,
    watch: &ProgressWatch,
) -> Result<Vec<RefusedUser>, LoadError> {
    let mut rejected = Vec::new();
    let mut bisection = Bisection::new(items, MAX_REJECTED);
    while let Some(range) = bisection.next_part() {
        transaction.batch_execute(statement::SAVEPOINT).await?;
        let bounds = [range.start as i64, range.end as i64];
        let bounds: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&bounds[0], Type::INT8), (&bounds[1], Type::INT8)];
        let tried = async {
            let mut written = Vec::with_capacity(statements.len());
            for statement in statements.iter() {
                written.push(transaction.execute_typed(statement.sql, &bounds).await?);
            }
            Ok::<_, Error>(written)
        };
        let tried = tried.await;
        watch.progressed();
        match tried {
            Ok(written) => {
                for (statement, written) in statements.iter_mut().zip(written) {
                    statement.written += written;
                }
            }
            Err(error) => {
                let refusal = Refusal::of(&error).ok_or(error)?;
                transaction.batch_execute(statement::ROLLBACK_TO_SAVEPOINT).await?;
                let refused_one = bisection.refused(range).is_some();
                if bisection.exceeds() {
                    return Err(TargetError::too_many_refused(&refusal.reason).into());
                }
                if refused_one {
                    let id: String = transaction.query_typed_one(ids, &bounds).await?.try_get(0)?;
                    rejected.push(RefusedUser { id: id.into(), refusal });
                }
            }
        }
    }
    Ok(rejected)
}
