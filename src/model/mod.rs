//! The types that every stage shares: positions, ids, times, relations, users, changes and reasons. Plain
//! data and its invariants. Imports no other module of this crate. Pure.

mod change;
mod checkpoint_key;
mod extra_rows;
mod history;
mod ids;
mod left_out;
mod lsn;
mod made;
mod reason;
mod relation;
mod tenant_list;
mod text;
mod time;
mod user_counts;

pub use change::{Change, Deletes, Patch, Set, User};
pub(crate) use checkpoint_key::CHECKPOINT_KEY_BYTES;
pub use checkpoint_key::CheckpointKey;
pub use extra_rows::ExtraRows;
pub use history::Anchor;
pub(crate) use history::ReceivedHistory;
pub use ids::{Epoch, Generation, Oid, TargetId, TenantId, TenantKey, Xid};
pub(crate) use ids::{IdHash, UserId};
pub use left_out::WhyLeftOut;
pub use lsn::Lsn;
pub use made::{Made, MadeKind};
pub(crate) use reason::Code;
pub use reason::{
    CheckFinding, CommandFault, HistoryBreak, ParkCause, Reason, RestartSignal, ResyncReason, RetryCause, SlotLoss,
    SourceTrouble, StatusFinding, TeeRestart, TopicTrouble,
};
pub(crate) use relation::UNATTRIBUTABLE;
pub use relation::{Cell, Column, LeafIdentity, Relation, ReplicaIdentity, TableName, TypeCatalog};
pub(crate) use relation::{ColumnIdx, CompositeField, TypeKind};
pub use tenant_list::{ByConfigured, ByTenant, ConfiguredIdx, TenantIdx};
pub(crate) use text::{clip, hex, printable, printable_line, push_string, shell_word, variable_word};
pub use time::Timestamp;
pub(crate) use user_counts::{ExistingKeys, LISTED_KEYS, SHOWN_KEY, describe_keys};
pub use user_counts::{KeyCount, NearestKey, UnusedKey, UserCount, UserCounts};
