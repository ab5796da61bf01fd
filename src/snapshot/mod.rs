//! A tenant's users at one exact position, for a first start, a new tenant and a resync. `export`, `catalog`
//! and `rows` read the source; `load` writes the target.

mod catalog;
mod compare;
mod copy_text;
mod export;
mod families;
mod isolate;
mod load;
mod outcome;
mod reread;
mod rows;

pub use catalog::{describe_query, generated_columns, query_item, read_relation, source_session};
pub use compare::{Comparison, DIFFERENCE_KINDS, Differences};
pub use export::{Export, hold_export};
pub use families::{ResolvedFamily, resolve_family};
pub use load::{Loading, load};
pub use outcome::{LoadError, Loaded};
pub use reread::{FindBy, Reading, RowQuery, SeenXids};
pub use rows::{RowStream, SourceReadError};
