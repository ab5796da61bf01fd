//! The process over HTTP, against real servers: who may ask, what is answered, what is counted, and who is woken.

#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod bed;
mod http;
mod metrics;
mod overview;
mod users;
