//! How far a partition has been applied: recorded in the state, for `status`.

use crate::config::Kafka;
use crate::replicator::consumer::offsets::Boundaries;
use crate::replicator::consumer::session::Shared;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::state::PartitionPlace;
use crate::sync::lock;
use crate::tee::kafka::{Failure, PartitionEnds, PartitionStream, RangeReader, blocking};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const INTERVAL: Duration = Duration::from_secs(5);

/// Looks at the ends of partitions, for all sessions of a process.
#[derive(Default)]
pub(super) struct EndWatch(Mutex<Option<RangeReader>>);

impl EndWatch {
    /// Where the partition ends. Also whether everything in it is before `offset`, if that `is_wanted`. Blocks.
    fn look(
        &self,
        kafka: &Kafka,
        stream: &PartitionStream,
        offset: i64,
        is_wanted: bool,
    ) -> Result<(PartitionEnds, bool), Failure> {
        let mut opened = lock(&self.0);
        let reader = match &mut *opened {
            Some(reader) => reader,
            closed => closed.insert(RangeReader::new(kafka)?),
        };
        let ends = reader.ends(stream.topic(), stream.partition())?;
        let is_passed = is_wanted
            && ends.is_settled()
            && (offset >= ends.written || reader.is_empty((stream.topic(), stream.partition()), offset)?);
        Ok((ends, is_passed))
    }
}

/// Looks at the end of the partition until the session drains. Everything that the publisher has published is in the topic, so a partition
/// that was read to its end lacks nothing up to there, even if no message of its tenants says so.
pub(super) async fn record_lag(
    context: Arc<SessionContext>,
    shared: Arc<Shared>,
    kafka: Kafka,
    stream: Arc<PartitionStream>,
    boundaries: Arc<Mutex<Boundaries>>,
) -> Result<(), ServiceError> {
    let mut timer = interval(INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut idle_at = -1;
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = context.drain.cancelled() => return Ok(()),
        }
        // Before the end of the partition is read: what it covers lies before that end.
        let published = shared.index.published(context.generation);
        let read_to = lock(&boundaries).read_to();
        // A busy partition needs no look: its messages say how far it is.
        let is_idle = std::mem::replace(&mut idle_at, read_to) == read_to;
        let (watch, settings, looked_at) = (shared.clone(), kafka.clone(), stream.clone());
        let looked = blocking(move || watch.ends.look(&settings, &looked_at, read_to, is_idle));
        let (ends, is_passed) = match looked.await {
            Ok(looked) => looked,
            Err(failure) => {
                tracing::debug!(%failure, "the end of the partition cannot be read");
                continue;
            }
        };
        let committed_offset = {
            let mut boundaries = lock(&boundaries);
            if is_passed {
                boundaries.skip(read_to, ends.committed);
                context.progress().idle(published);
            }
            boundaries.taken()
        };
        let partitions = shared.partitions;
        context.state.put_place(&PartitionPlace { partitions, committed_offset, end_offset: ends.committed }).await?;
    }
}
