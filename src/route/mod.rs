//! The third stage: whose change it is, and the bounded queue in which it waits for its target.

mod compose;
mod directory;
mod fingerprints;
mod mailbox;
mod memory;
mod queue;

pub use compose::compose;
pub use directory::{Directory, Unmapped};
pub use fingerprints::Fingerprints;
pub use mailbox::Mailbox;
pub use memory::Memory;
pub use queue::{BATCH_BYTES, Batch, Entry, Pushed, Queue};
