//! A part of a reader's users, in memory or in a file. What it takes is counted until it is dropped.

use super::budget::Budget;
use super::file::{Extent, SpoolFile};
use super::interruption::Interruption;
use crate::model::User;
use std::sync::Arc;
use tokio::task::spawn_blocking;

pub(super) enum Chunk {
    /// Users that were in memory anyway.
    Given(Vec<User>),
    /// [`Budget::take_memory`] has counted `bytes`.
    Memory { users: Vec<User>, bytes: usize, budget: Arc<Budget> },
    /// [`Budget::take_disk`] has counted the extent.
    File { file: Arc<SpoolFile>, extent: Extent },
}

impl Chunk {
    /// Bytes in memory or on disk.
    pub(super) fn size(&self) -> u64 {
        match self {
            Chunk::Given(_) => 0,
            Chunk::Memory { bytes, .. } => *bytes as u64,
            Chunk::File { extent, .. } => extent.size(),
        }
    }

    /// The users. Reads them if they are in a file.
    pub(super) async fn take(mut self) -> Result<Vec<User>, Interruption> {
        let (file, extent) = match &mut self {
            Chunk::Given(users) | Chunk::Memory { users, .. } => return Ok(std::mem::take(users)),
            Chunk::File { file, extent } => (file.clone(), *extent),
        };
        let read = spawn_blocking(move || file.read(extent)).await;
        let unreadable = |error: &dyn std::fmt::Display| Interruption::Unreadable(error.to_string());
        read.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        match self {
            Chunk::Given(_) => {}
            Chunk::Memory { bytes, budget, .. } => budget.free_memory(*bytes),
            Chunk::File { file, extent } => file.release(*extent),
        }
    }
}
