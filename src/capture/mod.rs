//! The first stage: the source's changes, read through a logical replication slot.

pub mod pgoutput;
