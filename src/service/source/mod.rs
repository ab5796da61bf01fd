//! What a session makes sure of at the source: the publication, the slot, whose history it is, and the plans by which rows
//! are mapped.

pub(super) mod history;
pub(super) mod plans;
pub(super) mod publish;
pub(super) mod slot;
