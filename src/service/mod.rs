//! The wiring: one session on the source, one task per tenant, and what is confirmed in between.
//!
//! `session` makes sure of the source and begins, `running` has its tasks: `stream` reads and routes, `tenant` applies, `reading`
//! takes snapshots, `confirm` writes positions down and tells the source. Whatever breaks the session ends all of its tasks;
//! the next one starts from what the slot, the state and the checkpoints say.

mod arrivals;
mod ask;
mod backoff;
mod confirm;
mod error;
mod fault;
mod lanes;
mod live;
mod plan;
mod reading;
mod resync;
mod roster;
mod running;
mod session;
mod shared;
#[cfg(test)]
mod simulation;
mod source;
mod stream;
#[cfg(feature = "kafka")]
mod tee;
mod tenant;
mod verify;
mod watch;

pub use arrivals::{Arrivals, Listener, Waiter};
pub use ask::{Asked, ask_for_resync};
pub use error::ServiceError;
pub use fault::Cause;
pub use live::{Live, Role, Sample};
pub use plan::{Plan, Prospect, plan};
pub use reading::progress::HowFar;
pub use resync::resync;
pub use session::{run, run_reloading, settled};
pub(crate) use source::publish::require_column_lists;
pub use verify::{Verdict, Verifying, verify};
