//! The least privileges that users-sync needs, as SQL for the source (`source`, from `facts` about it) and for a target
//! (`target`). The SQL is run by the tables' owner or a superuser; the service never needs to be either.

mod facts;
mod identity;
mod script;
mod source;
mod state;
mod target;
mod target_facts;

pub(crate) use facts::gather;
pub(crate) use identity::identity_statements;
pub(crate) use script::{PasswordForm, Script, Statement};
pub(crate) use source::source_script;
pub(crate) use state::{StateFacts, gather_state, state_script};
pub(crate) use target::target_script;
pub(crate) use target_facts::{TargetFacts, gather_target};
