//! What the tasks of a session share: its context, the tenants' handles, and the positions that are safe to confirm.

pub(crate) mod alteration;
pub(crate) mod apply_turns;
pub(crate) mod config_changes;
pub(crate) mod context;
pub(crate) mod expected_joins;
pub(crate) mod positions;
pub(crate) mod row_requests;
pub(crate) mod scan_aborts;
pub(crate) mod source_watch;
pub(crate) mod status_view;
pub(crate) mod tenant_diff;
pub(crate) mod tenants;
#[cfg_attr(not(feature = "kafka"), allow(dead_code))]
pub(crate) mod topic_snapshots;
pub(crate) mod user_count;
pub(crate) mod worker_watch;
