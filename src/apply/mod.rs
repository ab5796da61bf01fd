//! The fourth stage: writes one tenant's batches into its target, rows and checkpoint in one transaction.
//!
//! `assessment` and `plan` decide (pure); `target` talks to the database.

mod assessment;
mod checkpoint;
mod fence;
mod notify;
mod observe;
mod plan;
mod purge;
mod refusal;
mod rejected;
mod shape;
pub mod statement;
mod target;
mod wait;

pub use assessment::{ObservedTarget, ParkReason, RecordedTarget, Session, TargetAssessment, assess_target};
pub use checkpoint::{Checkpoint, NIL_TARGET_ID};
pub use notify::NOTIFY_WITHOUT_ID;
pub use observe::observe;
pub use plan::{Move, Rows, plan_rows};
pub use refusal::{Bisection, Refusal};
pub use rejected::{MAX_REJECTED, write_rejected};
pub(crate) use shape::TableColumn;
pub use shape::{Shape, ShapeError};
pub use target::{Applied, Identity, Target, TargetError, read_checkpoint};
pub use wait::{DROP_WAIT_FOR, create_wait_for};
