//! The fourth stage: writes one tenant's batches into its target, rows and checkpoint in one transaction.
//!
//! `assessment` and `plan` decide (pure); `target` talks to the database.

mod assessment;
mod batch;
mod batch_statements;
mod blockers;
mod checkpoint;
mod columns;
mod fence;
mod inspect;
mod isolation;
mod notify;
mod observe;
mod obstacle;
mod plan;
mod purge;
mod read_checkpoint;
mod refusal;
mod reject_reason;
mod rejected;
mod rejected_table;
mod settle;
mod shape;
pub(crate) mod statement;
mod statement_size;
mod stored_id;
mod target;
mod wait;

pub(crate) use assessment::ObservedTarget;
pub(crate) use assessment::{ParkReason, RecordedTarget, Session, TargetAssessment, assess_target};
pub(crate) use batch::{count_skipped, may_skip};
pub(crate) use checkpoint::{Authenticity, Checkpoint, NIL_TARGET_ID};
pub(crate) use fence::{DecideFencing, Fencing};
pub(crate) use inspect::{TargetFacts, inspect};
pub(crate) use isolation::{Isolation, RefusedRow};
pub(crate) use notify::{NOTIFY_WITHOUT_ID, Notify};
pub(crate) use observe::observe;
pub(crate) use obstacle::{Obstacle, obstacles, remedy_of_shape, required_columns};
pub use plan::{Move, PlannedRows, Rows, plan_rows};
pub(crate) use read_checkpoint::read_checkpoint;
pub(crate) use refusal::{Bisection, Refusal, RefusedUser};
pub(crate) use reject_reason::{MAX_REJECTED, RejectReason, too_many_refused};
pub(crate) use rejected::{RecordedUser, read_rejected_keys, write_rejected};
pub(crate) use shape::Shape;
pub(crate) use statement_size::StatementSize;
pub use target::{Applied, Identity, Target};
pub(crate) use target::{TargetError, read_shape};
pub(crate) use wait::{DROP_WAIT_FOR, create_wait_for};

#[cfg(test)]
pub(crate) use obstacle::tests;
