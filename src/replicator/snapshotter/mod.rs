//! Reads of the source's table: one scan for all tenants that join together, and point reads of single users.

pub(crate) mod coordinator;
pub(crate) mod partition;
pub(crate) mod progress_bar;
mod scan;
