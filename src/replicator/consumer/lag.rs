//! How far a partition has been applied: recorded in the state, for `status`.

use crate::config::Kafka;
use crate::model::SourceTrouble;
use crate::replicator::consumer::offsets::Boundaries;
use crate::replicator::consumer::shared::Shared;
use crate::replicator::error::ServiceError;
use crate::replicator::session::context::SessionContext;
use crate::state::PartitionPlace;
use crate::sync::lock;
use crate::tee::kafka::{Failure, PartitionEnds, PartitionStream, RangeReader, blocking};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const INTERVAL: Duration = Duration::from_secs(5);

/// Where the partition ends. Also whether everything in it is before `offset`, if that `is_wanted`. Blocks.
fn look(
    opened: &mut Option<RangeReader>,
    kafka: &Kafka,
    stream: &PartitionStream,
    offset: i64,
    is_wanted: bool,
) -> Result<(PartitionEnds, bool), Failure> {
    let reader = match opened {
        Some(reader) => reader,
        closed => closed.insert(RangeReader::new(kafka)?),
    };
    let place = (stream.topic(), stream.partition());
    let ends = reader.ends(place.0, place.1)?;
    let is_passed = is_wanted && ends.is_settled() && (offset >= ends.written || reader.is_empty(place, offset)?);
    Ok((ends, is_passed))
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
        // Waits here and not in a thread: the brokers may not answer.
        let mut opened = tokio::select! {
            opened = shared.ends.clone().lock_owned() => opened,
            () = context.drain.cancelled() => return Ok(()),
        };
        let (settings, looked_at) = (kafka.clone(), stream.clone());
        let looked = blocking(move || look(&mut opened, &settings, &looked_at, read_to, is_idle));
        let (ends, is_passed) = match looked.await {
            Ok(looked) => {
                if context.findings.clear(SourceTrouble::KafkaUnread) {
                    tracing::info!("the end of the partition can be read again");
                }
                looked
            }
            Err(failure) => {
                let code = SourceTrouble::KafkaUnread;
                if context.findings.note(code, failure.to_string()) {
                    tracing::warn!(%failure, reason_code = code.code(), "the end of the partition cannot be read, retrying");
                }
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
        let place = PartitionPlace { partitions, committed_offset, end_offset: ends.committed };
        // Only `status` needs it. What else the state refuses ends the session elsewhere.
        if let Err(error) = context.state.put_place(&place).await {
            tracing::warn!(%error, "how far the partition is cannot be recorded");
        }
    }
}
