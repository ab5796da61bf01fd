//! A tenant's worker: opens the target, assesses its checkpoint, then joins, follows or parks, and starts over.
//!
//! [`phase`] has the phases of a worker, `worker` the loop over them; the other files do the work of one phase. The worker
//! reaches its target and the state through the traits of [`target`] and [`StateAccess`](crate::state::StateAccess), so
//! that the simulation can run it.

mod follow;
mod isolate;
mod join;
mod open;
pub(crate) mod outcome;
mod pause;
mod persist;
pub(crate) mod phase;
mod purge;
mod purge_schedule;
mod recorded_reason;
mod rejected_users;
mod reread;
mod retry_rejected;
mod sleeper;
mod sleeping;
mod slow;
pub(crate) mod target;
mod unanswered;
mod worker;

pub(crate) use sleeper::Sleeper;
pub(crate) use worker::Worker;
