//! What `init` finds out about a source, and the configuration that it writes from that.
//!
//! `stores` recognises an auth store by its tables, `tables` looks for a table of users where there is none, `tenants` reads
//! which tenants have users, `slot` chooses the slot's name, and `file` is the text (pure).

mod file;
mod slot;
mod stores;
mod tables;
mod tenants;

pub(crate) use file::{Proposal, ProposedTenant, Users, variable_for};
pub(crate) use slot::free_slot;
pub(crate) use stores::{Store, recognize};
pub(crate) use tables::{UsersTable, find_tables};
pub(crate) use tenants::{Keys, read_keys};
