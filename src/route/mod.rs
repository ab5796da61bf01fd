//! The third stage: finds the tenant of a change, and queues it for the tenant's target within a memory budget.

mod compose;
mod directory;
mod fingerprints;
mod mailbox;
mod memory;
mod queue;

pub use compose::compose;
pub use directory::{Directory, Unmapped};
pub use fingerprints::Fingerprints;
pub use mailbox::{Mailbox, Waiting};
pub use memory::Memory;
pub use queue::{BATCH_BYTES, Batch, Entry, Pushed, Queue};
