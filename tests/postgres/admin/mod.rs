//! The process over HTTP, against real servers: who may ask, what is answered, what is counted, and who is woken.

mod access;
mod bed;
mod events;
mod fuzz;
mod http;
mod jobs;
mod metrics;
mod overview;
mod race;
mod users;
