//! The admin API against real servers: access, answers, metrics and waiting for users.

mod access;
mod actions;
mod bed;
mod events;
#[cfg(feature = "openapi")]
mod fuzz;
mod jobs;
mod metrics;
mod overview;
mod race;
mod users;

use crate::support::http;
