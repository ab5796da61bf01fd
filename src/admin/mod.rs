//! The process over HTTP: whether it lives, what it counts, how its tenants are, and what may be asked of it.
//!
//! Started once per process, beside the sessions: a standby is shown, too. Everything is answered from memory, or from what
//! the state said a moment ago; only `users` looks into a target.

mod access;
mod answer;
mod app;
mod console;
mod events;
mod exposition;
mod health;
mod history;
mod job_api;
mod jobs;
#[cfg(feature = "openapi")]
mod openapi;
mod overview;
mod paths;
#[cfg(feature = "openapi")]
mod refusals;
mod sampler;
mod server;
mod targets;
mod users;

pub use server::{Server, ServerError};
