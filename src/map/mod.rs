//! The second stage: a source row becomes a user of some tenant. Pure: no I/O, no clock, no tokio.
//!
//! [`Rules`] say what the configuration wants; [`RowPlan::compile`] holds them against one relation version;
//! the plan then maps tuples, one by one, to [`Change`](crate::model::Change)s.

mod rules;
mod secret;
mod sql;

mod compile;
mod plan;
mod unmappable;

mod json;
mod time;
mod value;

pub use compile::{CompileError, Problem};
pub use plan::{Moment, RowPlan, TenantRef, Withheld};
pub use rules::{Rules, TimeUnit, Value};
pub use secret::looks_secret;
pub use sql::{id_column, id_expression, tenants_condition};
pub use time::{parse_epoch, parse_rfc3339, parse_timestamp};
pub use unmappable::Unmappable;

#[cfg(test)]
mod tests;
