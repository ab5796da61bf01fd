//! One session on the source: how it begins, the tasks that it consists of, and what they share.

pub(crate) mod arriving;
pub(crate) mod config_changes;
pub(crate) mod context;
pub(crate) mod positions;
pub(crate) mod prepare;
pub(crate) mod tasks;
pub(crate) mod tenant_diff;
pub(crate) mod tenants;
