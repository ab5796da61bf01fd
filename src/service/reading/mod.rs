//! Readings of the source's table: one pass for all who join together, and users one by one where the stream does not say
//! everything.

pub(super) mod join;
mod pass;
pub(super) mod progress;
pub(super) mod reread;
pub(super) mod sorter;
