//! The admin API and console: health, metrics, status of the tenants, their users, and jobs.
//!
//! It runs once per process beside the replication sessions, also on a standby. Responses come from memory or from the last
//! read of the state database; only those about users connect to a target.

mod access;
mod activity;
mod answer;
mod app;
mod connections;
mod console;
mod events;
mod exposition;
mod health;
mod history;
mod job_api;
mod jobs;
mod limits;
#[cfg(feature = "openapi")]
mod openapi;
mod overview;
mod paths;
mod problem;
#[cfg(feature = "openapi")]
mod refusals;
mod sampler;
mod server;
mod targets;
mod tenant_api;
mod timeline;
mod user_counts;
mod user_list;
mod users;
mod write_timeout;

pub(crate) use console::CONTENT_SECURITY_POLICY;
pub use server::Server;
pub(crate) use server::ServerError;
