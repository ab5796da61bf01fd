//! One-shot work that commands and the admin API share.

pub mod dry_run;
pub mod resync;
pub mod resync_request;
pub mod verify;
