//! The wiring: one session on the source, one task per tenant, and what is confirmed in between.
//!
//! `session` gets the slot and the state, `stream` reads and routes, `tenant` applies, `join` takes snapshots,
//! `confirm` writes positions down and tells the source. Whatever breaks the session ends all of its tasks; the
//! next one starts from what the slot, the state and the checkpoints say.

mod apart;
mod arrivals;
mod ask;
mod backoff;
mod confirm;
mod dispatch;
mod error;
mod fault;
mod follow;
mod halt;
mod history;
mod join;
mod lanes;
mod live;
mod pass;
mod plan;
mod plans;
mod publish;
mod purge;
mod reading;
mod record;
mod reread;
mod resolve;
mod resync;
mod room;
mod roster;
mod running;
mod session;
mod shared;
#[cfg(test)]
mod simulation;
mod sink;
mod slot;
mod sorter;
mod stream;
#[cfg(feature = "kafka")]
mod tee;
mod tenant;
mod touched;
mod verify;
mod watch;

pub use arrivals::{Arrivals, Listener, Waiter};
pub use ask::{Asked, ask_for_resync};
pub use error::ServiceError;
pub use fault::Cause;
pub use live::{Live, Role, Sample};
pub use plan::{Plan, Prospect, plan};
pub(crate) use publish::require_column_lists;
pub use reading::HowFar;
pub use resync::resync;
pub use session::{run, run_reloading, settled};
pub use verify::{Verdict, Verifying, verify};
