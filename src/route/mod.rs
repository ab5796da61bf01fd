//! The third stage: finds the tenant of a change, and queues it for the tenant's target within a memory budget.

mod compose;
mod directory;
mod fingerprints;
mod mailbox;
mod memory;
mod queue;

#[cfg(feature = "kafka")]
pub(crate) use compose::compose;
pub(crate) use directory::{Directory, Unmapped};
pub(crate) use fingerprints::Fingerprints;
pub(crate) use mailbox::Mailbox;
pub(crate) use memory::Memory;
pub(crate) use queue::{Batch, Entry, Pushed};
