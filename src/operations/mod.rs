//! One-shot work that commands and the admin API share.

pub(crate) mod adopt;
pub(crate) mod dry_run;
pub(crate) mod resync;
pub(crate) mod resync_request;
pub(crate) mod verify;
