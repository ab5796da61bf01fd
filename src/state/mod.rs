//! What outlives the process: schema `users_sync` in the state database, one row per slot and one per tenant, and what
//! is asked of a running process.
//!
//! Every write is conditional on the epoch: a process that another one has followed can write nothing any more.
//! Status readers use [`StateStore::read`], which changes nothing.

mod request;
mod store;
mod tables;
mod tee;

pub use request::Request;
pub use store::{Reached, StateStore};
pub use tee::TeeRow;

use crate::model::{Epoch, Generation, Lsn, Oid, Reason, TargetId, TenantId};
use crate::pg::{SqlStateClass, describe};
use std::collections::BTreeMap;
use std::time::Duration;

/// A process that has not renewed its lease for this long has lost it: it writes nothing more, and a standby ends its
/// connections and takes over.
pub const LEASE: Duration = Duration::from_secs(10);

/// What the state could not do.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The state database refused, or the connection was lost.
    #[error("{}", describe(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// The tables were made by an earlier version, and lack columns.
    #[error(
        "its tables were made by an earlier version, and this role may not alter them; run as their owner: {}",
        tables::ADD_COLUMNS
    )]
    Outdated,
    /// Another process has raised the epoch.
    #[error("another process holds slot {slot} now: this one had epoch {epoch}")]
    Fenced {
        /// Which slot.
        slot: String,
        /// The epoch that is no longer the newest.
        epoch: Epoch,
    },
}

impl StateError {
    /// Of adding what an earlier version did not have.
    fn of_upgrade(error: tokio_postgres::Error) -> StateError {
        if SqlStateClass::of_error(&error) == Some(SqlStateClass::Privilege) {
            StateError::Outdated
        } else {
            StateError::Sql(error)
        }
    }
}

/// What the state says of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceRow {
    /// The current history.
    pub generation: Generation,
    /// Of the server that the slot was made on.
    pub system_identifier: String,
    /// Its timeline then.
    pub timeline: i32,
    /// The position confirmed last.
    pub confirmed: Lsn,
    /// How far the source's log was received.
    pub received: Lsn,
    /// The tenants that do not hold all of that.
    pub behind: Vec<TenantId>,
    /// The publication as the newest process found it (`PublicationVersion::rows`); empty before the first look.
    pub publication: String,
    /// The newest process.
    pub epoch: Epoch,
    /// Who that is, for people.
    pub holder: String,
    /// For how long that process holds the slot unless it renews its lease, in seconds; below 0 it has lapsed.
    pub lease_seconds: f64,
}

impl SourceRow {
    /// Whether it may be this server that it speaks of: where a history was broken, that is not known any more.
    pub fn is_of(&self, system_identifier: &str) -> bool {
        self.system_identifier.is_empty() || self.system_identifier == system_identifier
    }

    /// Up to where a following tenant's target holds everything, at least.
    pub fn applied_by(&self, tenant: &TenantId) -> Lsn {
        match self.behind.contains(tenant) {
            true => self.confirmed,
            false => self.confirmed.max(self.received),
        }
    }

    /// Whether a process runs, or died so recently that nobody can tell.
    pub fn is_held(&self) -> bool {
        self.lease_seconds > 0.0
    }
}

/// The states of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TenantState {
    /// It takes a snapshot.
    Joining,
    /// Its target follows the stream.
    Following,
    /// It waits for its target, or for a person.
    Parked,
}

impl TenantState {
    /// The word in the state's table and in every output.
    pub fn as_str(self) -> &'static str {
        match self {
            TenantState::Joining => "joining",
            TenantState::Following => "following",
            TenantState::Parked => "parked",
        }
    }

    fn parse(text: &str) -> TenantState {
        match text {
            "joining" => TenantState::Joining,
            "following" => TenantState::Following,
            // The table's check admits no fourth word.
            _ => TenantState::Parked,
        }
    }
}

/// What the state says of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantRow {
    /// Parked, joining or following.
    pub state: TenantState,
    /// Why it is parked, joins, or is tried again: the code; `None` also where a newer version wrote it.
    pub reason_code: Option<Reason>,
    /// The same for people.
    pub reason: Option<String>,
    /// What mends that.
    pub remedy: Option<String>,
    /// Host, port and database of its target.
    pub target: String,
    /// The target's id, once given.
    pub target_id: Option<TargetId>,
    /// The history of `position`.
    pub generation: Generation,
    /// What the target held when the slot was confirmed last.
    pub position: Lsn,
    /// How long it has been in its state, in seconds.
    pub since_seconds: f64,
    /// How long ago the position was written, in seconds.
    pub position_age_seconds: f64,
    /// The file of `users_sync` in its target, as it was when the state was written.
    pub relation: Option<Oid>,
    /// Users that its target refuses: they are in `users_sync.rejected` there.
    pub rejected: u64,
}

/// Everything that the state says of one slot.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the source, where a process has ever held the slot.
    pub source: Option<SourceRow>,
    /// Of its tenants.
    pub tenants: BTreeMap<TenantId, TenantRow>,
    /// The epochs of this slot's processes, and how far the source's log went when each of them began.
    pub epochs: BTreeMap<Epoch, Lsn>,
    /// Of the tee, where there has been one.
    pub tee: Option<TeeRow>,
}
