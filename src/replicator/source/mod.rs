//! What a session requires of the source: the publication, the slot, an unbroken history, and the mapping of its tables.

pub(crate) mod history;
pub(crate) mod lock_watch;
pub(crate) mod mapping;
pub(crate) mod old_sessions;
pub(crate) mod own_slot;
pub(crate) mod point_read;
pub(crate) mod publication;
pub(crate) mod shape;
pub(crate) mod slot;
pub(crate) mod synchronous;
pub(crate) mod user_counts;
