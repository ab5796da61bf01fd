//! One-shot work that commands and the admin API share.

pub(crate) mod adopt;
#[cfg(feature = "kafka")]
pub(crate) mod adopt_kafka;
pub(crate) mod bring;
pub(crate) mod dry_run;
pub(crate) mod living;
pub(crate) mod pause;
pub(crate) mod rejected;
pub(crate) mod request;
pub(crate) mod resync;
pub(crate) mod retire_role;
pub(crate) mod teardown;
pub(crate) mod verify;
