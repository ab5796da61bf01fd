//! The second stage: a source row becomes a user of some tenant. Pure: no I/O, no clock, no tokio.
//!
//! [`Rules`] say what the configuration wants; [`RowPlan::compile`] holds them against one relation version;
//! the plan then maps tuples, one by one, to [`Change`](crate::model::Change)s.

mod rules;

pub use rules::{Rules, TimeUnit, Value};
