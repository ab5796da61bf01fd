//! Rows of a taken-over target whose users the source does not have. `users_sync.kept` remembers them, so that no later
//! snapshot deletes them either.

use super::loading::{Adoption, Loading};
use crate::apply::statement::{CREATE_KEPT, HAS_KEPT};
use crate::model::ExtraRows;
use tokio_postgres::{Error, Transaction};

/// How a load knows the users of its snapshot.
#[derive(Clone, Copy)]
pub(super) enum Known {
    /// By the rows of the stage.
    Stage,
    /// By the hashes of their ids.
    Keys,
}

impl Known {
    /// SQL for whether the snapshot has the user of row `u`.
    fn has(self) -> &'static str {
        match self {
            Known::Stage => "EXISTS (SELECT FROM pg_temp.users_sync_stage v WHERE v.id = u.id)",
            Known::Keys => {
                "EXISTS (SELECT FROM pg_temp.users_sync_keys v WHERE v.key = sha256(convert_to(u.id, 'UTF8')))"
            }
        }
    }

    /// Adds the kept users to those of the snapshot, without a document: a merge then leaves their rows as they are.
    fn add_kept(self) -> &'static str {
        match self {
            Known::Stage => {
                "INSERT INTO pg_temp.users_sync_stage (id, derived) SELECT u.id, false FROM users_sync.kept u"
            }
            Known::Keys => {
                "INSERT INTO pg_temp.users_sync_keys SELECT sha256(convert_to(u.id, 'UTF8')) FROM users_sync.kept u \
                 ON CONFLICT DO NOTHING"
            }
        }
    }
}

/// Protects kept rows from the merge that follows. Call it once the snapshot's users are known.
pub(super) async fn spare(transaction: &Transaction<'_>, loading: &Loading<'_>, known: Known) -> Result<(), Error> {
    let extra = loading.adoption.as_ref().map(|adoption| adoption.extra);
    if extra == Some(ExtraRows::Keep) {
        transaction.batch_execute(CREATE_KEPT).await?;
        remember(transaction, known).await?;
    }
    if !transaction.query_typed_one(HAS_KEPT, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(());
    }
    if extra == Some(ExtraRows::MarkDeleted) {
        return transaction.batch_execute("DELETE FROM users_sync.kept").await;
    }
    // The source has them now.
    transaction.batch_execute(&format!("DELETE FROM users_sync.kept u WHERE {}", known.has())).await?;
    transaction.batch_execute(known.add_kept()).await
}

/// Remembers the rows that an adoption has marked as deleted, where later snapshots delete rows.
pub(super) async fn remember_marked(
    transaction: &Transaction<'_>,
    loading: &Loading<'_>,
    known: Known,
) -> Result<(), Error> {
    match loading.adoption {
        Some(Adoption { extra: ExtraRows::MarkDeleted, deletes_later: true, .. }) => {
            transaction.batch_execute(CREATE_KEPT).await?;
            remember(transaction, known).await
        }
        _ => Ok(()),
    }
}

async fn remember(transaction: &Transaction<'_>, known: Known) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO users_sync.kept SELECT u.id FROM neon_auth.users_sync u WHERE NOT {} ON CONFLICT DO NOTHING",
        known.has()
    );
    transaction.batch_execute(&sql).await
}
