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
use futures_util::future::{join, join_all, join3};
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

/// Items that are tried in one round trip.
const PIPELINED: usize = 30;
const BEGIN_SINGLES: &str = "SAVEPOINT users_sync_singles; SAVEPOINT users_sync";
const KEEP_SINGLES: &str = "RELEASE SAVEPOINT users_sync_singles";
const UNDO_SINGLES: &str = "ROLLBACK TO SAVEPOINT users_sync_singles; RELEASE SAVEPOINT users_sync_singles";

/// The savepoint before the part that was tried last.
#[derive(Clone, Copy)]
enum Savepoint {
    /// There is none.
    None,
    Accepted,
    Refused,
}

impl Savepoint {
    /// Sets the savepoint of the next part.
    fn next(self) -> &'static str {
        match self {
            Savepoint::None => statement::SAVEPOINT,
            Savepoint::Accepted => NEXT_SAVEPOINT,
            Savepoint::Refused => statement::ROLLBACK_TO_SAVEPOINT,
        }
    }

    /// Ends it.
    fn end(self) -> Option<&'static str> {
        match self {
            Savepoint::None => None,
            Savepoint::Accepted => Some(statement::RELEASE_SAVEPOINT),
            Savepoint::Refused => Some(statement::UNDO_SAVEPOINT),
        }
    }
}

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
        let mut savepoint = Savepoint::None;
        let mut may_pipeline = true;
        while refused.len() <= MAX_REJECTED {
            let most = if may_pipeline { PIPELINED.min(self.size.rows()) } else { 0 };
            if let Some(range) = bisection.next_singles(most) {
                let Some(done) = self.run_singles(&step, range.clone(), savepoint.next()).await? else {
                    may_pipeline = false;
                    savepoint = Savepoint::Refused;
                    bisection.again(range);
                    continue;
                };
                savepoint = Savepoint::Accepted;
                for (at, refusal) in range.zip(done) {
                    bisection.tried_single(refusal.is_some());
                    refused.extend(refusal.map(|refusal| (at, refusal)));
                }
                self.check_limit(&bisection, refused.last().map(|(_, refusal)| refusal))?;
                continue;
            }
            let Some(range) = bisection.next_part(self.size.rows()) else { break };
            self.client.batch_execute(savepoint.next()).await?;
            let done = self.run(&step, range.clone()).await;
            (self.progressed)();
            savepoint = match done {
                Ok(()) => {
                    self.size.fitted(range.len());
                    Savepoint::Accepted
                }
                // RAISE with the code of a time limit may be one, or refuse a row.
                Err(error) if range.len() > 1 && error.is_too_slow() => {
                    self.size.too_slow(range.len());
                    bisection.too_slow();
                    Savepoint::Refused
                }
                Err(error) => {
                    let refusal = self.refusal_of(error, &step, range.clone())?;
                    let refused_one = bisection.refused(range);
                    self.check_limit(&bisection, Some(&refusal))?;
                    refused.extend(refused_one.map(|at| (at, refusal)));
                    Savepoint::Refused
                }
            };
        }
        if let Some(end) = savepoint.end() {
            self.client.batch_execute(end).await?;
        }
        Ok(refused)
    }

    /// The refusal in an error of these items.
    ///
    /// # Errors
    /// It is no refusal.
    fn refusal_of(&self, error: TargetError, step: &Step<'_>, range: Range<usize>) -> Result<Refusal, TargetError> {
        if error.is_lost() {
            self.size.lost(range.len());
        }
        if let Some(refusal) = error.refusal() {
            return Ok(refusal);
        }
        if error.is_too_slow() {
            self.size.too_slow(range.len());
            step.change(range.start).inspect(|change| self.size.stuck_at(change));
        }
        Err(error)
    }

    /// Stops once more items are refused than may be. Rows that stand in each other's way may all fit in the end.
    fn check_limit(&self, bisection: &Bisection, last: Option<&Refusal>) -> Result<(), TargetError> {
        match last {
            Some(last) if bisection.exceeds() && !last.is_conflict() => {
                Err(TargetError::too_many_refused(&last.reason))
            }
            _ => Ok(()),
        }
    }

    /// Tries at most [`PIPELINED`] items one by one, in one round trip: each is followed by a new savepoint, which fails if
    /// the item was refused, and by a return to the last savepoint. `before` comes first.
    ///
    /// Returns the refusal of each item. `None` if none was tried, in effect: a trigger skipped a row, or changed its id,
    /// which is no error that would keep the savepoint from being set.
    async fn run_singles(
        &self,
        step: &Step<'_>,
        range: Range<usize>,
        before: &str,
    ) -> Result<Option<Vec<Option<Refusal>>>, TargetError> {
        let begin = format!("{before}; {BEGIN_SINGLES}");
        let singles = range.clone().map(|at| async move {
            let next = self.client.batch_execute(NEXT_SAVEPOINT);
            let back = self.client.batch_execute(statement::ROLLBACK_TO_SAVEPOINT);
            let (done, kept, undone) = join3(self.run(step, at..at + 1), next, back).await;
            if done.is_ok() {
                kept?;
                undone?;
            }
            done
        });
        // The first poll of each sends its messages; of so few futures, both functions poll them in their order.
        let (begun, singles) = join(self.client.batch_execute(&begin), join_all(singles)).await;
        (self.progressed)();
        begun?;
        let mut refusals = Vec::with_capacity(singles.len());
        let mut was_written = false;
        for (at, done) in range.zip(singles) {
            was_written |= matches!(done, Err(TargetError::Skipped(_) | TargetError::Strayed(_)));
            refusals.push(match done {
                Ok(()) => {
                    self.size.fitted(1);
                    None
                }
                Err(error) => Some(self.refusal_of(error, step, at..at + 1)?),
            });
        }
        self.client.batch_execute(if was_written { UNDO_SINGLES } else { KEEP_SINGLES }).await?;
        Ok((!was_written).then_some(refusals))
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
        let parts = Parts::of(&rows, true, false, self.notify);
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
