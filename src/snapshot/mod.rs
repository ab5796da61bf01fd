//! A tenant's users at one exact position: exported, read, loaded. The first start, a new tenant and a resync all
//! take this way. Reading is at the source (`export`, `catalog`, `rows`), loading at the target (`load`).

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
pub use compare::{Comparison, Differences, KINDS};
pub use export::{Export, hold_export};
pub use families::{Settled, settle};
pub use load::{Loading, load};
pub use outcome::{LoadError, Loaded};
pub use reread::{By, Reading, Rows, Seen};
pub use rows::{RowStream, SourceReadError};
