//! The fourth stage: one tenant's batches into its target, rows and checkpoint together or not at all.
//!
//! `standing` and `plan` decide (pure); `target` talks to the database.

mod checkpoint;
mod fence;
mod look;
mod notify;
mod plan;
mod purge;
mod refusal;
mod rejected;
mod standing;
pub mod statement;
mod target;
mod values;
mod wait;

pub use checkpoint::{Checkpoint, NIL_TARGET_ID};
pub use look::look;
pub use notify::NOTIFY_OF_MANY;
pub use plan::{Move, Rows, plan_rows};
pub use refusal::{Bisection, Refusal};
pub use rejected::{REJECTED_AT_MOST, write_rejected};
pub use standing::{Mirror, Observed, ParkReason, REPLACED, Session, TargetAssessment, assess_target};
pub use statement::{Shape, ShapeError};
pub use target::{Applied, Identity, Target, TargetError, read_checkpoint};
pub use wait::{DROP_WAIT_FOR, create_wait_for};
