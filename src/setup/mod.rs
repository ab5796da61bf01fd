//! The least privileges under which everything works, as SQL: for the source (`source`, from what `facts` saw there) and
//! for a target (`target`). Whoever runs it is the tables' owner or a superuser; the service never needs to be.

mod facts;
mod script;
mod source;
mod target;

pub(crate) use facts::gather;
pub(crate) use script::Script;
pub(crate) use source::source_script;
pub(crate) use target::target_script;
