//! Fills a batch while the one before is in flight to Kafka.

use crate::config::Topics;
use crate::model::Lsn;
use crate::replicator::error::ServiceError;
use crate::replicator::session::positions::ReportedPositions;
use crate::sync::lock;
use crate::tee::kafka::{CommitKind, Done, Job};
use crate::tee::{Batch, Encoder, Owner};
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// A batch of this many bytes is sent without waiting for more.
pub(crate) const FULL_BATCH_BYTES: usize = 8 << 20;

/// Collects messages into batches and sends them to the publisher.
pub(crate) struct KafkaBatcher {
    pub(crate) jobs: mpsc::Sender<Job>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) encoder: Arc<Encoder>,
    pub(crate) owner: Owner,
    pub(crate) batch: Batch,
    pub(crate) progress: Arc<PublishProgress>,
}

impl KafkaBatcher {
    pub(crate) fn is_full(&self) -> bool {
        self.batch.len() >= FULL_BATCH_BYTES
    }

    /// Sends the batch to the publisher once it has room. `reaches`: the position that is published with it.
    pub(crate) async fn send(&mut self, close: CommitKind, reaches: Option<Lsn>) -> Result<(), ServiceError> {
        let room = self.jobs.reserve().await.map_err(|_| ServiceError::NotPublishing)?;
        self.progress.sent(reaches);
        room.send(Job { batch: std::mem::take(&mut self.batch), topics: self.topics.clone(), close });
        Ok(())
    }

    /// Whether the publisher has room for a batch.
    pub(crate) fn has_room(&self) -> bool {
        self.jobs.capacity() > 0
    }
}

/// Positions received from the source and published to Kafka.
pub(crate) struct PublishProgress {
    done: watch::Receiver<Done>,
    /// Wakes what reports the positions.
    pub(crate) news: Arc<Notify>,
    /// Whether the failure of the last session is not overcome yet.
    pub(crate) is_failing: AtomicBool,
    state: Mutex<ProgressState>,
}

/// A job on its way to Kafka.
struct InFlight {
    /// The number of acknowledged jobs once this one is.
    job: Done,
    /// The position that it reaches.
    position: Lsn,
}

struct ProgressState {
    received: Lsn,
    published: Lsn,
    /// Number of jobs sent to the publisher.
    jobs: Done,
    /// Unacknowledged jobs that reach a position.
    in_flight: VecDeque<InFlight>,
    /// The time at which a job was sent while none was in flight.
    busy_since: Instant,
    /// Time of the last acknowledgement.
    acknowledged: Instant,
}

impl PublishProgress {
    pub(crate) fn new(done: watch::Receiver<Done>, published: Lsn, is_failing: bool) -> PublishProgress {
        let state = ProgressState {
            received: published,
            published,
            jobs: 0,
            in_flight: VecDeque::new(),
            busy_since: Instant::now(),
            acknowledged: Instant::now(),
        };
        PublishProgress {
            done,
            news: Arc::default(),
            is_failing: AtomicBool::new(is_failing),
            state: Mutex::new(state),
        }
    }

    fn sent(&self, reaches: Option<Lsn>) {
        let done = *self.done.borrow();
        let mut state = self.lock();
        if done == state.jobs {
            state.busy_since = Instant::now();
        }
        state.jobs += 1;
        let job = state.jobs;
        state.in_flight.extend(reaches.map(|position| InFlight { job, position }));
    }

    pub(crate) fn received(&self, position: Lsn) {
        let mut state = self.lock();
        state.received = state.received.max(position);
    }

    /// The received and the published position.
    pub(crate) fn positions(&self) -> ReportedPositions {
        let done = *self.done.borrow();
        let mut state = self.lock();
        while let Some(InFlight { position, .. }) = state.in_flight.pop_front_if(|sent| sent.job <= done) {
            state.published = state.published.max(position);
        }
        ReportedPositions { received: state.received.max(state.published), confirmed: state.published }
    }

    /// Records an acknowledgement.
    pub(crate) fn acknowledged(&self) {
        self.lock().acknowledged = Instant::now();
    }

    /// Waits until Kafka has acknowledged every job sent.
    pub(crate) async fn all_done(&self) -> Result<(), ServiceError> {
        let jobs = self.lock().jobs;
        let mut done = self.done.clone();
        let waited = done.wait_for(|done| *done >= jobs).await;
        waited.map(drop).map_err(|_| ServiceError::NotPublishing)
    }

    /// Time without an acknowledgement while a job is in flight. `None` if none is.
    pub(crate) fn unacknowledged_for(&self) -> Option<Duration> {
        let done = *self.done.borrow();
        let state = self.lock();
        let since = state.busy_since.max(state.acknowledged);
        (done < state.jobs).then(|| since.elapsed())
    }

    /// Changes with every acknowledged job.
    pub(crate) fn done(&self) -> watch::Receiver<Done> {
        self.done.clone()
    }

    fn lock(&self) -> MutexGuard<'_, ProgressState> {
        lock(&self.state)
    }
}
