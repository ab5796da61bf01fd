//! The second stage: a source row becomes a user of one tenant. Pure: no I/O, no clock, no tokio.
//!
//! [`Rules`] are the configured mapping. [`RowPlan::compile`] resolves them for one relation version, and the plan
//! maps its tuples to [`Change`](crate::model::Change)s. A `WatchPlan` does the same for a table that a query reads.

mod canonical;
mod column_name;
mod rules;
mod secret;
mod sql;

mod account;
mod compile;
mod compile_error;
mod identity;
mod resolver;

mod filter;
mod plan;
mod raw_json;
mod redaction;
mod row_types;
mod unmappable;
mod update;
mod watch_plan;

mod json;
mod key_text;
mod time;
mod value;

pub(crate) use account::ColumnAccount;
pub(crate) use canonical::fingerprint;
pub(crate) use column_name::optional;
pub(crate) use compile_error::CompileError;
pub(crate) use identity::identity_index;
pub(crate) use json::is_padded;
pub(crate) use key_text::may_be;
pub use plan::{CommitInfo, RowPlan, TenantRef};
pub use redaction::Redactions;
pub(crate) use redaction::{EMAIL, HashKey, NAME, Redaction};
pub(crate) use rules::KeyColumn;
pub(crate) use rules::Via;
pub use rules::{Filter, Query, Rules, TimeUnit, Value, Watch};
pub(crate) use secret::looks_secret;
pub(crate) use sql::{FAN_OUT_TENANT, Memberships, fan_out_query, query_item, query_with_all_users, users_condition};
pub(crate) use sql::{
    KEYS_SETTING, ids_condition, is_tenant_a_text, key_columns, keys_condition, tenant_expression, tenants_condition,
};
pub use time::parse_timestamp;
pub(crate) use time::{parse_epoch, parse_rfc3339};
pub(crate) use unmappable::Unmappable;
pub(crate) use watch_plan::{AffectedKey, WatchPlan};

#[cfg(test)]
mod tests;
