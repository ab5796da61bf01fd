//! A tenant's users at one exact position, for a first start, a new tenant and a resync. `export`, `catalog`
//! and `rows` read the source; `spool` keeps what was read; `load` writes the target.

mod catalog;
mod compare;
mod copy_binary;
mod copy_text;
mod export;
mod families;
mod isolate;
mod kept;
mod load;
mod loading;
mod outcome;
mod progress_watch;
mod reread;
mod rows;
mod spool;
mod unstaged;

pub(crate) use catalog::{describe_query, generated_columns, read_leaves, read_relation, source_session};
#[cfg(test)]
pub(crate) use compare::DifferingUser;
pub(crate) use compare::{Comparison, DIFFERENCE_KINDS, Differences};
pub(crate) use export::{Export, hold_export};
pub(crate) use families::{ResolvedFamily, resolve_family};
pub(crate) use load::load;
pub(crate) use loading::{Adoption, Loading};
pub(crate) use outcome::{LoadError, Loaded};
pub(crate) use progress_watch::ProgressWatch;
pub(crate) use reread::{FindBy, Reading, RowQuery, SeenXids};
pub(crate) use rows::{RowStream, SourceReadError};
pub(crate) use spool::{Interruption, RowReceiver, RowSender, Spool, SpooledScan, size_in_memory, try_directory};
