//! What the sessions of a process share.

use crate::replicator::consumer::sessions_view::PartitionSessions;
use crate::replicator::consumer::snapshot_index::SnapshotIndex;
use crate::replicator::session::apply_turns::ApplyTurns;
use crate::route::Memory;
use crate::status::process::ProcessStatus;
use crate::tee::kafka::RangeReader;
use std::sync::Arc;

/// Looks at the ends of partitions, for one session after the other.
pub(super) type EndWatch = Arc<tokio::sync::Mutex<Option<RangeReader>>>;

/// What the sessions of a process share.
pub(super) struct Shared {
    pub(super) status: Arc<ProcessStatus>,
    pub(super) index: Arc<SnapshotIndex>,
    pub(super) sessions: Arc<PartitionSessions>,
    /// `limits.memory` is that of the process, whatever the number of its partitions.
    pub(super) memory: Arc<Memory>,
    /// The processors and targets are those of the process, too.
    pub(super) turns: ApplyTurns,
    /// The number of partitions of the topic.
    pub(super) partitions: i32,
    pub(super) ends: EndWatch,
}
