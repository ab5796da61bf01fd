//! What a process shows of itself: the report of `status`, metrics, and notifications of users that were just written.

pub(crate) mod findings;
pub(crate) mod metrics;
pub mod process;
pub(crate) mod progress_handle;
pub(crate) mod report;
pub(crate) mod user_watch;
pub(crate) mod verdict;
pub(crate) mod view;
