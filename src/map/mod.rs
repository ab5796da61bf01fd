//! The second stage: a source row becomes a user of some tenant. Pure: no I/O, no clock, no tokio.
//!
//! [`Rules`] say what the configuration wants; [`RowPlan::compile`] holds them against one relation version;
//! the plan then maps tuples, one by one, to [`Change`](crate::model::Change)s.

mod canonical;
mod rules;
mod secret;
mod sql;

mod compile;
mod compiler;
mod filter;
mod plan;
mod touch;
mod unmappable;

mod json;
mod time;
mod value;

pub(crate) use canonical::{fingerprint, tenant_fingerprint};
pub use compiler::{CompileError, Problem};
pub use plan::{CommitInfo, RowPlan, TenantRef, WithheldReason};
pub use rules::{Filter, Query, Rules, TimeUnit, Value, Via, Watch};
pub use secret::looks_secret;
pub use sql::{KEYS_SETTING, ids_condition, is_tenant_a_text, key_columns, keys_condition, tenants_condition};
pub use time::{parse_epoch, parse_rfc3339, parse_timestamp};
pub use touch::{Touch, TouchPlan};
pub use unmappable::Unmappable;

#[cfg(test)]
mod tests;
