//! Users of a comparison that the target's stage cannot hold: their encoding, a number, the depth of a document. They are
//! copied in parts, from which they are found by bisection.

use super::load::copy;
use super::outcome::LoadError;
use super::progress_watch::ProgressWatch;
use super::spool::RowReceiver;
use crate::apply::{Bisection, MAX_REJECTED, RejectReason, TargetError, statement};
use crate::model::{IdHash, User, UserId};
use std::collections::BTreeMap;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

/// By the hash of the id, which any target can compare.
#[derive(Default)]
pub(super) struct Unstaged(BTreeMap<IdHash, UserId>);

impl Unstaged {
    pub(super) fn ids(&self) -> Vec<String> {
        self.0.values().map(|id| id.to_string()).collect()
    }

    pub(super) fn contains(&self, key: &IdHash) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&IdHash, &UserId)> {
        self.0.iter()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &IdHash> {
        self.0.keys()
    }

    /// Keeps the users for which `keeps` is true.
    pub(super) fn retain(&mut self, keeps: impl Fn(&IdHash) -> bool) {
        self.0.retain(|key, _| keeps(key));
    }

    /// Adds a user, for the reason that its row was refused.
    ///
    /// # Errors
    /// There are more than [`MAX_REJECTED`].
    fn add(&mut self, id: &UserId, reason: &RejectReason) -> Result<(), TargetError> {
        self.0.insert(IdHash::of(id), id.clone());
        if self.0.len() > MAX_REJECTED { Err(TargetError::too_many_refused(reason)) } else { Ok(()) }
    }
}

/// Copies users into a stage in parts.
pub(super) struct Staging<'a> {
    pub(super) transaction: &'a Transaction<'a>,
    pub(super) stage: &'a str,
    pub(super) watch: &'a ProgressWatch,
}

impl Staging<'_> {
    /// Copies these users but for those that the stage cannot hold. Of several rows with one id, the last one stays. Returns
    /// the number of copied users.
    pub(super) async fn copy(&self, users: &[User], unstaged: &mut Unstaged) -> Result<u64, LoadError> {
        let mut bisection = Bisection::new(users.len(), usize::MAX);
        let mut copied = 0;
        while let Some(range) = bisection.next_part(usize::MAX) {
            let part = &users[range.clone()];
            self.transaction.batch_execute(statement::SAVEPOINT).await?;
            match self.copy_part(part).await {
                Ok(count) => {
                    self.transaction.batch_execute(statement::RELEASE_SAVEPOINT).await?;
                    copied += count;
                }
                Err(LoadError::Target(error)) => {
                    let refusal = error.refusal().ok_or(error)?;
                    self.transaction.batch_execute(statement::UNDO_SAVEPOINT).await?;
                    let Some(user) = bisection.refused(range).and_then(|at| users.get(at)) else { continue };
                    if refusal.is_conflict() {
                        let remove = format!("DELETE FROM {} WHERE id = $1", self.stage);
                        self.transaction.execute_typed(&remove, &[(&&*user.id, Type::TEXT)]).await?;
                        self.copy_part(part).await?;
                    } else {
                        unstaged.add(&user.id, &refusal.reason)?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(copied)
    }

    /// Copies users at once.
    pub(super) async fn copy_part(&self, users: &[User]) -> Result<u64, LoadError> {
        let mut rows = RowReceiver::of(users.to_vec());
        copy(self.transaction, self.stage, &statement::STAGE_COLUMNS, &mut rows, self.watch).await
    }
}
