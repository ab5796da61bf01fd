//! Finds the rows that a target refuses, inside a transaction whose first statement was the guard: a part that is refused
//! is rolled back, and its halves are tried.

use super::batch::{Parts, batch_statement, interim};
use super::columns::RowParameters;
use super::notify::Notify;
use super::plan::plan_rows;
use super::refusal::{Bisection, Refusal, RefusedUser};
use super::reject_reason::MAX_REJECTED;
use super::shape::Shape;
use super::statement;
use super::statement_size::StatementSize;
use super::target::{Target, TargetError};
use crate::model::{Change, Deletes, UserId};
use crate::pg::{NO_TRANSACTION_TIMEOUT, Statements};
use std::ops::Range;
use tokio_postgres::types::{ToSql, Type};

/// A change that a target refuses.
#[derive(Clone)]
pub(crate) struct RefusedRow<'r> {
    pub(crate) change: &'r Change,
    pub(crate) refusal: Refusal,
}

/// Writes rows in parts, into an open transaction.
pub(crate) struct Isolation<'a, S> {
    pub(crate) client: &'a S,
    pub(crate) shape: &'a Shape,
    pub(crate) deletes: Deletes,
    pub(crate) notify: Notify,
    /// How many rows a part may have.
    pub(crate) size: &'a StatementSize,
    /// Called after each answer of the target.
    pub(crate) progressed: &'a (dyn Fn() + Sync),
}

/// What is done with each item of a list.
pub(super) enum Step<'s> {
    Write(&'s [&'s Change]),
    /// The users' rows get an interim value: [`interim`].
    Interim(&'s [UserId]),
}

/// Ends the savepoint of a part that was accepted, and begins that of the next one. Savepoints that are never released
/// would nest, and each row's visibility would be looked up in all of them.
const NEXT_SAVEPOINT: &str = "RELEASE SAVEPOINT users_sync; SAVEPOINT users_sync";

impl<S: Statements> Isolation<'_, S> {
    /// Writes changes without those that the target refuses, after all of them together were refused. Stops past
    /// [`MAX_REJECTED`].
    pub(crate) async fn isolate(&self, changes: &[&Change]) -> Result<Vec<RefusedUser>, TargetError> {
        let refused = self.each(Step::Write(changes)).await?;
        let refused: Vec<RefusedRow<'_>> =
            refused.into_iter().map(|(at, refusal)| RefusedRow { change: changes[at], refusal }).collect();
        self.settle(refused).await
    }

    /// Writes changes without those that the target refuses. Returns the refused ones with their reasons.
    pub(crate) async fn write_accepted(&self, changes: &[Change]) -> Result<Vec<(usize, Refusal)>, TargetError> {
        self.each(Step::Write(&changes.iter().collect::<Vec<_>>())).await
    }

    /// Does a step with every item. Returns the items that were refused, with the reason.
    pub(super) async fn each(&self, step: Step<'_>) -> Result<Vec<(usize, Refusal)>, TargetError> {
        let mut refused = Vec::new();
        let mut bisection = Bisection::new(step.len(), MAX_REJECTED);
        let Some(mut next) = bisection.next_part(self.size.rows()) else { return Ok(refused) };
        self.client.batch_execute(statement::SAVEPOINT).await?;
        loop {
            let range = next;
            let done = self.run(&step, range.clone()).await;
            (self.progressed)();
            let accepted = match done {
                Ok(()) => {
                    self.size.fitted(range.len());
                    true
                }
                // RAISE with the code of a time limit may be one, or refuse a row.
                Err(error) if error.is_too_slow() && (range.len() > 1 || error.refusal().is_none()) => {
                    self.size.too_slow(range.len());
                    if range.len() == 1 {
                        step.change(range.start).inspect(|change| self.size.stuck_at(change));
                        return Err(error);
                    }
                    bisection.too_slow();
                    false
                }
                Err(error) => {
                    if error.is_lost() {
                        self.size.lost(range.len());
                    }
                    let refusal = error.refusal().ok_or(error)?;
                    let refused_one = bisection.refused(range);
                    // Rows that stand in each other's way may all fit in the end.
                    if bisection.exceeds() && !refusal.is_conflict() {
                        return Err(TargetError::too_many_refused(&refusal.reason));
                    }
                    if let Some(at) = refused_one {
                        refused.push((at, refusal));
                    }
                    false
                }
            };
            let following = bisection.next_part(self.size.rows()).filter(|_| refused.len() <= MAX_REJECTED);
            match (accepted, following.is_some()) {
                (true, true) => self.client.batch_execute(NEXT_SAVEPOINT).await?,
                (true, false) => self.client.batch_execute(statement::RELEASE_SAVEPOINT).await?,
                (false, true) => self.client.batch_execute(statement::ROLLBACK_TO_SAVEPOINT).await?,
                (false, false) => self.client.batch_execute(statement::UNDO_SAVEPOINT).await?,
            }
            match following {
                Some(part) => next = part,
                None => return Ok(refused),
            }
        }
    }

    async fn run(&self, step: &Step<'_>, range: Range<usize>) -> Result<(), TargetError> {
        match step {
            Step::Write(changes) => self.write(&changes[range]).await,
            Step::Interim(ids) => {
                let ids = &ids[range];
                let written = self.client.execute_typed(&interim(self.shape), &[(&ids, Type::TEXT_ARRAY)]).await?;
                TargetError::of_count(ids.len() as i64 - written as i64)
            }
        }
    }

    async fn write(&self, changes: &[&Change]) -> Result<(), TargetError> {
        let rows = plan_rows(changes.iter().copied()).rows;
        let parts = Parts {
            upserts: !rows.upserts.is_empty(),
            patches: !rows.patches.is_empty(),
            deletes: !rows.deletes.is_empty(),
            chunk: true,
            signs: false,
            notify: self.notify,
        };
        let arrays = RowParameters::of(&rows);
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = Vec::new();
        arrays.append_to(&mut parameters);
        let sql = batch_statement(self.shape, self.deletes, parts);
        TargetError::of_count(self.client.query_typed_one(&sql, &parameters).await?.try_get(3)?)
    }
}

impl Target {
    /// As [`Isolation::isolate`], in the open transaction.
    pub(crate) async fn isolate(
        &mut self,
        changes: &[&Change],
        size: &StatementSize,
        progressed: &(dyn Fn() + Sync),
    ) -> Result<Vec<RefusedUser>, TargetError> {
        let notify = self.notify_more(changes.len());
        let (shape, deletes) = (self.shape().clone(), self.deletes());
        let client = &*self.client_mut();
        Isolation { client, shape: &shape, deletes, notify, size, progressed }.isolate(changes).await
    }

    /// Writes one change, and rolls it back.
    ///
    /// # Errors
    /// Why the target does not write it.
    pub(crate) async fn try_change(&mut self, change: &Change) -> Result<(), TargetError> {
        self.client_mut().begin(NO_TRANSACTION_TIMEOUT).await?;
        let written = self.apply_chunk(&plan_rows([change]).rows).await;
        // A lost connection has no transaction any more.
        let _ = self.rollback().await;
        written.map(|_| ())
    }
}

impl Step<'_> {
    fn len(&self) -> usize {
        match self {
            Step::Write(changes) => changes.len(),
            Step::Interim(ids) => ids.len(),
        }
    }

    /// The change at this place, if the step writes changes.
    fn change(&self, at: usize) -> Option<&Change> {
        match self {
            Step::Write(changes) => changes.get(at).copied(),
            Step::Interim(_) => None,
        }
    }
}
